package fault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/siteagent/intake"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/siteagent/sticks"
)

// hostile is an agent that is brought documents, good ones and others.
type hostile struct {
	*testing.T
	*sticks.Desk
	rnd     *rand.Rand
	author  *sitetest.Author   // of lon1
	other   *sitetest.Author   // of par1, the same writer
	foreign *sitetest.Author   // of lon1 in another domain
	heads   []intent.Head      // of lon1's chain, heads[i] before entry i+1
	chain   []*intent.Envelope // of lon1
	refused int
}

func newHostile(t *testing.T) *hostile {
	t.Helper()
	h := &hostile{T: t, rnd: random(t), author: sitetest.NewAuthor(t), foreign: sitetest.NewAuthor(t)}
	h.other = h.author.At(intent.Head{})
	h.other.Site = "par1"
	r, db := sitetest.OpenReplica(t, t.TempDir(), h.author, "a1")
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	h.Desk = &sticks.Desk{Site: "lon1", Self: "a1", Domain: pkitest.Name, In: &intake.Desk{
		Replica: r, Moved: func(string, intent.Head) {}, Close: func() int { return 0 }, Event: func(string, string) error { return nil },
		Refused: func(_ string, err error) {
			if err != nil {
				h.refused++
			}
		}, Log: slog.New(slog.DiscardHandler),
	}}
	for i := range 8 {
		h.grow(i)
	}
	return h
}

// grow adds one good entry, which must be taken.
func (h *hostile) grow(i int) {
	h.Helper()
	h.heads = append(h.heads, h.author.Head)
	env := h.author.Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("small", len(h.heads)))
	h.chain = append(h.chain, env)
	h.other.Put(sitetest.SiteDoc)
	h.foreign.Put(sitetest.SiteDoc)
	h.bring(fmt.Sprintf("good entry %d", i), &stick.Line{Intent: env})
	if st := h.In.Replica.State(); st.Head != h.author.Head || st.Staged != h.author.Head {
		h.Fatalf("a good entry was not taken: at %v, want %v", st.Head, h.author.Head)
	}
}

// bring hands over a stick with lines as a carrier would who may write what he likes.
func (h *hostile) bring(what string, ls ...*stick.Line) {
	h.Helper()
	var b bytes.Buffer
	w, err := stick.NewWriter(&b, stick.Header{Way: stick.Down, Domain: pkitest.Name, Site: "lon1", By: "c1", Made: time.Unix(0, 0)})
	for _, l := range ls {
		if err == nil {
			err = w.Put(l)
		}
	}
	if err == nil {
		err = w.End()
	}
	if err != nil {
		h.Fatalf("%s: %v", what, err)
	}
	h.raw(what, b.Bytes())
}

func (h *hostile) raw(what string, b []byte) {
	h.Helper()
	if _, err := h.Take(h.Context(), bytes.NewReader(b), h.rnd.IntN(4) == 0 && !strings.HasPrefix(what, "good")); err != nil {
		h.Fatalf("%s: %v", what, err)
	}
}

// seen is all that documents may change.
func (h *hostile) seen() string {
	h.Helper()
	r := h.In.Replica
	st := r.State()
	slices.SortFunc(st.Objects, func(a, b *intent.Object) int { return strings.Compare(a.Metadata.UID, b.Metadata.UID) })
	objects, err := json.Marshal(st.Objects)
	if err != nil {
		h.Fatal(err)
	}
	forks, err := r.TrustForks()
	if err != nil {
		h.Fatal(err)
	}
	return fmt.Sprint(st.Head, st.Staged, st.Rejected, r.TrustHead(), r.RevocationHead(), r.Revocations().Len(), len(forks), len(st.Tombs), len(st.Acks), st.Roster.Generation, string(objects))
}

// resigned returns env's payload under another type, with the writer's own signature.
func (h *hostile) resigned(env *intent.Envelope, payloadType string) *intent.Envelope {
	h.Helper()
	out, err := document.Sign(payloadType, env.Payload, h.author.Writer)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// fork signs, with the writer's key, an entry in a place that another has.
func (h *hostile) fork() *intent.Envelope {
	return h.author.At(h.heads[h.rnd.IntN(len(h.heads))]).Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("evil", 1))
}

// damaged returns a good next entry with one thing wrong.
func (h *hostile) damaged() *intent.Envelope {
	env := h.author.At(h.author.Head).Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("evil", 1))
	switch h.rnd.IntN(4) {
	case 0:
		env.Payload = env.Payload[:h.rnd.IntN(len(env.Payload))]
	case 1:
		env.Payload[h.rnd.IntN(len(env.Payload))] ^= 1 << h.rnd.IntN(8)
	case 2:
		sig := env.Signatures[0].Sig
		env.Signatures[0].Sig = sig[:h.rnd.IntN(len(sig))]
	default:
		env.Signatures[0].Sig[h.rnd.IntN(64)] ^= 1 << h.rnd.IntN(8)
	}
	return env
}

// attacks are the ways of F14.
func (h *hostile) attacks() map[string]func() []*stick.Line {
	entries := func(envs ...*intent.Envelope) (out []*stick.Line) {
		for _, e := range envs {
			out = append(out, &stick.Line{Intent: e})
		}
		return out
	}
	some := func(from []*intent.Envelope) []*intent.Envelope {
		i := h.rnd.IntN(len(from))
		return from[i : i+1+h.rnd.IntN(len(from)-i)]
	}
	return map[string]func() []*stick.Line{
		"rolled back": func() []*stick.Line { // the chain again, ended by another entry at an older place
			i := h.rnd.IntN(len(h.chain))
			return entries(append(slices.Clone(h.chain[:i]), h.author.At(h.heads[i]).Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("old", 1)))...)
		},
		"replayed": func() []*stick.Line { return entries(some(h.chain)...) },
		"forked":   func() []*stick.Line { return entries(h.fork()) },
		"forwarded": func() []*stick.Line { // the next of another site, also in the place where ours would be
			a := h.other
			if h.rnd.IntN(2) == 0 {
				a = h.author.At(h.author.Head)
				a.Site = "par1"
			}
			return entries(a.At(a.Head).Put(sitetest.SiteDoc))
		},
		"mixed": func() []*stick.Line {
			ls := entries(some(h.chain)...)
			ls = append(ls, entries(h.fork(), h.other.At(h.other.Head).Put(sitetest.SiteDoc))...)
			h.rnd.Shuffle(len(ls), func(i, j int) { ls[i], ls[j] = ls[j], ls[i] })
			return ls
		},
		"a gap": func() []*stick.Line {
			a := h.author.At(h.author.Head)
			a.Put(sitetest.SiteDoc) // is left out
			return entries(a.Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("evil", 1)))
		},
		"another domain's": func() []*stick.Line {
			ls := entries(h.foreign.At(h.author.Head).Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("evil", 1)))
			return append(ls, &stick.Line{Trust: h.foreign.Env})
		},
		"foreign type": func() []*stick.Line {
			env := h.author.At(h.author.Head).Put(sitetest.SiteDoc)
			types := []string{intent.PayloadOverride, intent.PayloadTrust, intent.PayloadRevocation, intent.PayloadBeacon, "x"}
			as := h.resigned(env, types[h.rnd.IntN(len(types))])
			return []*stick.Line{{Intent: as}, {Revocation: h.resigned(env, intent.PayloadRevocation)}, {Trust: h.resigned(env, intent.PayloadTrust)}, {Override: env}, {Revocation: env}, {Trust: env}}
		},
		"truncated": func() []*stick.Line { return entries(h.damaged()) },
		"frozen":    func() []*stick.Line { return append(entries(h.chain...), &stick.Line{Trust: h.author.Env}) },
		"none of a writer": func() []*stick.Line {
			a := *h.author.At(h.author.Head)
			d := *a.Domain
			d.Writer, a.Domain = h.foreign.Writer, &d
			return entries(a.Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("evil", 1)))
		},
	}
}

// TestHostileDocuments is experiment F14: whatever a carrier, a peer or another coordinator hands over (rolled back, replayed, forked,
// forwarded from another site, mixed, with a gap, of a foreign type or domain, truncated, damaged, frozen), nothing of it is accepted:
// heads, objects, tombstones, acks, roster and revocations stay as they were, and the next good entry is taken.
func TestHostileDocuments(t *testing.T) {
	h := newHostile(t)
	attacks := h.attacks()
	names := make([]string, 0, len(attacks))
	for name := range attacks {
		names = append(names, name)
	}
	slices.Sort(names)
	accepted, n := 0, times(tierHostile)
	for i := range n {
		name := names[h.rnd.IntN(len(names))]
		before := h.seen()
		h.bring(name, attacks[name]()...)
		if after := h.seen(); after != before {
			accepted++
			t.Errorf("case %d, %s: accepted\nbefore %s\nafter  %s", i, name, before, after)
			if accepted > 3 {
				t.FailNow()
			}
		}
		if len(h.chain) < 64 && h.rnd.IntN(10) == 0 {
			h.grow(i)
		}
	}
	h.grow(n)
	if h.refused == 0 {
		t.Error("nothing was refused")
	}
	t.Logf("%d cases, %d documents refused, %d accepted", n, h.refused, accepted)
}
