package siteagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/keys"
)

// loadIdentity reads the identity, or joins with cfg.Join when there is none. A token given to an agent that has joined already is
// ignored: it never needs it again.
func loadIdentity(ctx context.Context, cfg Config) (*keys.Identity, *keys.Own, error) {
	dir := filepath.Join(cfg.Data, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot use data directory: %w", err)
	}
	id, err := keys.ReadIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if cfg.Spare == "" {
			id, err = joinSite(ctx, cfg, dir)
		} else if err = unpack(cfg, dir); err == nil {
			id, err = keys.ReadIdentity(dir)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	own, err := keys.Load(dir, id)
	return id, own, err
}

// joinRetry is how often a new agent asks a coordinator that does not answer; it has nothing else to do.
const joinRetry = 3 * time.Second

func joinSite(ctx context.Context, cfg Config, dir string) (*keys.Identity, error) {
	if cfg.Join == "" {
		return nil, errors.New("cannot start: this agent has not joined a site; give --join TOKEN@HOST:PORT (`skerry token create --site SITE --agent ID` makes it), or --spare KIT --replaces ID")
	}
	token, addr, err := join.ParseTarget(cfg.Join)
	if err != nil {
		return nil, err
	}
	fresh, err := seal.LoadOrGenerate(dir)
	if err != nil {
		return nil, err
	}
	about := join.About{Boot: cfg.Boot}
	if cfg.Management != "" { // a spare has none yet
		about.Addr = []string{cfg.Management}
	}
	for {
		res, err := join.Join(ctx, cfg.Network, addr, token, fresh, about)
		if err == nil {
			id := &keys.Identity{
				Site: res.Answer.Site, Agent: res.Answer.Agent, Domain: res.Answer.Domain, Pin: token.Pin, Coordinator: []string{addr},
				Leaf: res.Answer.Leaf, Web: res.Answer.Web, CA: res.Answer.CA, Trust: res.Trust, Roster: res.Answer.Roster, Peers: res.Answer.Peers,
			}
			cfg.Logger.Info("joined", "site", id.Site, "agent", id.Agent)
			return id, id.Save(dir)
		}
		if errors.Is(err, join.ErrRefused) {
			return nil, fmt.Errorf("%w; make a new token with `skerry token create`", err)
		}
		if errors.Is(err, join.ErrPin) {
			return nil, err
		}
		cfg.Logger.Warn("cannot join yet", "addr", addr, "err", err)
		if !sleep(ctx, joinRetry) {
			return nil, ctx.Err()
		}
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
