package intake

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// door is an agent's door over a real replica; it notes what was refused, kept and closed.
type door struct {
	*testing.T
	*Door
	a, next *sitetest.Author
	refused []string // kinds
	noted   []string // user, verb, object, event
	closed  int
	fail    error // of Note
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{T: t, a: sitetest.NewAuthor(t), next: sitetest.NewAuthor(t)}
	d.a.Trust.Next = d.next.Trust.Roots.Digest()
	d.a.Env = d.a.Sign(intent.PayloadTrust, d.a.Trust, d.a.Root)
	r, db := sitetest.OpenReplica(t, t.TempDir(), d.a, "a1")
	t.Cleanup(func() { db.Close() })
	d.Door = &Door{
		Site: "lon1", Self: "a1", Now: time.Now,
		Desk: &Desk{
			Replica: r, Moved: func(string, intent.Head) {}, Close: func() int { d.closed++; return 0 }, Log: slog.New(slog.DiscardHandler),
			Refused: func(kind string, err error) {
				if err != nil {
					d.refused = append(d.refused, kind)
				}
			},
		},
		Note: func(_ context.Context, r intent.AuditRecord, kind, _ string) error {
			d.noted = append(d.noted, strings.Join([]string{r.User, r.Verb, r.Object, kind}, " "))
			return d.fail
		},
	}
	return d
}

// doc signs the document after the first one.
func (d *door) doc(signer, roots *sitetest.Author) *intent.Envelope {
	b := *d.a.Trust
	b.Header = document.Follow(intent.Head{Seq: 1, Hash: d.a.Env.Digest()}, intent.StreamTrust, 0, b.Issued.Add(time.Hour))
	b.Roots, b.Next = roots.Trust.Roots, intent.DigestOf([]byte("after"))
	return d.a.Sign(intent.PayloadTrust, &b, signer.Root)
}

// What is offered is told of once, however often it comes, shown, and followed when a person says so. He is in the audit log.
func TestAcceptAtTheDoor(t *testing.T) {
	d, by := newDoor(t), api.Caller{User: "ana"}
	env, stranger := d.doc(d.next, d.next), sitetest.NewAuthor(t)
	digest := env.Digest().Hex()
	refuses := func(what string, q api.AcceptRequest, text string) {
		t.Helper()
		if _, err := d.AcceptTrust(t.Context(), by, q); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
		if d.Desk.Replica.TrustHead().Seq != 1 || len(d.noted) > 0 {
			t.Errorf("%s: head %d, noted %q", what, d.Desk.Replica.TrustHead().Seq, d.noted)
		}
	}
	refuses("before it is there", api.AcceptRequest{Digest: digest, Site: "lon1"}, "no such document is offered")
	if _, err := d.AddTrust(t.Context(), by, d.doc(stranger, stranger)); err == nil || !strings.Contains(err.Error(), "not the announced ones") {
		t.Errorf("roots that nobody announced: %v", err)
	}
	if _, err := d.AddTrust(t.Context(), by, d.doc(stranger, d.next)); err == nil || !strings.Contains(err.Error(), "not signed by") {
		t.Errorf("announced roots that did not sign: %v", err)
	}
	d.refused = nil
	for range 3 {
		if err := d.Desk.Trust([]*intent.Envelope{env}); !errors.Is(err, document.ErrOffered) {
			t.Fatal(err)
		}
	}
	if len(d.refused) != 1 || d.refused[0] != "trust.offered" {
		t.Errorf("told %q", d.refused)
	}
	s, err := d.KeyStatus(t.Context())
	if err != nil || s.Trust.Seq != 1 || s.Offered == nil || s.Offered.Digest != env.Digest() || s.Offered.Seq != 2 || !strings.Contains(s.Offered.Changes[0], "trust 2 follows 1") {
		t.Errorf("status %+v, %v", s, err)
	}
	refuses("another site", api.AcceptRequest{Digest: digest, Site: "par1"}, "agent lon1/a1")
	refuses("no site", api.AcceptRequest{Digest: digest}, "name its site")
	refuses("a part", api.AcceptRequest{Digest: digest[:12], Site: "lon1"}, "whole digest")
	refuses("another document", api.AcceptRequest{Digest: d.doc(stranger, stranger).Digest().Hex(), Site: "lon1"}, "no such document is offered")
	q := api.AcceptRequest{Digest: digest, Site: "lon1", DryRun: true}
	if res, err := d.AcceptTrust(t.Context(), by, q); err != nil || res.Who != "lon1/a1" || res.Head.Seq != 2 || !res.DryRun || len(res.Changes) < 3 || d.Desk.Replica.TrustHead().Seq != 1 {
		t.Errorf("dry run: %+v, %v", res, err)
	}
	q.DryRun = false
	closed := d.closed
	if res, err := d.AcceptTrust(t.Context(), by, q); err != nil || res.Head != d.Desk.Replica.TrustHead() || res.Head.Seq != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	if len(d.noted) != 1 || d.noted[0] != "ana trust.accept Trust 2 trust.accepted" || d.closed == closed {
		t.Errorf("noted %q, sessions looked at %d times", d.noted, d.closed-closed)
	}
	if res, err := d.AcceptTrust(t.Context(), by, q); err != nil || res.Head.Seq != 2 || !strings.Contains(res.Changes[0], "accepted before") || len(d.noted) != 1 {
		t.Errorf("again: %+v, %v", res, err)
	}
	if s, err := d.KeyStatus(t.Context()); err != nil || s.Offered != nil || s.Trust.Seq != 2 {
		t.Errorf("status %+v, %v", s, err)
	}
	if _, err := d.AddTrust(t.Context(), by, d.doc(d.a, d.a)); err == nil || !strings.Contains(err.Error(), "forked") {
		t.Errorf("the old roots: %v", err)
	}
}

// Brought by a person, a document takes the place of one that came by itself. What could not be audited is said.
func TestBroughtToTheDoor(t *testing.T) {
	d, by := newDoor(t), api.Caller{User: "ana"}
	first, second := d.doc(d.next, d.next), func() *intent.Envelope {
		d.a.Trust.Issued = d.a.Trust.Issued.Add(time.Minute)
		return d.doc(d.next, d.next)
	}()
	if err := d.Desk.Trust([]*intent.Envelope{first, second}); !errors.Is(err, document.ErrOffered) {
		t.Fatal(err)
	}
	res, err := d.AddTrust(t.Context(), by, second)
	if err != nil || res.Added || res.Offered == nil || res.Offered.Digest != second.Digest() || len(d.noted) != 1 {
		t.Fatalf("%+v, %v, noted %q", res, err, d.noted)
	}
	d.fail = errors.New("disk full")
	if _, err := d.AcceptTrust(t.Context(), by, api.AcceptRequest{Digest: second.Digest().Hex(), Site: "lon1"}); err == nil || !strings.Contains(err.Error(), "it counts") {
		t.Errorf("not audited: %v", err)
	}
	if d.Desk.Replica.TrustHead().Hash != second.Digest() {
		t.Errorf("head %v", d.Desk.Replica.TrustHead())
	}
	for _, err := range []error{
		func() error { _, err := d.Rotate(t.Context(), by, api.RotateRequest{}); return err }(),
		func() error { _, err := d.Rotations(t.Context()); return err }(),
		func() error { _, err := d.RotateSecrets(t.Context(), by, "lon1", api.SecretRotation{}); return err }(),
		func() error { _, err := d.SecretStatus(t.Context(), "lon1"); return err }(),
	} {
		if !errors.Is(err, api.ErrElsewhere) {
			t.Errorf("a coordinator's: %v", err)
		}
	}
}
