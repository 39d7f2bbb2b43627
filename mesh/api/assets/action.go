package assets

import "context"

// Holder is what an agent's Backend has too: it lets the agents of its site do something about an asset. Errors: of what is not there.
type Holder interface {
	AssetAction(ctx context.Context, site, asset string, q ActionRequest) (*ActionResult, error)
}

// ActionRequest asks the agents of a site to do something about an asset.
type ActionRequest struct {
	Action string `json:"action" enum:"prefetch,verify,evict" doc:"prefetch: fetch it now, in quiet hours too; verify: read and hash it; evict: give up copies that nothing needs"`
	DryRun bool   `json:"dryRun,omitempty"`
}

// ActionInput is a request for one, as it comes.
type ActionInput struct {
	Site  string `path:"site" maxLength:"63"`
	Asset string `path:"asset" maxLength:"63"`
	Body  ActionRequest
}

// ActionResult is what each agent of the site said.
type ActionResult struct {
	Agents map[string]string `json:"agents"` // by agent; beginning with "unknown: " of who is not heard
}
