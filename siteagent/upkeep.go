package siteagent

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/holds"
	"github.com/skerry-metal/skerry/siteagent/intake"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/siteagent/wan"
	"github.com/skerry-metal/skerry/storage/blob"
)

// wireUpkeep names who can put which buckets of the store right, and where from.
func (a *Agent) wireUpkeep() {
	journal, promises := claim.Buckets()
	a.upkeep = upkeep.New(upkeep.Config{
		DB: a.db, Ballast: filepath.Join(a.cfg.Data, upkeep.BallastFile), Octets: a.cfg.Ballast, Log: a.cfg.Logger,
		Parts: []upkeep.Part{
			{Name: "signed state", Buckets: replica.Buckets(), Repair: func(ctx context.Context) error { return a.replica.Repair(ctx, a.sources()) }},
			{Name: "journal", Buckets: journal, Repair: a.journal.Repair},
			{Name: "promises", Buckets: promises, Repair: a.claims.Repair},
			{Name: "assets", Buckets: []string{blob.Bucket}, Repair: func(context.Context) error { return a.blobs.Repair() }},
			{Name: "what was taken over the WAN", Buckets: []string{wan.Bucket}, Repair: a.line.Repair},
			{Name: "how long what is held has waited", Buckets: []string{holds.Bucket}, Repair: a.holds.Repair},
		},
		Roomy: a.again, Sound: a.replica.SaveMarks,
		Event: func(kind, message string, fields map[string]string) error {
			return a.journal.Append(context.Background(), claim.Local, reconcile.Event("", "", intent.Epoch{}, kind, message, fields))
		},
	})
}

// sources are the peers that live, then the coordinator.
func (a *Agent) sources() replica.Sources {
	var all []upkeep.Source
	for _, p := range a.mesh.Live() {
		all = append(all, upkeep.Source{
			Name: p, RT: a.end.RoundTripper(transport.Peer{Site: a.id.Site, ID: p}), Intent: "http://" + p + "/m/1/intent", Revocations: "http://" + p + "/m/1/revocations",
		})
	}
	if a.uplink.Status().Up {
		all = append(all, upkeep.Source{
			Name: "coordinator", RT: a.uplink.RoundTripper(), Intent: "http://coordinator/v1/sites/" + a.id.Site + "/intent", Revocations: "http://coordinator/u/1/revocations",
		})
	}
	fetch := func(ctx context.Context, rt http.RoundTripper, url string, fn func(*intent.Envelope) error) error {
		return uplink.Envelopes(ctx, rt, url, func(env *intent.Envelope, _ int) error { return fn(env) })
	}
	return a.upkeep.Sources(all, fetch, func(ctx context.Context) []*intent.Envelope {
		more, err := intake.FetchTrust(ctx, a.uplink.RoundTripper(), "http://coordinator/u/1/trust?from=1")
		if err != nil {
			a.cfg.Logger.Debug("trust not fetched", "err", err)
		}
		return append(a.id.Trust[:len(a.id.Trust):len(a.id.Trust)], more...)
	})
}

// again asks for what a full disk refused: nobody sends it a second time by himself.
func (a *Agent) again(ctx context.Context) {
	if err := a.replica.Retry(); err != nil {
		a.cfg.Logger.Warn("intent not active", "err", err)
	}
	if !a.uplink.Status().Up {
		return // peers are asked every 15 s
	}
	if _, err := a.desk.PullOnce(ctx, a.uplink.RoundTripper(), "http://coordinator/v1/sites/"+a.id.Site+"/intent"); err != nil {
		a.cfg.Logger.Warn("intent not pulled", "err", err)
	}
}

// storeWord says in a few words how state and assets are.
func (a *Agent) storeWord() string {
	if w := a.assets.Word(); w != "" {
		return a.upkeep.Word() + ", " + w
	}
	return a.upkeep.Word()
}
