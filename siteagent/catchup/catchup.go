package catchup

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/rotate"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/intake"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Config is what a Keeper works with. Every field is set.
type Config struct {
	Site, Self string
	Replica    *replica.Replica
	In         *intake.Desk
	Keys       func() *seal.Keys // in use
	Dial       join.Dialer
	// Above lists the coordinators to be asked: none while there is a session.
	Above func() []uplink.Target
	// Hears tells whether an agent of the site is heard.
	Hears func(agent string) bool
	// About returns the newest quarantine order about an agent of the site, and its number; Replacing the admission of the spare that has
	// an agent's place, and its name. Nil: none. Told takes either, about this agent.
	About     func(agent string) (*intent.Envelope, uint64)
	Replacing func(agent string) (*intent.Envelope, string)
	Told      func(context.Context, *intent.Envelope) error
	Soon      func() // something was learnt: a coordinator may be dialled now
	Event     func(kind, text string) error
	Log       *slog.Logger
}

// Keeper asks those that it cannot hear.
type Keeper struct {
	Config
	desk *join.Redeemer
}

// New returns a keeper.
func New(cfg Config) *Keeper {
	k := &Keeper{Config: cfg}
	k.desk = join.NewRedeemer(join.Config{Returns: k, Trust: k.trust, Log: cfg.Log})
	return k
}

const (
	firstAfter = 5 * time.Second // gossip and the uplink have had their turn
	atMost     = 2 * time.Minute // between rounds
)

// Run asks until ctx ends, seldom while nobody has news.
func (k *Keeper) Run(ctx context.Context) error {
	pause := firstAfter
	for {
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if n, asked := k.round(ctx); n > 0 || !asked {
			pause = firstAfter
		} else {
			pause = min(2*pause, atMost)
		}
	}
}

// round asks everybody once. asked is false when all are heard.
func (k *Keeper) round(ctx context.Context) (taken int, asked bool) {
	ask := func(who, addr string, want trust.Want, offer bool) {
		asked = true
		n, err := k.ask(ctx, addr, want, offer)
		taken += n
		if err != nil && ctx.Err() == nil {
			k.Log.Debug("nothing learnt of what was missed", "from", who, "err", err)
		}
		if n == 0 {
			return
		}
		k.Soon()
		text := fmt.Sprintf("%s was away, and learnt %d documents from %s", k.Self, n, who)
		k.Log.Warn("this agent was away: it was told what it missed", "from", who, "documents", n)
		if err := k.Event("agent.caught-up", text); err != nil {
			k.Log.Warn("event not journaled", "err", err)
		}
	}
	for _, a := range k.Replica.State().Signed.Agents {
		if a.ID == k.Self || a.State != intent.StateAgent || k.Hears(a.ID) {
			continue
		}
		for _, addr := range a.Addr {
			ask(a.ID, addr, trust.Want{Kind: trust.Agent, Site: k.Site, ID: a.ID}, false)
		}
	}
	tried := map[string]bool{}
	for _, t := range k.Above() {
		for _, addr := range t.Addr {
			if !tried[addr] {
				tried[addr] = true
				ask("the coordinator", addr, trust.Want{Kind: trust.Coordinator}, true)
			}
		}
	}
	return taken, asked
}

func (k *Keeper) ask(ctx context.Context, addr string, want trust.Want, offer bool) (int, error) {
	keys := k.Keys()
	return join.Return(ctx, k.Dial, addr, join.Home{
		Keys: keys, Chain: k.Replica.TrustChain(), Want: want, TakeTrust: k.In.Trust,
		Back: func() (join.Back, error) {
			b := join.Back{Site: k.Site, Agent: k.Self, Revocation: k.Replica.RevocationHead().Seq, Intent: k.Replica.State().Staged.Seq}
			var err error
			_, b.Quarantine = k.About(k.Self)
			_, b.Replaced = k.Replacing(k.Self)
			if b.Sign, err = keys.SignPublic(); err != nil || !offer {
				return b, err
			}
			o, err := rotate.NewOffer(rotate.Order{}, k.Site+"/"+k.Self, keys)
			if err != nil {
				return b, err
			}
			b.Offer, err = json.Marshal(o)
			return b, err
		},
		Take: func(give func(func(string, *intent.Envelope) error) error) error { return k.take(ctx, give) },
	})
}

// take brings what one source gives to the desk: revocations act before the entries that follow them.
func (k *Keeper) take(ctx context.Context, give func(func(string, *intent.Envelope) error) error) error {
	var revoked []*intent.Envelope
	settle := func() error {
		if len(revoked) == 0 {
			return nil
		}
		err := k.In.Revocations(revoked)
		revoked = nil
		return err
	}
	_, err := k.In.Intent(ctx, func(entry func(*intent.Envelope, int) error) error {
		return give(func(stream string, env *intent.Envelope) error {
			switch stream {
			case join.StreamQuarantine, join.StreamAdmission:
				return k.Told(ctx, env)
			case intent.StreamRevocation:
				if revoked = append(revoked, env); len(revoked) < intake.RevocationBatch {
					return nil
				}
				return settle()
			}
			if err := settle(); err != nil {
				return err
			}
			return entry(env, len(env.Payload))
		})
	})
	return errors.Join(err, settle())
}

// Missed implements join.Returner for others of the site.
func (k *Keeper) Missed(_ context.Context, b join.Back, send func(string, *intent.Envelope) error) error {
	st := k.Replica.State()
	lists := func(r *intent.RosterBody) bool {
		return slices.ContainsFunc(r.Agents, func(a intent.RosterAgent) bool {
			return a.ID == b.Agent && slices.ContainsFunc(a.Sign, func(s []byte) bool { return bytes.Equal(s, b.Sign) })
		})
	}
	order, n := k.About(b.Agent)
	admission, spare := k.Replacing(b.Agent)
	counts := lists(st.Roster)
	if b.Site != k.Site || !counts && (order == nil && admission == nil || !lists(st.Signed)) {
		return fmt.Errorf("cannot let %s/%s back: not in the roster with this key: %w", b.Site, b.Agent, join.ErrRefused)
	}
	if n > b.Quarantine {
		if err := send(join.StreamQuarantine, order); err != nil {
			return err
		}
	}
	if admission != nil && spare != b.Replaced {
		if err := send(join.StreamAdmission, admission); err != nil {
			return err
		}
	}
	if !counts { // it learns why, and no more
		return nil
	}
	err := k.Replica.RevocationFeed(b.Revocation+1, func(env *intent.Envelope) error { return send(intent.StreamRevocation, env) })
	if err != nil {
		return err
	}
	return k.Replica.Feed(b.Intent+1, func(env *intent.Envelope) error { return send(intent.StreamIntent, env) })
}

// Serve holds one conversation with another that returns.
func (k *Keeper) Serve(ctx context.Context, conn *tls.Conn) {
	if err := k.desk.Handle(ctx, conn, join.SourceOf(conn)); err != nil {
		k.Log.Debug("not let back", "from", conn.RemoteAddr().String(), "err", err)
	}
}

// trust is what the conversation shows to everybody.
func (k *Keeper) trust() []*intent.Envelope {
	var out []*intent.Envelope
	err := k.Replica.TrustFeed(1, func(env *intent.Envelope) error { out = append(out, env); return nil })
	if err != nil {
		k.Log.Error("trust not read", "err", err)
	}
	return out
}
