package holdings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/origins"
)

const (
	// maxReport bounds what a peer says it has: 20,000 assets, as many as a store has files for.
	maxReport = 8 << 20
	maxAssets = 20_000
	// askLimit is how long a peer on the LAN may take to say what it has.
	askLimit = 2 * time.Second
)

// Report is what an agent says of its assets.
type Report struct {
	Agent  string  `json:"agent"`
	Assets []Asset `json:"assets"`
	Disk   Disk    `json:"disk"`
}

// Asset is one asset that is wholly or partly there.
type Asset struct {
	Digest   intent.Digest `json:"digest"`
	Size     uint64        `json:"sizeBytes"`
	Octets   uint64        `json:"heldBytes"`
	Chunks   int           `json:"chunks"`
	Have     int           `json:"heldChunks"`
	Complete bool          `json:"complete"`
	Pins     []Pin         `json:"pins,omitempty"` // empty: no intent wants it
	LastUsed time.Time     `json:"lastUsed"`
	// From is how many octets came over wires from where since the agent started, by tier: peer, site, origin. Over the WAN they are
	// compressed; holes are never sent, and the rest was on its disk.
	From    map[string]uint64 `json:"from,omitempty"`
	Checked *Check            `json:"checked,omitempty"` // the last Verify since the agent started
	// URLs are those that were refused last, at most intent.MaxSources.
	URLs []origins.State `json:"urls,omitempty"`
}

// Keeps tells whether the agent holds on to it, as opposed to a copy that may go.
func (a Asset) Keeps() bool { return len(a.Pins) > 0 && a.Pins[0] != Surplus }

// Disk is where the assets lie.
type Disk struct {
	Free    uint64 `json:"freeBytes"`
	Total   uint64 `json:"totalBytes"`
	Reserve uint64 `json:"reserveBytes"` // what assets leave free
	// Refused lists assets that are kept here and do not fit (disk_overcommitted).
	Refused []intent.Digest `json:"refused,omitempty"`
	Suspect bool            `json:"suspect,omitempty"` // two chunks went bad within a day (disk_suspect)
}

func (r *Report) of(d intent.Digest) (Asset, bool) {
	for _, a := range r.Assets {
		if a.Digest == d {
			return a, true
		}
	}
	return Asset{}, false
}

// parseReport reads an answer of agent. Errors: too much, not JSON, of somebody else, or numbers that cannot be.
func parseReport(b []byte, agent string) (*Report, error) {
	if len(b) > maxReport {
		return nil, fmt.Errorf("cannot use report of %s: more than %d octets", agent, maxReport)
	}
	r := &Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("cannot use report of %s: %w", agent, err)
	}
	if r.Agent != agent || len(r.Assets) > maxAssets || len(r.Disk.Refused) > maxAssets {
		return nil, fmt.Errorf("cannot use report of %s: it is of %.64q, %d assets", agent, r.Agent, len(r.Assets))
	}
	for _, a := range r.Assets {
		if a.Octets > a.Size || a.Have < 0 || a.Have > a.Chunks || a.Size > intent.MaxAssetSize || a.Complete && (a.Have != a.Chunks || a.Octets != a.Size) || len(a.URLs) > intent.MaxSources {
			return nil, fmt.Errorf("cannot use report of %s: %s has %d of %d octets, %d of %d chunks", agent, a.Digest.Short(), a.Octets, a.Size, a.Have, a.Chunks)
		}
		for i := range a.URLs {
			a.URLs[i] = a.URLs[i].Clip()
		}
	}
	return r, nil
}

// Ask asks an agent what it has. Errors: no answer within 2 s, or one that cannot be.
func Ask(ctx context.Context, rt http.RoundTripper, agent string) (r *Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	body, err := get(ctx, rt, agent, "/m/1/assets/held", "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(body, maxReport+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read report of %s: %w", agent, err)
	}
	return parseReport(b, agent)
}

// get asks an agent for a path; span is what the header Range says, empty for all. The caller closes what it returns.
func get(ctx context.Context, rt http.RoundTripper, agent, path, span string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agent+path, nil)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if span != "" {
		req.Header.Set("Range", span)
		want = http.StatusPartialContent
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", agent, err)
	}
	if res.StatusCode != want {
		return nil, errors.Join(fmt.Errorf("cannot get %s from %s: %s", path, agent, res.Status), res.Body.Close())
	}
	return res.Body, nil
}
