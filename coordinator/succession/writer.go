package succession

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

func writerKey(w *publish.Writer) []byte {
	return document.MarshalKey(w.Public().(ed25519.PublicKey))
}

// writer goes as far as it goes: the next key is listed, takes over, every chain goes on under it, and the old one is retired.
func (x *step) writer() error {
	if intent.DigestOf(writerKey(x.Writer)).Hex() == x.rec.From {
		next, err := x.Writer.Next()
		if err != nil {
			return err
		}
		key := document.MarshalKey(next.Public().(ed25519.PublicKey))
		if listed(x.body, key) < 0 {
			x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: "key " + intent.DigestOf(key).Short()})
			waits, err := x.propose(nil, func(b *intent.TrustBody) {
				b.Writers = append(b.Writers, intent.Writer{Key: key, Epoch: lastEpoch(b) + 1, Mode: intent.ModeContinue, State: intent.KeyAccept})
			})
			if err != nil || waits {
				return err
			}
			x.st.Steps = nil
		}
		if err := x.Writer.Take(); err != nil {
			return err
		}
	}
	return x.useWriter()
}

// useWriter lets every chain go on under the new key, and retires the old one when all agents that count have heard.
func (x *step) useWriter() error {
	i := listed(x.body, writerKey(x.Writer))
	if i < 0 {
		return errors.New("cannot rotate the writer: the trust document does not list the key of this coordinator")
	}
	w := x.body.Writers[i]
	since := x.firstWith(func(b *intent.TrustBody) bool { return listed(b, w.Key) >= 0 })
	held := map[string]string{}
	sites := x.Sites()
	for _, site := range sites {
		head, err := x.Publish(x.ctx, site)
		if err != nil || head.Seq > 0 && head.Epoch < w.Epoch {
			held[site] = "its chain does not go on under the new writer yet"
		}
		if err != nil && !errors.Is(err, publish.ErrHeld) {
			return err
		}
	}
	accepted, used := 0, 0
	_, of, waited, err := x.ledger(api.PhaseUse, func(site string, a api.AgentKeys) string {
		switch head := x.Heads(site)[a.ID]; {
		case a.Trust < since:
			return fmt.Sprintf("at trust %d", a.Trust)
		case head.Epoch < w.Epoch:
			accepted++
			return fmt.Sprintf("its chain is at epoch %d", head.Epoch)
		default:
			accepted, used = accepted+1, used+1
			return ""
		}
	})
	if err != nil {
		return err
	}
	x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseAccept, Text: fmt.Sprintf("trust %d, epoch %d", since, w.Epoch), Have: accepted, Of: of},
		api.RotationStep{Phase: api.PhaseUse, Text: fmt.Sprintf("%d/%d chains on %d", len(sites)-len(held), len(sites), w.Epoch), Have: used, Of: of})
	x.st.Phase = api.PhaseUse
	if len(held) > 0 {
		for site, why := range held {
			x.st.Ledger = append(x.st.Ledger, api.RotationRow{Agent: site, Phase: api.PhaseUse, Since: x.rec.Started, Held: why})
		}
		x.st.Next = "a site whose chain is held keeps the old writer; `skerry site status SITE` says what it waits for"
		return nil
	}
	if len(waited) > 0 {
		x.waitFor(api.PhaseUse, waited)
		return nil
	}
	return x.retireWriters(w.Epoch)
}

// retireWriters lets nothing new count that a writer of an earlier epoch signs.
func (x *step) retireWriters(epoch uint64) error {
	old := func(w intent.Writer) bool { return w.Epoch < epoch && w.State != intent.KeyRetire }
	x.st.Phase = api.PhaseRetire
	if slices.ContainsFunc(x.body.Writers, old) {
		waits, err := x.propose(nil, func(b *intent.TrustBody) {
			for i := range b.Writers {
				switch w := &b.Writers[i]; {
				case old(*w):
					w.State = intent.KeyRetire
				case w.Epoch == epoch:
					w.State = intent.KeyUse
				}
			}
		})
		if err != nil || waits {
			x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseRetire, Text: "trust " + fmt.Sprint(x.Trust.Head().Seq+1)})
			return err
		}
	}
	x.st.Steps = append(x.st.Steps, api.RotationStep{Phase: api.PhaseRetire, Text: fmt.Sprintf("trust %d", x.st.Trust.Seq)})
	return x.done()
}

func listed(b *intent.TrustBody, key []byte) int {
	return slices.IndexFunc(b.Writers, func(w intent.Writer) bool { return bytes.Equal(w.Key, key) && w.State != intent.KeyRetire })
}

func lastEpoch(b *intent.TrustBody) (last uint64) {
	for _, w := range b.Writers {
		last = max(last, w.Epoch)
	}
	return last
}

// firstWith is the place of the first document of the stream that is so.
func (x *step) firstWith(is func(*intent.TrustBody) bool) uint64 {
	chain := x.Trust.Chain()
	for seq := chain.First(); seq < chain.Head.Seq; seq++ {
		if is(chain.At(seq)) {
			return seq
		}
	}
	return chain.Head.Seq
}
