package siteagent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/members"
	"github.com/skerry-metal/skerry/storage/state"
)

// KitConfig says how the kit of a spare is made.
type KitConfig struct {
	Join       string   // TOKEN@HOST:PORT of a token for a spare
	Recipients []string // age1…: who may open the kit; none: whoever has the passphrase that is made for it
	Out        io.Writer
	Logger     *slog.Logger
	Network    transport.Network // nil: this machine's
}

// Kit says what was made.
type Kit struct {
	Site       string `json:"site"`
	Spare      string `json:"spare"`
	Passphrase string `json:"passphrase,omitempty"` // shown once
}

// MakeKit redeems a token for a spare and writes the identity that it gets as a kit; nothing else of it stays here.
func MakeKit(ctx context.Context, cfg KitConfig) (*Kit, error) {
	dir, err := os.MkdirTemp("", "skerry-kit-")
	if err != nil {
		return nil, fmt.Errorf("cannot make kit: %w", err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, kitLimit)
	defer cancel()
	if cfg.Network == nil {
		cfg.Network = transport.Host{}
	}
	id, err := joinSite(ctx, Config{Join: cfg.Join, Network: cfg.Network, Logger: cfg.Logger}, dir)
	if err != nil {
		return nil, err
	}
	if id.Roster.State != intent.StateSpare {
		return nil, fmt.Errorf("cannot make a kit of agent %s/%s: make the token with `skerry token create --spare`", id.Site, id.Agent)
	}
	k := &Kit{Site: id.Site, Spare: id.Agent}
	lock := seal.Lock{Recipients: cfg.Recipients}
	if len(cfg.Recipients) == 0 {
		k.Passphrase = rand.Text() // 130 bits: nobody guesses it, also after years with the file
		lock.Passphrase = seal.NewSecret([]byte(k.Passphrase))
	}
	return k, members.PackKit(dir, lock, cfg.Out)
}

// unpack makes this box the spare of a kit, in the place of cfg.Replaces.
func unpack(cfg Config, dir string) error {
	f, err := os.Open(cfg.Spare)
	if err != nil {
		return fmt.Errorf("cannot read kit: %w", err)
	}
	defer f.Close()
	if !intent.IsLabel(cfg.Replaces) {
		return fmt.Errorf("cannot use a kit without the agent that it replaces: give --replaces ID, not %q", cfg.Replaces)
	}
	if err := state.WriteFile(filepath.Join(dir, fileReplaces), []byte(cfg.Replaces)); err != nil {
		return err
	}
	key := seal.Key{Identity: cfg.KitIdentity}
	if cfg.KitPassphrase != "" {
		b, err := os.ReadFile(cfg.KitPassphrase)
		if err != nil {
			return fmt.Errorf("cannot read passphrase: %w", err)
		}
		key.Passphrase = seal.NewSecret(bytes.TrimSpace(b))
	}
	defer debug.FreeOSMemory() // a passphrase costs 256 MiB once; an agent lives for years
	return members.UnpackKit(f, key, dir)
}

const (
	fileReplaces = "replaces" // whose place a spare takes
	offerEvery   = 5 * time.Second
	// kitLimit is how long a coordinator may take: somebody waits for the kit, unlike for an agent that joins.
	kitLimit  = time.Minute
	offerWait = 3 * time.Second // for one peer: it fsyncs and tells its own peers
)

// place returns whose place this spare is still to take; "" for an agent that is no spare, or took it.
func (a *Agent) place() (string, error) {
	b, err := os.ReadFile(filepath.Join(a.cfg.Data, "keys", fileReplaces))
	if errors.Is(err, os.ErrNotExist) || members.Entered(a.journal, a.id.Agent) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read whom this spare replaces: %w", err)
	}
	return string(b), nil
}

// vacant makes sure that nothing answers where the agent stood that this spare is to replace.
func (a *Agent) vacant(ctx context.Context) error {
	replaces, err := a.place()
	if err != nil || replaces == "" {
		return err
	}
	for _, p := range a.id.Peers {
		if p.ID != replaces {
			continue
		}
		for _, addr := range p.Addr {
			dctx, cancel := context.WithTimeout(ctx, offerWait)
			c, err := a.cfg.Network.DialContext(dctx, "tcp", addr)
			if cancel(); err == nil {
				return errors.Join(fmt.Errorf("cannot take the place of %s: something answers at %s; stop it first", replaces, addr), c.Close())
			}
		}
	}
	return nil
}

// enter puts this spare into its place the first time, not against a peer that sees the other one alive. Peers that cannot be
// reached do not hold it up; one that does not know the spare does, until it does: its intent is older than the kit, or newer, and the
// kit is withdrawn.
func (a *Agent) enter(ctx context.Context) error {
	replaces, err := a.place()
	if err != nil || replaces == "" {
		return err
	}
	env, err := a.members.NewAdmission(replaces)
	if err != nil {
		return err
	}
	for _, p := range a.id.Peers {
		if p.ID == replaces {
			continue
		}
		err := a.offerTo(ctx, p, env)
		for ; errors.Is(err, errNotKnown); err = a.offerTo(ctx, p, env) {
			a.cfg.Logger.Warn("this spare waits: a peer does not know it; it will once its intent has the spare, unless the kit was withdrawn", "peer", p.ID, "err", err)
			if !sleep(ctx, offerEvery) {
				return ctx.Err()
			}
		}
		if errors.Is(err, errTurnedAway) {
			return err
		}
		if err != nil {
			a.cfg.Logger.Warn("peer has not heard of the admission yet", "peer", p.ID, "err", err)
		}
	}
	if err := a.members.Enter(ctx, env); err != nil {
		return err
	}
	a.cfg.Logger.Warn("this spare stands in for another agent now", "spare", a.id.Agent, "replaces", replaces)
	return nil
}

var (
	// errTurnedAway says that a peer was reached and does not take the spare.
	errTurnedAway = errors.New("a peer does not admit this spare")
	// errNotKnown says that a peer was reached whose intent has no such spare.
	errNotKnown = errors.New("a peer does not know this spare")
)

// offerTo brings a peer the admission over its site API: the mesh is closed to a spare until then. The peer's certificate is
// checked at the time floor, because a new box may not know what time it is.
func (a *Agent) offerTo(ctx context.Context, p intent.RosterAgent, env *intent.Envelope) error {
	body, err := document.Encode(env)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	for _, r := range a.replica.View().Roots {
		roots.AddCert(r)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(len(p.Addr)+1)*offerWait)
	defer cancel()
	cl := &http.Client{Timeout: offerWait, Transport: &http.Transport{
		DisableKeepAlives: true,
		// By our own context: net/http dials on when a request was given up, and a host that is off answers nothing.
		DialContext: func(_ context.Context, network, to string) (net.Conn, error) {
			return a.cfg.Network.DialContext(ctx, network, to)
		},
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Time: func() time.Time { now, _ := a.floor.Now(); return now }},
	}}
	err = errors.New("it has no address")
	for _, addr := range p.Addr {
		req, rerr := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+"/v1/sites/"+a.id.Site+"/admissions", bytes.NewReader(body))
		if rerr != nil {
			return rerr
		}
		req.Header.Set("Content-Type", "application/json")
		var res *http.Response
		if res, err = cl.Do(req); err != nil {
			continue
		}
		text, rerr := io.ReadAll(io.LimitReader(res.Body, 4096))
		_ = res.Body.Close() // read to its end, or not needed
		switch {
		case res.StatusCode < 300:
			return nil
		case res.StatusCode == http.StatusNotFound:
			return fmt.Errorf("%w: %s", errNotKnown, text)
		case res.StatusCode < 500 && rerr == nil:
			return fmt.Errorf("%w: %s says %d: %s", errTurnedAway, p.ID, res.StatusCode, text)
		}
		err = errors.Join(fmt.Errorf("%s says %d", p.ID, res.StatusCode), rerr)
	}
	return err
}

// keepOffering tells peers that come back of this spare's admission, until the coordinator has made it an agent.
func (a *Agent) keepOffering(ctx context.Context) error {
	for a.members.Entered() {
		for _, env := range a.members.Admissions() {
			for _, p := range a.replica.State().Roster.Agents {
				if p.ID == a.id.Agent || a.sees(p.ID) {
					continue
				}
				if err := a.offerTo(ctx, p, env); err != nil {
					a.cfg.Logger.Debug("admission not offered", "peer", p.ID, "err", err)
				}
			}
		}
		if !sleep(ctx, offerEvery) {
			break
		}
	}
	return nil
}

func (a *Agent) sees(id string) bool {
	for _, m := range a.gossip.Members() {
		if m.ID == id {
			return m.Alive
		}
	}
	return false
}
