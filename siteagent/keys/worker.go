package keys

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/rotate"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Config is what a Worker works with.
type Config struct {
	Own     *Own
	Site    string
	Self    string
	Replica *replica.Replica
	Ring    *seal.Ring
	// Behind lists the agents of the site that are alive and have not heard of the chain up to seq, and those of whom nobody knows
	// whether they are alive.
	Behind func(seq uint64) (late, unknown []string)
	// Busy tells whether machines are under way that know this agent by the key of before only.
	Busy func() bool
	// Renew puts new sessions in the place of those with peers, RenewUplink in the place of the one with the coordinator.
	Renew       func(ctx context.Context) error
	RenewUplink func()
	// Above is the coordinator; ok is false while there is no session.
	Above func() (rt http.RoundTripper, ok bool)
	// Opens tells whether what the site itself sealed to this agent opens with keys alone.
	Opens func(keys *seal.Keys) bool
	Event func(kind, text string) error
	Log   *slog.Logger
}

// Worker changes the agent's keys. Run it; Kick it when the coordinator may want something.
type Worker struct {
	Config
	kick chan struct{}

	// Run's own.
	begun    time.Time
	heardAt  uint64    // place in the chain that peers must have heard of before the keys that it lists are used
	heardKey []byte    // the first key of the roster entry that heardAt is about
	waiting  time.Time // since when a change is held up by machines under way
	renew    bool      // sessions with the certificate of before may stand
}

// New returns a worker.
func New(cfg Config) *Worker { return &Worker{Config: cfg, kick: make(chan struct{}, 1)} }

// Kick lets Run ask the coordinator now.
func (w *Worker) Kick() {
	select {
	case w.kick <- struct{}{}:
	default: // asked already
	}
}

const (
	settle     = 5 * time.Second  // gossip has found who is alive by then
	retryEvery = time.Second      // while something is waited for
	askEvery   = 10 * time.Minute // without a hint: the coordinator's is the normal way
	askLimit   = 15 * time.Second
	renewLimit = 3 * time.Minute // longer than the slowest request that a drain waits for
	// busyLimit is how long machines that are being installed hold a change up. Those that know the old key only go on with another
	// agent, or begin again.
	busyLimit = time.Hour
)

// Run follows the roster and the coordinator until ctx ends.
func (w *Worker) Run(ctx context.Context) error {
	ask := true
	w.begun = time.Now()
	for {
		wake := w.Replica.State().Wake
		again := w.follow(ctx)
		if ask {
			if err := w.ask(ctx); err != nil && ctx.Err() == nil {
				w.Log.Warn("keys not offered; it is tried again", "err", err)
				again = true
			}
		}
		pause := askEvery
		if again {
			pause = retryEvery
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-w.kick:
			ask = true
		case <-t.C:
			ask = true
		case <-wake:
			ask = false
		}
		t.Stop()
	}
}

// follow does what the signed roster says about this agent's keys; again tells that something is waited for.
func (w *Worker) follow(ctx context.Context) (again bool) {
	st, v := w.Replica.State(), w.Replica.View()
	i := slices.IndexFunc(st.Signed.Agents, func(a intent.RosterAgent) bool { return a.ID == w.Self })
	if i < 0 || v == nil {
		return false // it left the roster: its keys are of no use, and not ours to delete
	}
	me := st.Signed.Agents[i]
	if c, ok := w.Own.offered(me, v.CAs); ok {
		again = w.goOver(st, v, me, c)
	}
	if w.renew && !again {
		again = !w.renewSessions(ctx)
	}
	if !again {
		w.forget(me)
	}
	return again
}

// goOver begins to use c, if it is not used yet. The old key counts still, so peers that are alive are waited for.
func (w *Worker) goOver(st replica.State, v *trust.View, me intent.RosterAgent, c credentials) (again bool) {
	now := w.Own.now.Load()
	if bytes.Equal(now.id.Leaf, c.leaf.Raw) && now.id.Set == c.set {
		return false
	}
	if c.set < now.id.Set {
		return false // the coordinator is an older copy: it learns of the newer keys from the chain
	}
	counts := w.counts(v, me, now)
	if counts && (w.early(st, me) || w.held()) {
		return true
	}
	peers := slices.DeleteFunc(slices.Clone(st.Signed.Agents), func(a intent.RosterAgent) bool { return a.ID == w.Self })
	if err := w.Own.change(c, me, peers); err != nil {
		w.Log.Error("keys not changed; the old ones are used", "err", err)
		return true
	}
	w.renew, w.waiting = true, time.Time{}
	w.Log.Info("new credentials are used", "set", c.set, "key", trust.SPKIOf(c.leaf).Short())
	if err := w.Event("agent.keys.changed", fmt.Sprintf("%s uses key %s, number %d", w.Self, trust.SPKIOf(c.leaf).Short(), c.set)); err != nil {
		w.Log.Warn("event not journaled", "err", err)
	}
	return false
}

// counts tells whether what is used now still counts. When it does not there is nothing to lose.
func (w *Worker) counts(v *trust.View, me intent.RosterAgent, now *used) bool {
	leaf, err := x509.ParseCertificate(now.id.Leaf)
	if err != nil || !slices.ContainsFunc(me.TLS, func(k []byte) bool { return bytes.Equal(k, leaf.RawSubjectPublicKeyInfo) }) {
		return false
	}
	return slices.ContainsFunc(v.CAs, func(c *x509.Certificate) bool { return leaf.CheckSignatureFrom(c) == nil })
}

// early tells whether a peer that is alive has not heard of the roster that lists the keys.
func (w *Worker) early(st replica.State, me intent.RosterAgent) bool {
	if !bytes.Equal(w.heardKey, me.Certs[0]) {
		w.heardKey, w.heardAt = me.Certs[0], st.Staged.Seq
		if st.Rejected != "" {
			w.heardAt = st.Head.Seq // what is rejected is active nowhere; the roster acts on receipt
		}
	}
	late, unknown := w.Behind(w.heardAt)
	return len(late) > 0 || len(unknown) > 0 && time.Since(w.begun) < settle
}

// held tells whether machines that are under way hold the change up.
func (w *Worker) held() bool {
	if !w.Busy() {
		w.waiting = time.Time{}
		return false
	}
	if w.waiting.IsZero() {
		w.waiting = time.Now()
	}
	return time.Since(w.waiting) < busyLimit
}

// renewSessions shows the new certificate to everybody: to peers first, so that the coordinator, who retires the old key when it sees
// the new one, sees it last.
func (w *Worker) renewSessions(ctx context.Context) (done bool) {
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	if err := w.Renew(ctx); err != nil {
		if ctx.Err() == nil {
			w.Log.Warn("sessions not renewed; those of before stay", "err", err)
		}
		return false
	}
	w.renew = false
	w.RenewUplink()
	return true
}

// forget removes the keys of before, when the roster lists the newer one alone and everything opens without them.
func (w *Worker) forget(me intent.RosterAgent) {
	now := w.Own.now.Load()
	pub, err := now.keys.TLSPublic()
	if err != nil || !w.Own.old() || len(me.TLS) != 1 || !bytes.Equal(me.TLS[0], pub) {
		return
	}
	if !w.Replica.OpensWith(now.keys) || !w.Opens(now.keys) {
		w.Log.Debug("old keys are kept: something is sealed to them")
		return
	}
	n, err := w.Own.forget()
	if err != nil {
		w.Log.Error("old keys not removed", "err", err)
		return
	}
	w.Log.Info("old keys are forgotten", "sets", n)
}

// ask asks the coordinator whether it wants keys, and answers.
func (w *Worker) ask(ctx context.Context) error {
	rt, ok := w.Above()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	b, err := call(ctx, rt, http.MethodGet, nil)
	if err != nil {
		return err
	}
	var o rotate.Order
	if err := intent.DecodeStrict(b, &o); err != nil {
		return fmt.Errorf("cannot read order: %w", err)
	}
	var keys *seal.Keys
	switch o.Want {
	case "":
		return nil
	case rotate.WantCertificate:
		keys = w.Own.now.Load().keys
	case rotate.WantKeys:
		var made bool
		if keys, made, err = w.Own.next(); err != nil {
			return err
		}
		if made {
			w.Ring.Hold(keys) // before anybody can seal to them
			w.Log.Info("new keys are made", "rotation", o.N)
		}
	default:
		return fmt.Errorf("cannot answer a coordinator that wants %q: update the agent", o.Want[:min(len(o.Want), 40)])
	}
	offer, err := rotate.NewOffer(o, w.Site+"/"+w.Self, keys)
	if err != nil {
		return err
	}
	if b, err = json.Marshal(offer); err != nil {
		return fmt.Errorf("cannot encode offer: %w", err)
	}
	_, err = call(ctx, rt, http.MethodPost, b)
	return err
}

func call(ctx context.Context, rt http.RoundTripper, method string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://coordinator/u/1/keys", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err == nil && res.StatusCode >= 300 {
		err = errors.New("the coordinator says " + res.Status + ": " + string(bytes.TrimSpace(b[:min(len(b), 200)])))
	}
	return b, err
}
