package siteagent

import (
	"net/http"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/catchup"
	"github.com/skerry-metal/skerry/siteagent/keys"
)

// newWorker wires what changes the agent's own keys.
func (a *Agent) newWorker() *keys.Worker {
	return keys.New(keys.Config{
		Own: a.keys, Site: a.id.Site, Self: a.id.Agent, Replica: a.replica, Ring: a.ring, Behind: a.behind, Busy: a.installing,
		Renew: a.end.Renew, RenewUplink: func() { a.uplink.Renew() }, Opens: a.members.OpensWith, Event: a.journalEvent, Log: a.cfg.Logger,
		Above: func() (http.RoundTripper, bool) { return a.uplink.RoundTripper(), a.uplink.Status().Up },
	})
}

// wireCatchup makes what brings this agent, and others of the site, back after a long absence.
func (a *Agent) wireCatchup() {
	a.back = catchup.New(catchup.Config{
		Site: a.id.Site, Self: a.id.Agent, Replica: a.replica, In: a.desk, Dial: a.cfg.Network, Hears: a.sees, Soon: func() { a.uplink.Soon() }, Event: a.journalEvent, Log: a.cfg.Logger,
		About: a.members.About, Replacing: a.members.Replacing, Told: a.members.Told,
		Keys: func() *seal.Keys { return a.keys.All()[0] }, Above: func() []uplink.Target {
			if a.uplink.Status().Up {
				return nil
			}
			return a.targets()
		},
	})
	a.end.HandleJoin(a.back.Serve)
}

// behind lists the peers that are alive and have not heard of the chain up to seq, and those of which gossip has not heard yet.
func (a *Agent) behind(seq uint64) (late, unknown []string) {
	seen := map[string]bool{a.id.Agent: true}
	for _, m := range a.gossip.Members() {
		if seen[m.ID] {
			continue
		}
		seen[m.ID] = true
		if m.Alive && m.Tags.Intent.Seq < seq {
			late = append(late, m.ID)
		}
	}
	for _, p := range a.replica.State().Roster.Agents {
		if !seen[p.ID] {
			unknown = append(unknown, p.ID)
		}
	}
	return late, unknown
}

// installing tells whether a machine is in its ramdisk, or may boot into it: it knows the agents by their keys.
func (a *Agent) installing() bool {
	for _, v := range a.site.Views() {
		if v.Status.State == intent.StateInstalling || v.Status.State == intent.StateErasing || v.Open() {
			return true
		}
	}
	return false
}
