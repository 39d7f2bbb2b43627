package streams

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// StreamHeads are the heads of the three streams.
type StreamHeads struct {
	Trust      intent.Head `json:"trust"`
	Revocation intent.Head `json:"revocation"`
	Intent     intent.Head `json:"intent"` // received and verified
	Active     intent.Head `json:"active"` // in force
}

// IntentStatus is how far the signed streams are, here and at every agent.
type IntentStatus struct {
	At    time.Time      `json:"at"` // by the clock of who answers
	By    string         `json:"by"` // coordinator or SITE/AGENT that answers
	Sites []SiteDocument `json:"sites"`
}

// Wrong tells whether something needs a person.
func (s *IntentStatus) Wrong() bool {
	for _, site := range s.Sites {
		if site.Out != "" {
			return true
		}
		for _, a := range site.Agents {
			if a.Rejected != "" || a.Forks > 0 {
				return true
			}
		}
	}
	return false
}

// SiteDocument is one site's streams.
type SiteDocument struct {
	Site   string          `json:"site"`
	Heads  StreamHeads     `json:"heads"`            // at the coordinator; at an agent: as it heard last
	Heard  *time.Time      `json:"heard"`            // at an agent: when
	Beacon string          `json:"beacon,omitempty"` // at an agent: how old the coordinator's word is, on which dangerous acts hang
	Out    string          `json:"out,omitempty"`    // what is to be done about the whole site
	Agents []AgentDocument `json:"agents"`
}

// AgentDocument is one agent's streams, as old as its contact.
type AgentDocument struct {
	ID       string      `json:"id"`
	Heads    StreamHeads `json:"heads"`
	Contact  *time.Time  `json:"contact"` // when it said so; none: never
	Rejected string      `json:"rejected,omitempty"`
	Forks    int         `json:"forks,omitempty"` // documents that it holds as evidence
	Out      string      `json:"out,omitempty"`   // the way out, in words
}

// Advise fills in the way out of one agent.
func (d *AgentDocument) Advise(site string, above StreamHeads) {
	switch {
	case d.Forks > 0:
		d.Out = "somebody else signs with our keys: `skerry pki status`, then a new writer or new roots; it keeps what it had before the fork"
	case d.Rejected != "":
		d.Out = "it keeps the last good state; correct the object above and the next entry lets all be tried again, or update the agent"
	case d.Contact == nil:
		d.Out = "it was never heard: is it started, and does it reach the coordinator?"
	case above.Intent.Compare(d.Heads.Intent) > 0 || above.Trust.Compare(d.Heads.Trust) > 0 || above.Revocation.Compare(d.Heads.Revocation) > 0:
		d.Out = "it is behind: wait for its line, or carry `skerry intent export " + site + "` there"
	case above.Intent.Seq > 0 && d.Heads.Intent.Compare(above.Intent) > 0:
		d.Out = "it is ahead of what is known here: `skerry site status " + site + "` says whether the site is held"
	}
}
