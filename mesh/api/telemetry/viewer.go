package telemetry

import (
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// BadQuery is a query that does not fit; the text says what does.
type BadQuery struct{ What string }

// Error returns what does not fit.
func (b *BadQuery) Error() string { return b.What }

// Viewer is who asks, after authorisation.
type Viewer struct {
	Site     string
	Now      time.Time
	All      bool     // everything of the site, also what is nobody's, and switches
	Projects []string // else of these; never nil
	// Again says what it is now, for answers that go on; an error ends them. nil: it stays as it is.
	Again func() (Viewer, error)
}

// NewViewer says what of a site's measurements somebody may see: who may see its switches sees all of it, a user its own projects.
func NewViewer(c *intent.Catalog, site string, now time.Time, may func(rights.Request) bool) Viewer {
	v := Viewer{Site: site, Now: now, Projects: []string{}, All: may(rights.Request{Verb: intent.VerbRead, Kind: intent.KindSwitch, Site: site})}
	for _, p := range c.List(intent.KindProject) {
		if n := p.Metadata.Name; may(rights.Request{Verb: intent.VerbRead, Kind: intent.KindNetwork, Project: n, Site: site}) {
			v.Projects = append(v.Projects, n)
		}
	}
	return v
}

// sees returns which of the projects that were asked for, nil for all, somebody with projects of its own may see; never nil.
func (v Viewer) sees(asked []string) []string {
	return slices.DeleteFunc(slices.Clone(v.Projects), func(p string) bool { return asked != nil && !slices.Contains(asked, p) })
}
