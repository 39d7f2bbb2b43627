package explain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/freshness"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// Machines explains machines.
type Machines struct {
	Site    *effective.Site
	Control *reconcile.Controller
	Fresh   *freshness.Keeper
	// Overrides lists the local changes that are not settled, or were lately.
	Overrides func() []intent.OverrideReport
}

// Explain implements its part of api.Backend: the chain behind a machine's state, from the journal and the active intent.
func (m Machines) Explain(_ context.Context, siteID, machine string) (*api.Explanation, error) {
	v, ok := m.Control.View(machine)
	if siteID != m.Site.ID() || !ok {
		return nil, api.ErrNotFound
	}
	st := v.Status
	x := &api.Explanation{Machine: machine, Site: siteID, Status: &st, Head: m.Site.State().Head, Events: []intent.Event{}}
	err := m.Site.Journal.Events(nil, func(e intent.Event) error {
		if e.Machine == machine {
			x.Events = append(x.Events, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, s := range []api.ExplainSection{
		m.identity(v), packets(x.Events), m.wish(v), m.permission(v), bytesOf(v), firmwareOf(v), times(x.Events),
	} {
		if len(s.Facts) > 0 {
			x.Sections = append(x.Sections, s)
		}
	}
	return x, nil
}

func fact(name, format string, args ...any) api.ExplainFact {
	return api.ExplainFact{Name: name, Value: fmt.Sprintf(format, args...)}
}

func (m Machines) identity(v reconcile.MachineView) api.ExplainSection {
	s := api.ExplainSection{Title: "identity"}
	mac, _ := intent.ParseMAC(v.Spec.BootNIC().MAC)
	s.Facts = append(s.Facts, fact("declared", "MAC %s, serial %q, UUID %s, rack %s", mac, v.Spec.Serial, v.Spec.UUID, v.Spec.Rack))
	if f := v.Accepted; f != nil {
		s.Facts = append(s.Facts, fact("accepted", "serial %q, UUID %s, %s %s, %d cpu, %d MiB, %s, seen %s", f.Serial, f.UUID, f.Vendor, f.Product, f.CPUs, f.MemoryMiB, f.Firmware, f.Time.Format(time.RFC3339)))
		for _, d := range f.Disks {
			s.Facts = append(s.Facts, fact("disk", "serial %q, WWN %q, %d octets, %s", d.Serial, d.WWN, d.SizeBytes, d.Media))
		}
	}
	if v.Session != nil {
		s.Facts = append(s.Facts, fact("hello", "to %s at %s, serial %q", v.Session.Agent, v.Session.Since.Format(time.RFC3339), v.Session.Serial))
	}
	if v.Evidence != nil {
		s.Facts = append(s.Facts, fact("evidence", "%s", v.Evidence.What))
	}
	return s
}

func packets(events []intent.Event) api.ExplainSection {
	s := api.ExplainSection{Title: "packets"}
	for _, e := range events {
		if e.Type == "machine.boot.dhcp" || e.Type == "machine.boot.loader" || e.Type == "machine.boot.script" {
			text := e.Message
			if f := e.Fields["file"]; f != "" {
				text += ", file " + f
			}
			if d := e.Fields["decision"]; d != "" {
				text += ", decision " + d
			}
			s.Facts = append(s.Facts, fact(e.Time.UTC().Format("15:04:05.000")+" "+e.Agent, "%s", text))
		}
	}
	return s
}

func (m Machines) wish(v reconcile.MachineView) api.ExplainSection {
	s := api.ExplainSection{Title: "intent"}
	h := m.Site.State().Head
	s.Facts = append(s.Facts, fact("active head", "%d.%d %s", h.Epoch, h.Seq, h.Hash))
	if bd := v.Binding; bd != nil {
		s.Facts = append(s.Facts, fact("binding", "instance %s of %s/%s/%d, generation %d, because of %s", bd.Instance, bd.Project, bd.Array, bd.Index, bd.Generation, bd.Cause),
			fact("image", "%s, %s", bd.Image, bd.Digest))
		if bd.Released {
			s.Facts = append(s.Facts, fact("released", "yes"))
		}
	}
	for _, o := range m.Overrides() {
		if v.Binding != nil && strings.Contains(v.Binding.Cause, o.ID) {
			s.Facts = append(s.Facts, fact("override", "%s: %s %s by %s at %s, %s", o.ID, o.Op, o.Object, o.Author, o.Time.Format(time.RFC3339), o.State))
		}
	}
	return s
}

func (m Machines) permission(v reconcile.MachineView) api.ExplainSection {
	s := api.ExplainSection{Title: "permission", Facts: m.Fresh.Explain(v.Name)}
	env, ok := claim.Load[intent.Envelope](m.Site.Journal, reconcile.KindPermission, v.Name)
	var p intent.Permission
	if !ok || json.Unmarshal(env.Payload, &p) != nil {
		return s
	}
	s.Facts = append(s.Facts,
		fact("id", "%s", p.ID), fact("act", "%s on machine %s, serial %q, UUID %s", p.Act, p.Machine, p.Serial, p.UUID),
		fact("generation", "%d under claim epoch %s", p.Generation, p.Claim), fact("cause", "%s, fresh by %s", p.Cause, p.Fresh),
		fact("signed by", "%s at %s, key %s", p.Agent, p.Time.Format(time.RFC3339), env.Signatures[0].KeyID[:12]), fact("digest", "%s", env.Digest()))
	for _, d := range p.Disks {
		s.Facts = append(s.Facts, fact("disk", "serial %q, WWN %q, %d octets", d.Serial, d.WWN, d.SizeBytes))
	}
	return s
}

func bytesOf(v reconcile.MachineView) api.ExplainSection {
	s := api.ExplainSection{Title: "bytes and sources"}
	if v.Done == nil {
		return s
	}
	s.Facts = append(s.Facts, fact("result", "ok %v %s", v.Done.OK, v.Done.Reason))
	var names []string
	for k := range v.Done.Facts {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		s.Facts = append(s.Facts, fact(k, "%s", v.Done.Facts[k]))
	}
	return s
}

// firmwareOf says what the last release left of the machine's firmware.
func firmwareOf(v reconcile.MachineView) api.ExplainSection {
	s := api.ExplainSection{Title: "firmware"}
	r := v.Firmware
	if r == nil {
		return s
	}
	s.Facts = append(s.Facts, fact("release", "of generation %d", r.Generation), fact("BIOS settings", "%s", r.BIOSText()))
	if text := r.ControllerText(); text != "" {
		s.Facts = append(s.Facts, fact("BMC settings", "%s", text))
	}
	if text := r.AccountsText(); text != "" {
		s.Facts = append(s.Facts, fact("controller", "%s", text))
	}
	return s
}

// times lists how long each part of the walk took, from one state to the next.
func times(events []intent.Event) api.ExplainSection {
	s := api.ExplainSection{Title: "times"}
	var last intent.Event
	for _, e := range events {
		if !milestone(e.Type) {
			continue
		}
		if !last.Time.IsZero() {
			s.Facts = append(s.Facts, fact(last.Type+" to "+e.Type, "%.1f s", e.Time.Sub(last.Time).Seconds()))
		}
		last = e
	}
	return s
}

func milestone(kind string) bool {
	switch kind {
	case "machine.power.asked", "machine.boot.script", "machine.boot.hello", "machine.available", "machine.allocated", "machine.installing",
		"permit.granted", "image.written", "machine.boot.reboot", "machine.boot.phonehome", "machine.running":
		return true
	}
	return false
}
