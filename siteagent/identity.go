package siteagent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/state"
)

// identity is who this agent is, as the coordinator decided when it joined. It is all that a cold start needs beside keys
// and state.
type identity struct {
	Site        string               `json:"site"`
	Agent       string               `json:"agent"`
	Domain      string               `json:"domain"`
	Pin         intent.Digest        `json:"pin"`
	Coordinator []string             `json:"coordinator"`
	Leaf        []byte               `json:"leaf"`
	Web         []byte               `json:"web"`
	CA          []byte               `json:"ca"`
	Trust       []*intent.Envelope   `json:"trust"`
	Roster      intent.RosterAgent   `json:"roster"`
	Peers       []intent.RosterAgent `json:"peers,omitempty"` // the site's other agents when it joined
}

const fileIdentity = "identity.json"

func (id *identity) certificates(keys *seal.Keys) (leaf, web *tls.Certificate) {
	leaf = &tls.Certificate{Certificate: [][]byte{id.Leaf, id.CA}, PrivateKey: keys.TLS}
	web = &tls.Certificate{Certificate: [][]byte{id.Web, id.CA}, PrivateKey: keys.TLS}
	return leaf, web
}

// load reads the identity, or joins with cfg.Join when there is none. A token given to an agent that has joined already is
// ignored: it never needs it again.
func loadIdentity(ctx context.Context, cfg Config) (*identity, *seal.Keys, error) {
	dir := filepath.Join(cfg.Data, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot use data directory: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, fileIdentity))
	if errors.Is(err, fs.ErrNotExist) {
		if cfg.Spare == "" {
			return joinSite(ctx, cfg, dir)
		}
		if err := unpack(cfg, dir); err != nil {
			return nil, nil, err
		}
		b, err = os.ReadFile(filepath.Join(dir, fileIdentity))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read identity: %w", err)
	}
	id := &identity{}
	if err := json.Unmarshal(b, id); err != nil {
		return nil, nil, fmt.Errorf("cannot read identity: %w", err)
	}
	keys, err := seal.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	return id, keys, nil
}

// joinRetry is how often a new agent asks a coordinator that does not answer; it has nothing else to do.
const joinRetry = 3 * time.Second

func joinSite(ctx context.Context, cfg Config, dir string) (*identity, *seal.Keys, error) {
	if cfg.Join == "" {
		return nil, nil, errors.New("cannot start: this agent has not joined a site; give --join TOKEN@HOST:PORT (`skerry token create --site SITE --agent ID` makes it), or --spare KIT --replaces ID")
	}
	token, addr, err := join.ParseTarget(cfg.Join)
	if err != nil {
		return nil, nil, err
	}
	keys, err := seal.LoadOrGenerate(dir)
	if err != nil {
		return nil, nil, err
	}
	about := join.About{Boot: cfg.Boot}
	if cfg.Management != "" { // a spare has none yet
		about.Addr = []string{cfg.Management}
	}
	for {
		res, err := join.Join(ctx, &net.Dialer{Timeout: 10 * time.Second}, addr, token, keys, about)
		if err == nil {
			id := &identity{
				Site: res.Answer.Site, Agent: res.Answer.Agent, Domain: res.Answer.Domain, Pin: token.Pin, Coordinator: []string{addr},
				Leaf: res.Answer.Leaf, Web: res.Answer.Web, CA: res.Answer.CA, Trust: res.Trust, Roster: res.Answer.Roster, Peers: res.Answer.Peers,
			}
			cfg.Logger.Info("joined", "site", id.Site, "agent", id.Agent)
			return id, keys, saveIdentity(dir, id)
		}
		if errors.Is(err, join.ErrRefused) {
			return nil, nil, fmt.Errorf("%w; make a new token with `skerry token create`", err)
		}
		cfg.Logger.Warn("cannot join yet", "addr", addr, "err", err)
		if !sleep(ctx, joinRetry) {
			return nil, nil, ctx.Err()
		}
	}
}

// saveIdentity writes the file whole or not at all; it is the last thing of joining.
func saveIdentity(dir string, id *identity) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode identity: %w", err)
	}
	return state.WriteFile(filepath.Join(dir, fileIdentity), b)
}

// stateKey returns the key of the record MACs, making it the first time.
func stateKey(data string) ([]byte, error) {
	path := filepath.Join(data, upkeep.KeyFile)
	b, err := os.ReadFile(path)
	if err == nil && len(b) == 32 {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read state key: %w", err)
	}
	if err == nil {
		return nil, fmt.Errorf("cannot use state key %s: %d octets, want 32", path, len(b))
	}
	b = make([]byte, 32)
	rand.Read(b) // never fails: crypto/rand, Go 1.24
	return b, state.WriteFile(path, b)
}
