package rotation

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/coordinator/succession"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/join"
)

// Config is what a Rotation works with.
type Config struct {
	Store store.Store
	Trust *publish.Trust
	Obey  func() // makes everybody follow a new trust document
	Ask   func(site, agent string) http.RoundTripper
	Audit *auditlog.Log
	// Refused keeps that what somebody brought over his session was not taken.
	Refused func(ctx context.Context, who, verb string, why error)
	Log     *slog.Logger

	ID          string                  // of this coordinator
	Leaf        func() []byte           // its certificate, DER
	Writer      func() crypto.PublicKey // of the key that it signs intent with
	Domain      *succession.Succession  // what trust documents change
	Revocations *publish.Revocations
	Sessions    func() []uplink.SessionInfo
	Reports     func(site string) Heard
	Now         func() time.Time
	Leads       func() error // why the clock is not believed; nil where it is

	CA func() *x509.Certificate // of this coordinator: what Certify issues under
	// Certify makes the entry that an agent's new keys get: its certificates, and the keys.
	Certify func(g join.Grant) (*intent.RosterAgent, error)
	// Reseal is the commit after which every secret is told to an agent anew, under a new data key.
	Reseal func(ctx context.Context, site, agent string) (store.Commit, error)
	// Publish brings a site's chain up to its entries, tells its sessions, and returns the head and the roster then.
	Publish func(ctx context.Context, site string) (intent.Head, *intent.RosterBody, error)
	Dirty   func(site string)                 // asks for that, some time soon
	Lock    func(site string) (unlock func()) // makes the caller the only writer of a site's chain in this process
	Notify  func(site string)                 // tells the site's sessions the heads, also where they did not move
}

// Rotation works on the store of one coordinator.
type Rotation struct {
	Config
	kick chan struct{}
	busy atomic.Bool // a rotation of agents' keys is under way

	mu     sync.Mutex // guards what follows
	status *api.KeyStatus
	open   map[string]int // rotations of agents' keys under way, by phase
	oldest time.Time      // when the first of them began; zero: there is none
}

// New returns a Rotation; Run moves it.
func New(cfg Config) *Rotation { return &Rotation{Config: cfg, kick: make(chan struct{}, 1)} }

// ServeTrust gives agents the trust stream from ?from= on, one envelope per line.
func (r *Rotation) ServeTrust(w http.ResponseWriter, q *http.Request) {
	from, err := strconv.ParseUint(q.URL.Query().Get("from"), 10, 64)
	if err != nil {
		http.Error(w, "from is no sequence number", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for _, env := range r.Trust.From(from) {
		b, err := document.Encode(env)
		if err == nil {
			_, err = io.WriteString(w, string(b)+"\n")
		}
		if err != nil {
			panic(http.ErrAbortHandler) // cuts the answer, so that the agent does not take a part for the whole
		}
	}
}

// add takes a document that the roots signed, and makes everybody follow it; added is false for a known one.
// more is committed with a new one.
// Errors: as publish.Trust.Add.
func (r *Rotation) add(ctx context.Context, env *intent.Envelope, more store.Commit) (added bool, err error) {
	added, err = r.Trust.Add(ctx, env, more)
	if added {
		r.Obey()
	}
	return added, err
}

// Reload takes what another coordinator of the same store added.
func (r *Rotation) Reload(ctx context.Context, _ string) error {
	if err := r.Trust.Load(ctx); err != nil {
		return err
	}
	r.Obey()
	return nil
}

// hearLimit bounds one fetch of the end of the trust stream from an agent, on a slow line.
const hearLimit = time.Minute

// Hear is called when an agent says how far it has the trust stream. What it has beyond ours is taken: this store is an older
// copy. Another hash in a place of ours is a fork, or what only the announced roots signed; what the agent has is fetched.
func (r *Rotation) Hear(ctx context.Context, site, agent string, has intent.Head) {
	chain := r.Trust.Chain()
	head := chain.Head
	if has.Seq == 0 || chain.HashAt(has.Seq) == has.Hash || r.Trust.HasFork(ctx, has) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, hearLimit)
	defer cancel()
	err := r.Fetch(ctx, site, agent, fmt.Sprintf("trust?from=%d", min(has.Seq, head.Seq+1)), func(env *intent.Envelope) error {
		_, err := r.add(ctx, env, store.Commit{})
		if errors.Is(err, document.ErrReplay) {
			return nil
		}
		return err
	})
	if errors.Is(err, document.ErrOffered) {
		return // kept, and shown, until a person accepts it here too
	}
	if err != nil {
		r.Log.Error("trust of an agent not taken", "site", site, "agent", agent, "seq", has.Seq, "err", err)
		if errors.Is(err, document.ErrFork) {
			r.Refused(ctx, site+"/"+agent, "trust.add", err)
		}
	}
}

// Fetch asks an agent for documents of a stream, and calls take for each in order.
func (r *Rotation) Fetch(ctx context.Context, site, agent, stream string, take func(*intent.Envelope) error) error {
	return uplink.Envelopes(ctx, r.Ask(site, agent), "http://"+agent+"/m/1/"+stream, func(env *intent.Envelope, _ int) error { return take(env) })
}
