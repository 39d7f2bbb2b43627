package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

// up writes a stick as agent a1 of lon1 does.
func (s *scene) up(change func(*stick.Header), ls ...*stick.Line) []byte {
	s.Helper()
	h := stick.Header{Way: stick.Up, Domain: "edge.example", Site: "lon1", By: "a1", Made: time.Unix(0, 0).UTC()}
	if change != nil {
		change(&h)
	}
	var b bytes.Buffer
	w, err := stick.NewWriter(&b, h)
	for _, l := range ls {
		err = errors.Join(err, w.Put(l))
	}
	if err := errors.Join(err, w.End()); err != nil {
		s.Fatal(err)
	}
	return b.Bytes()
}

func (s *scene) bring(b []byte, dry bool) *api.StickResult {
	s.Helper()
	res, err := s.backend.ImportStick(s.Context(), s.admin, "lon1", bytes.NewReader(b), dry)
	if err != nil {
		s.Fatal(err)
	}
	return res
}

// sealed signs v as a document of an agent.
func sealed(t *testing.T, keys *seal.Keys, payloadType string, v any) *intent.Envelope {
	t.Helper()
	env, err := document.Sign(payloadType, marshal(t, v), keys.Sign)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// What no agent of the site signed, or signed for another, is refused line by line; the lines around it count.
func TestStickRefusals(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	s.apply(`{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}`)
	par1 := s.join("par1", "a1")
	now := time.Now().UTC()
	report := func(by *seal.Keys, site, agent string, at time.Time) *stick.Line {
		return &stick.Line{Report: sealed(t, by, stick.PayloadReport, intent.Report{Site: site, Agent: agent, Boot: "b", Rev: 1, Time: at, Head: intent.Head{Epoch: 1, Seq: 1}, Keys: &intent.KeyReport{IntentForks: 1}})}
	}
	event := func(by *seal.Keys, site string, seqs ...uint64) *stick.Line {
		b := stick.Events{Site: site, Agent: "a1"}
		for _, seq := range seqs {
			b.Events = append(b.Events, intent.Event{Site: "lon1", Agent: "a1", Seq: seq, Time: now, Type: "x", Message: fmt.Sprint(seq)})
		}
		return &stick.Line{Events: sealed(t, by, stick.PayloadEvents, b)}
	}
	order := func(by *seal.Keys, agent string) *stick.Line {
		return &stick.Line{Quarantine: sealed(t, by, intent.PayloadQuarantine, intent.Quarantine{Site: "lon1", Agent: agent, Target: intent.QuarantineTarget{Agent: "a2"}, N: 1, On: true, By: "sam", Reason: "stolen"})}
	}
	foreign := s.up(nil, report(par1, "lon1", "a1", now), report(a1, "par1", "a1", now), report(a1, "lon1", "a2", now), event(par1, "lon1", 1), event(a1, "par1", 1),
		order(par1, "a1"), order(a1, "a9"), &stick.Line{Intent: sealed(t, a1, intent.PayloadIntent, 1)}, &stick.Line{Override: sealed(t, a1, intent.PayloadQuarantine, 1)})
	for _, dry := range []bool{true, false} {
		if res := s.bring(foreign, dry); len(res.Taken)+len(res.Known) > 0 || len(res.Refused) != 9 || res.Refused[8].Line != 10 {
			t.Errorf("dry %v: %+v", dry, res)
		}
	}
	if _, heard := s.objects.status("lon1"); heard {
		t.Error("a forged report was kept")
	}
	good := s.up(nil, report(a1, "lon1", "a1", now.Add(time.Hour)), event(a1, "lon1", 1, 2), order(a1, "a1"))
	res := s.bring(good, false)
	if !res.Whole() || len(res.Taken) != 3 || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "agent revoke lon1/a2") {
		t.Errorf("%+v", res)
	}
	if st, _ := s.objects.status("lon1"); st.ObservedAt.After(time.Now()) {
		t.Errorf("observed at %v: the agent's clock is ahead, and is believed", st.ObservedAt)
	}
	if st, err := s.backend.IntentStatus(t.Context(), "lon1"); err != nil || !st.Wrong() || st.Sites[0].Agents[0].Forks != 1 || st.Sites[0].Agents[0].Heads.Active.Seq != 1 {
		t.Errorf("the fork that the stick told of is not shown: %+v, %v", st, err)
	}
	if res := s.bring(s.up(nil, report(a1, "lon1", "a1", now.Add(-time.Hour)), event(a1, "lon1", 2)), false); len(res.Taken) > 0 || len(res.Known) != 2 {
		t.Errorf("an older report: %+v", res)
	}
	for what, b := range map[string][]byte{
		"another site's": s.up(func(h *stick.Header) { h.Site = "par1" }), "another domain's": s.up(func(h *stick.Header) { h.Domain = "x.example" }),
		"one that goes down": s.up(func(h *stick.Header) { h.Way = stick.Down }), "rubbish": []byte("{}\n"),
	} {
		_, err := s.backend.ImportStick(t.Context(), s.admin, "lon1", bytes.NewReader(b), false)
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Status != 422 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.backend.ImportStick(t.Context(), s.admin, "rome", bytes.NewReader(good), false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("no such site: %v", err)
	}
}

// Of the events that sticks bring the newest are kept, and shown while the site cannot be asked.
func TestStickEventsAreBounded(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	seq := uint64(0)
	for range 10 {
		b := stick.Events{Site: "lon1", Agent: "a1"}
		for range 250 {
			seq++
			b.Events = append(b.Events, intent.Event{Site: "lon1", Agent: "a1", Seq: seq, Time: time.Now(), Type: "x"})
		}
		s.bring(s.up(nil, &stick.Line{Events: sealed(t, a1, stick.PayloadEvents, b)}), false)
	}
	var got []uint64
	err := s.backend.Events(t.Context(), api.EventQuery{Site: "lon1"}, func(e intent.Event) error { got = append(got, e.Seq); return nil })
	if err != nil || len(got) != 2000 || got[0] != 501 || got[1999] != 2500 {
		t.Errorf("%d events, %v", len(got), err)
	}
}

// Whoever carries a stick may leave lines out: that closes no audit chain, and the whole stick joins later.
func TestStickLeavesAuditOut(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	chain := document.AuditChain{Site: "lon1", Agent: "a1", Chain: "c1"}
	var ls []*stick.Line
	for i := range 3 {
		raw, err := chain.Next(intent.AuditRecord{User: "ana", Verb: "put", Result: intent.AuditDone, Reason: fmt.Sprint(i), Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		head, err := chain.Seal(a1.Sign, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, &stick.Line{Audit: &intent.AuditBundle{Agent: "a1", Chain: "c1", Records: []json.RawMessage{raw}, Head: head}})
	}
	if res := s.bring(s.up(nil, ls[0], ls[2]), false); res.Taken["audit"] != 1 || len(res.Refused) != 1 {
		t.Errorf("with a gap: %+v", res)
	}
	if res := s.bring(s.up(nil, ls...), true); res.Taken["audit"] != 3 {
		t.Errorf("dry: %+v", res)
	}
	if res := s.bring(s.up(nil, ls...), false); res.Taken["audit"] != 2 || res.Known["audit"] != 1 || !res.Whole() {
		t.Errorf("whole: %+v", res)
	}
	if n := s.audit.Broken(t.Context()); n != 0 {
		t.Errorf("%d chains are closed", n)
	}
}

// What goes down is read by IntentStatus's heads; a stick from an entry on leaves out those before it.
func TestStickDown(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	head := s.sync("lon1")
	count := func(from uint64) (kinds map[string]int) {
		t.Helper()
		var b bytes.Buffer
		if err := s.backend.ExportStick(t.Context(), &b, api.StickQuery{Site: "lon1", From: from}); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b.Bytes(), []byte(password)) {
			t.Error("a secret is on the stick in the clear")
		}
		r, err := stick.NewReader(&b)
		if err != nil {
			t.Fatal(err)
		}
		kinds = map[string]int{}
		for {
			l, err := r.Next()
			if err != nil {
				return kinds
			}
			k, _ := l.Kind()
			kinds[k]++
		}
	}
	if got := count(1); got["trust"] != 1 || got["intent"] != int(head.Seq) {
		t.Errorf("%v, the head is %d", got, head.Seq)
	}
	if got := count(head.Seq); got["trust"] != 1 || got["intent"] != 1 {
		t.Errorf("from the head on: %v", got)
	}
	if err := s.backend.ExportStick(t.Context(), &bytes.Buffer{}, api.StickQuery{Site: "rome", From: 1}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("no such site: %v", err)
	}
	st, err := s.backend.IntentStatus(t.Context(), "lon1")
	if err != nil || len(st.Sites) != 1 || st.Sites[0].Heads.Intent != head || st.Sites[0].Agents[0].Contact != nil || !strings.Contains(st.Sites[0].Agents[0].Out, "never heard") {
		t.Errorf("%+v, %v", st, err)
	}
}
