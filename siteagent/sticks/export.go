package sticks

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/intake"
)

// Desk is an agent's. All fields are set before use, but for Take: that needs Site, Domain and In.
type Desk struct {
	Site, Self, Domain string
	In                 *intake.Desk
	Journal            *claim.Journal
	Sign               func() ed25519.PrivateKey
	// What goes up: how the site is, its changes that nobody settled, spares that came in, quarantine orders, audit chains.
	Report     func() intent.Report
	Overrides  func() []*intent.Envelope
	Admissions func() []*intent.Envelope
	Orders     func() []*intent.Envelope
	Audit      func(ctx context.Context, put func(intent.AuditBundle) error) error
	// Note keeps an audit record.
	Note func(ctx context.Context, r intent.AuditRecord) error
	// What IntentStatus shows beside the replica: the coordinator's heads as heard last, its session, the peers.
	Above   func() api.StreamHeads
	Uplink  func() uplink.Status
	Members func() []gossip.Member
	Floor   *trust.Floor
	Beacon  func() string
}

// Bounds of one signed batch of events.
const (
	eventBatch  = 256
	eventOctets = 400 << 10
)

// ExportStick implements api.Documents: what the site has to bring up.
func (d *Desk) ExportStick(ctx context.Context, w io.Writer, q api.StickQuery) error {
	if q.Site != d.Site {
		return api.ErrNotFound
	}
	h := stick.Header{Way: stick.Up, Domain: d.Domain, Site: d.Site, By: d.Self, Made: time.Now().UTC().Truncate(time.Second)}
	report, err := d.sign(stick.PayloadReport, d.Report())
	if errors.Is(err, document.ErrSize) {
		h.Without = append(h.Without, "report")
	} else if err != nil {
		return err
	}
	if !q.Audit {
		h.Without = append(h.Without, "audit")
	}
	out, err := stick.NewWriter(w, h)
	if err != nil {
		return err
	}
	if report != nil {
		err = out.Put(&stick.Line{Report: report})
	}
	for _, env := range d.Admissions() { // first: an agent that came in may have signed what follows
		err = errors.Join(err, out.Put(&stick.Line{Admission: env}))
	}
	for _, env := range d.Orders() {
		err = errors.Join(err, out.Put(&stick.Line{Quarantine: env}))
	}
	for _, env := range d.Overrides() {
		err = errors.Join(err, out.Put(&stick.Line{Override: env}))
	}
	if err != nil {
		return err
	}
	if q.Audit {
		if err := d.Audit(ctx, func(b intent.AuditBundle) error { return out.Put(&stick.Line{Audit: &b}) }); err != nil {
			return err
		}
	}
	if err := d.events(ctx, out); err != nil {
		return err
	}
	return out.End()
}

func (d *Desk) sign(payloadType string, v any) (*intent.Envelope, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", payloadType, err)
	}
	return document.Sign(payloadType, payload, d.Sign())
}

// events writes what the journals say that happened, agent by agent, in batches.
func (d *Desk) events(ctx context.Context, out *stick.Writer) error {
	batch, size := stick.Events{Site: d.Site, Agent: d.Self}, 0
	flush := func() error {
		if len(batch.Events) == 0 {
			return nil
		}
		env, err := d.sign(stick.PayloadEvents, batch)
		if err != nil {
			return err
		}
		batch.Events, size = nil, 0
		return out.Put(&stick.Line{Events: env})
	}
	for agent := range d.Journal.Heads() {
		for from := uint64(1); ; {
			p, err := d.Journal.Range(agent, from, claim.MaxPull)
			if err != nil {
				return err
			}
			if len(p.Records) == 0 || ctx.Err() != nil {
				break
			}
			from = p.Records[len(p.Records)-1].Seq + 1
			for _, r := range p.Records {
				e := intent.Event{}
				if r.Kind != claim.KindEvent || json.Unmarshal(r.Body, &e) != nil {
					continue
				}
				if len(batch.Events) == eventBatch || size+len(r.Body) > eventOctets {
					if err := flush(); err != nil {
						return err
					}
				}
				e.Time, e.Site, e.Agent, e.Seq = r.Time, d.Site, r.Agent, r.Seq
				batch.Events, size = append(batch.Events, e), size+len(r.Body)
			}
		}
	}
	return errors.Join(ctx.Err(), flush())
}

var _ api.Documents = (*Desk)(nil)
