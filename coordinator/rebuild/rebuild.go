package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/skerry-metal/skerry/coordinator/backup"
	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/join"
)

// Config says what is rebuilt.
type Config struct {
	Place  backup.Place // its directory has no coordinator yet; the keys of the roots may lie in it
	Agents []string     // host:port of the site API of agents; the longest trust chain counts
	ID     string       // of the new coordinator, a DNS label
	Addr   []string     // host:port at which agents and users reach it
	Signed string       // the offer that holders signed; empty: the one below Place.Data
	// Master returns the key of the new store, and makes it.
	Master func(path string) ([]byte, error)
	Now    func() time.Time
}

// Result says what was made.
type Result struct {
	Domain string        `json:"domain"`
	Pin    intent.Digest `json:"pin"`   // of trust document 1: join tokens carry it
	Trust  uint64        `json:"trust"` // the document that lists the new keys
	CA     string        `json:"ca"`    // file with R, for clients
	// Offer, when set, is the file that holders are to sign before anything is rebuilt; Have of Of signatures are there.
	Offer string `json:"offer,omitempty"`
	Have  int    `json:"have"`
	Of    int    `json:"of"`
}

// Run rebuilds a coordinator. Everything is on disk when it returns; after a crash the same call goes on.
func Run(ctx context.Context, cfg Config) (res *Result, err error) {
	if !intent.IsLabel(cfg.ID) || len(cfg.Addr) == 0 {
		return nil, errors.New("cannot rebuild: give --id, a name of a-z, 0-9 and -, and --addr HOST:PORT at which agents reach the coordinator")
	}
	keys, master := filepath.Join(cfg.Place.Data, "keys"), filepath.Join(cfg.Place.Data, "keys", backup.MasterFile)
	chain, docs, err := longest(ctx, cfg.Agents)
	if err != nil {
		return nil, err
	}
	domain := chain.Body.Domain
	offer := filepath.Join(cfg.Place.Data, fmt.Sprintf("trust%d.json", chain.Head.Seq+1))
	if _, err := os.Stat(master); !errors.Is(err, fs.ErrNotExist) {
		if _, oerr := os.Stat(offer); errors.Is(oerr, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("cannot rebuild: %s holds a coordinator already", cfg.Place.Data), err)
		}
	}
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, fmt.Errorf("cannot rebuild: %w", err)
	}
	k := founding.Keys{Dir: keys, Domain: domain, ID: cfg.ID, Addr: cfg.Addr}
	f, err := k.Again(offer, chain, docs, cfg.Signed, cfg.Now())
	if err != nil {
		return nil, err
	}
	res = &Result{Domain: domain, Pin: chain.Anchor(), Trust: chain.Head.Seq + 1, CA: filepath.Join(keys, founding.NameRoot+".crt"), Have: f.Have, Of: f.Of}
	if f.Envelope == nil {
		res.Offer = offer
		return res, nil
	}
	secret, err := cfg.Master(master)
	if err != nil {
		return nil, err
	}
	st, closed, err := cfg.Place.Open(ctx, secret)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(begin(ctx, st, cfg, chain, append(docs, f.Envelope)), closed()); err != nil {
		return nil, err
	}
	return res, os.Remove(offer)
}

// begin writes the trust chain, and that every site is to be heard.
func begin(ctx context.Context, st store.Store, cfg Config, chain *document.TrustChain, docs []*intent.Envelope) error {
	self, err := json.Marshal(cfg.ID)
	if err != nil {
		return fmt.Errorf("cannot encode id: %w", err)
	}
	put := map[string][]byte{"self": self, publish.PendingKey: []byte("1")}
	for i, env := range docs {
		if put[publish.TrustKey(chain.First()+uint64(i))], err = document.Encode(env); err != nil {
			return err
		}
	}
	for _, d := range chain.Lone() { // the holders who signed the last document vouch for them
		key, v, err := publish.Acceptance{Digest: d, By: "rebuild", At: cfg.Now().UTC()}.Record()
		if err != nil {
			return err
		}
		put[key] = v
	}
	_, err = st.Commit(ctx, store.Commit{If: []store.Guard{{Key: "self"}}, Put: put})
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	last := publish.TrustKey(chain.Head.Seq + 1)
	if e, gerr := st.Get(ctx, last); gerr == nil && string(e.Value) == string(put[last]) {
		return nil // a crash came before the offer was removed
	}
	return errors.New("cannot rebuild: this store holds a domain already")
}

// longest asks agents for the trust chain. One that cannot be reached does not stop it; two that differ do.
func longest(ctx context.Context, agents []string) (best *document.TrustChain, docs []*intent.Envelope, err error) {
	if len(agents) == 0 {
		return nil, nil, errors.New("cannot rebuild: give --from-sites HOST:PORT of an agent of each site that can be reached")
	}
	var failed []error
	for _, addr := range agents {
		chain, envs, err := join.Chain(ctx, &net.Dialer{}, addr)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if best == nil {
			best, docs = chain, envs
			continue
		}
		short, long := best, chain
		if short.Head.Seq > long.Head.Seq {
			short, long = long, short
		}
		if n := short.Head.Seq; long.First() <= n && long.HashAt(n) != short.Head.Hash {
			return nil, nil, fmt.Errorf("cannot rebuild: %s has another trust document %d than an agent before it: %w; name only agents that follow the roots that sign now", addr, n, document.ErrFork)
		}
		if chain.Head.Seq > best.Head.Seq || chain.Head == best.Head && chain.First() < best.First() {
			best, docs = chain, envs
		}
	}
	if best == nil {
		return nil, nil, fmt.Errorf("cannot rebuild: no agent told the trust chain: %w", errors.Join(failed...))
	}
	return best, docs, nil
}
