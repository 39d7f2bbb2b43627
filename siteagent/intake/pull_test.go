package intake

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

const stuck = 1 << 20 // octets of an answer after which a test gives up

// parrot answers with lines, and then with the last of them until nobody reads any more.
type parrot struct {
	lines [][]byte
	rest  []byte
	gave  int // octets
}

func (p *parrot) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(p), Request: r}, nil
}

func (p *parrot) Read(b []byte) (int, error) {
	if p.gave > stuck {
		return 0, io.EOF
	}
	if len(p.rest) == 0 {
		p.rest = p.lines[0]
		p.lines = p.lines[min(1, len(p.lines)-1):]
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	p.gave += n
	return n, nil
}

// A peer that gives one document for ever, of below our head or of what was asked for, is left, and makes nobody write.
func TestRevocationsForEver(t *testing.T) {
	a := sitetest.NewAuthor(t)
	rep, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	defer db.Close()
	d := &Desk{
		Replica: rep, Log: slog.New(slog.DiscardHandler), Close: func() int { return 0 }, Moved: func(string, intent.Head) {},
		Refused: func(string, error) {}, Event: func(string, string) error { return nil },
	}
	var head intent.Head
	var docs []*intent.Envelope
	var lines [][]byte
	for range 4 {
		b := intent.RevocationBody{
			Header:  document.Follow(head, intent.StreamRevocation, 1, a.Trust.Issued),
			Entries: []intent.Revocation{{Kind: intent.RevokeUser, ID: "ana", Reason: "left"}},
		}
		env := a.Sign(intent.PayloadRevocation, b, a.Writer)
		head = intent.Head{Epoch: b.Epoch, Seq: b.Seq, Hash: env.Digest()}
		line, err := document.Encode(env)
		if err != nil {
			t.Fatal(err)
		}
		docs, lines = append(docs, env), append(lines, append(line, '\n'))
	}
	if err := d.Revocations(docs[:2]); err != nil {
		t.Fatal(err)
	}
	f := func(what string, writes bool, want uint64, lines ...[]byte) {
		t.Helper()
		before, p := db.MaxVersion(), &parrot{lines: lines}
		err := d.PullRevocations(t.Context(), p, "http://a2/m/1/revocations")
		if !errors.Is(err, document.ErrReplay) || p.gave > stuck {
			t.Errorf("%s: read %d octets, %v", what, p.gave, err)
		}
		if (db.MaxVersion() != before) != writes || rep.RevocationHead().Seq != want {
			t.Errorf("%s: written from %d to %d, the head is %d", what, before, db.MaxVersion(), rep.RevocationHead().Seq)
		}
	}
	f("an old one", false, 2, lines[0])
	f("the head", false, 2, lines[1])
	f("two new ones", true, 4, lines[2], lines[3]) // what was right counts
}

// An answer goes up, with both sides of a fork in any order, and has an end.
func TestAscent(t *testing.T) {
	doc := func(seq uint64, reason string) *intent.Envelope {
		b, err := json.Marshal(intent.RevocationBody{
			Header: intent.Header{Stream: intent.StreamRevocation, Seq: seq}, Entries: []intent.Revocation{{Kind: intent.RevokeUser, ID: "ana", Reason: reason}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return &intent.Envelope{PayloadType: intent.PayloadRevocation, Payload: b}
	}
	a := ascent{seq: 3}
	for i, s := range []struct {
		seq    uint64
		reason string
		replay bool
	}{{3, "x", false}, {3, "y", false}, {3, "x", true}, {7, "x", false}, {7, "x", true}, {5, "x", true}, {8, "x", false}} {
		if err := a.next(doc(s.seq, s.reason)); errors.Is(err, document.ErrReplay) != s.replay || err != nil && !s.replay {
			t.Errorf("document %d: %v", i, err)
		}
	}
	a = ascent{}
	for i := range uint64(MaxRevocations + 1) {
		if err := a.next(doc(i+1, "x")); (err == nil) != (i < MaxRevocations) {
			t.Errorf("document %d: %v", i+1, err)
		}
	}
}
