package intake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// roots sign trust documents after a first one, each unlike every other.
type roots struct {
	*testing.T
	*sitetest.Author
	made int
}

func (r *roots) after(prev *intent.Envelope) *intent.Envelope {
	r.Helper()
	h := document.Follow(intent.Head{Seq: 1, Hash: r.Env.Digest()}, intent.StreamTrust, 0, time.Time{})
	if prev != r.Env {
		b := &intent.TrustBody{}
		if err := intent.DecodeStrict(prev.Payload, b); err != nil {
			r.Fatal(err)
		}
		h = document.Follow(intent.Head{Seq: b.Seq, Hash: prev.Digest()}, intent.StreamTrust, 0, time.Time{})
	}
	r.made++
	b := *r.Trust
	b.Header = h
	b.Issued = r.Trust.Issued.Add(time.Duration(r.made) * time.Minute)
	return r.Sign(intent.PayloadTrust, &b, r.Root)
}

// teller is a peer that holds trust documents, from the first on, and evidence of forks.
type teller struct {
	chain, forks []*intent.Envelope
	asked        int
}

func (p *teller) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked++
	envs := p.forks
	if r.URL.Path == "/m/1/trust" {
		from, err := strconv.Atoi(r.URL.Query().Get("from"))
		if err != nil {
			return nil, err
		}
		envs = p.chain[min(from-1, len(p.chain)):]
	}
	var body bytes.Buffer
	for _, env := range envs {
		line, err := document.Encode(env)
		if err != nil {
			return nil, err
		}
		body.Write(append(line, '\n'))
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(&body), Request: r}, nil
}

func (p *teller) tags(evidence uint64) gossip.Tags {
	last := p.chain[len(p.chain)-1]
	return gossip.Tags{Trust: gossip.HintOf(intent.Head{Seq: uint64(len(p.chain)), Hash: last.Digest()}), Evidence: evidence}
}

// listener is one agent that follows the others.
type listener struct {
	*Peers
	refused []string
}

func (r *roots) listener(chain ...*intent.Envelope) *listener {
	r.Helper()
	rep, db := sitetest.OpenReplica(r.T, r.TempDir(), r.Author, "a1")
	r.Cleanup(func() {
		if err := db.Close(); err != nil {
			r.Error(err)
		}
	})
	if err := rep.AddTrust(chain); err != nil {
		r.Fatal(err)
	}
	l := &listener{}
	l.Peers = &Peers{Desk: &Desk{
		Replica: rep, Log: slog.New(slog.DiscardHandler), Close: func() int { return 0 }, Moved: func(string, intent.Head) {},
		Refused: func(kind string, err error) {
			if err != nil {
				l.refused = append(l.refused, kind)
			}
		},
	}}
	return l
}

// forks are the documents that l keeps as evidence.
func (l *listener) forks(t *testing.T) map[intent.Digest]bool {
	t.Helper()
	envs, err := l.Desk.Replica.TrustForks()
	if err != nil {
		t.Fatal(err)
	}
	out := map[intent.Digest]bool{}
	for _, env := range envs {
		out[env.Digest()] = true
	}
	return out
}

// Two agents that were told different trust documents for one place find out from each other, whoever has more and wherever the
// streams part; each keeps what the other has, asks once, and a third one that follows either gets the evidence.
func TestForkBetweenPeers(t *testing.T) {
	r := &roots{T: t, Author: sitetest.NewAuthor(t)}
	a2 := r.after(r.Env)
	a3 := r.after(a2)
	b2 := r.after(r.Env)
	b3 := r.after(b2)
	b4 := r.after(b3)
	f := func(what string, chain []*intent.Envelope, part *intent.Envelope) {
		t.Helper()
		l, p := r.listener(a2, a3), &teller{chain: append([]*intent.Envelope{r.Env}, chain...)}
		for range 3 {
			l.Follow(t.Context(), "a2", p, p.tags(0))
		}
		if got := l.forks(t); len(got) != 1 || !got[part.Digest()] || p.asked > 2 || l.Desk.Replica.TrustHead().Hash != a3.Digest() {
			t.Errorf("%s: %d forks kept, the head is %v, asked %d times", what, len(got), l.Desk.Replica.TrustHead(), p.asked)
		}
		if len(l.refused) != 1 {
			t.Errorf("%s: told %q", what, l.refused)
		}
	}
	f("it has less", []*intent.Envelope{b2}, b2)
	f("at the head", []*intent.Envelope{b2, b3}, b2)
	f("it has more", []*intent.Envelope{b2, b3, b4}, b2)
	late := r.after(a2)
	f("at the head only", []*intent.Envelope{a2, late}, late)

	l, p := r.listener(a2), &teller{chain: []*intent.Envelope{r.Env, a2, a3}}
	l.Follow(t.Context(), "a2", p, p.tags(0))
	if l.Desk.Replica.TrustHead().Hash != a3.Digest() || len(l.refused) > 0 || p.asked != 1 {
		t.Errorf("a peer with more is not followed: %v, told %q", l.Desk.Replica.TrustHead(), l.refused)
	}
	l.Follow(t.Context(), "a2", p, p.tags(0))
	if p.asked != 1 {
		t.Error("a peer that has the same is asked")
	}

	p.forks = []*intent.Envelope{b2, b3}
	for range 3 {
		l.Follow(t.Context(), "a2", p, p.tags(7))
	}
	if got := l.forks(t); len(got) != 2 || !got[b2.Digest()] || !got[b3.Digest()] || p.asked != 2 {
		t.Errorf("evidence: %d forks kept, asked %d times", len(got), p.asked)
	}
	p.forks = []*intent.Envelope{sitetest.NewAuthor(t).Env, b4}
	l.Follow(t.Context(), "a2", p, p.tags(8))
	if got := l.forks(t); len(got) != 3 || p.asked != 3 {
		t.Errorf("beside rubbish: %d forks kept, asked %d times", len(got), p.asked)
	}
	l.Follow(t.Context(), "a2", p, p.tags(l.Desk.Replica.TrustEvidence()))
	if p.asked != 3 {
		t.Error("a peer that has the same evidence is asked")
	}
}

// What failed by the way is asked for again.
func TestPeerFailed(t *testing.T) {
	r := &roots{T: t, Author: sitetest.NewAuthor(t)}
	a2 := r.after(r.Env)
	l, p := r.listener(), &teller{chain: []*intent.Envelope{r.Env, a2}}
	l.Follow(t.Context(), "a2", roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("cut") }), p.tags(0))
	l.Follow(t.Context(), "a2", roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("rubbish\n")), Request: r}, nil
	}), p.tags(0))
	l.Follow(t.Context(), "a2", p, p.tags(0))
	if l.Desk.Replica.TrustHead().Hash != a2.Digest() {
		t.Errorf("the head is %v", l.Desk.Replica.TrustHead())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestSilentPeer: a peer that answers and says nothing more is left after half a minute.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &roots{T: t, Author: sitetest.NewAuthor(t)}
		l := r.listener(r.Env)
		p := Peers{Desk: l.Desk}
		began := time.Now()
		p.Follow(t.Context(), "a9", roundTripper(func(r *http.Request) (*http.Response, error) {
			from, to := io.Pipe()
			context.AfterFunc(r.Context(), func() { _ = to.CloseWithError(r.Context().Err()) })
			return &http.Response{StatusCode: http.StatusOK, Body: from}, nil
		}), gossip.Tags{Trust: gossip.Hint{Epoch: 0, Seq: 9, Hash8: "00000000"}, Revocation: gossip.Hint{Epoch: 9, Seq: 9, Hash8: "00000000"}})
		if took := time.Since(began); took != followLimit {
			t.Errorf("left after %v", took)
		}
	})
}
