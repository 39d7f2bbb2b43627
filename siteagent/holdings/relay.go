package holdings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// chunkLimit is how long one chunk may take from a peer on the LAN: the usual 1 MiB at 70 kB/s, as boot/install waits for an agent.
	chunkLimit = 15 * time.Second
	// maxManifests bounds what is kept of manifests of relayed assets; 0.3 MB each at 10 GB.
	maxManifests = 8
)

// Peers is how a Keeper reaches the other agents.
type Peers interface {
	// Ask returns what an agent has, as Ask does.
	Ask(ctx context.Context, agent string) (*Report, error)
	// Tell lets an agent do something about an asset, and returns what it said.
	Tell(ctx context.Context, agent string, d intent.Digest, a Act, dryRun bool) (string, error)
	// Get returns the body of the agent's answer to a path, or to the span of it that the header Range says. The caller closes it.
	Get(ctx context.Context, agent, path, span string) (io.ReadCloser, error)
}

// Remote is Peers over round trippers.
type Remote func(agent string) http.RoundTripper

// Ask implements Peers.
func (r Remote) Ask(ctx context.Context, agent string) (*Report, error) {
	return Ask(ctx, r(agent), agent)
}

// Get implements Peers.
func (r Remote) Get(ctx context.Context, agent, path, span string) (io.ReadCloser, error) {
	return get(ctx, r(agent), agent, path, span)
}

// ErrNobody: no agent that is heard has all of an asset.
var ErrNobody = errors.New("no agent has it")

// Relay returns the content of an asset of the active intent that is not complete here. Where other agents keep it, it is read from them chunk
// by chunk, each verified before its first octet is handed out, and nothing of it is kept here. Where nobody has all of it and this agent
// fetches it, what is here is given at once and the rest as it comes; not those of class boot, of which firmware does not wait for the next
// octet. ctx bounds all reading. The caller closes it. Errors: ErrNobody.
func (k *Keeper) Relay(ctx context.Context, s *intent.AssetSpec) (io.ReadSeekCloser, error) {
	from := k.holders(s.Digest)
	if len(from) == 0 && s.Class != classBoot {
		return k.stream(ctx, s)
	}
	m, err := k.Manifest(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(from) == 0 {
		return nil, fmt.Errorf("cannot relay asset %s: %w", s.Digest.Short(), ErrNobody)
	}
	return chunk.NewReader(m, (&relay{ctx: ctx, k: k, m: m, from: from}).load), nil
}

// Manifest returns the manifest of an asset of the active intent, from here or from a peer that has the asset. Errors: ErrNobody.
func (k *Keeper) Manifest(ctx context.Context, s *intent.AssetSpec) (*chunk.Manifest, error) {
	if m, err := k.cfg.Blobs.Manifest(s.Digest); err == nil && m.Digest() == s.Manifest {
		return m, nil
	}
	k.mu.Lock()
	m := k.manifests[s.Manifest]
	k.mu.Unlock()
	if m != nil {
		return m, nil
	}
	errs := []error{fmt.Errorf("cannot relay asset %s: %w", s.Digest.Short(), ErrNobody)}
	for _, agent := range k.holders(s.Digest) {
		m, err := k.manifestOf(ctx, agent, s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.manifests) >= maxManifests {
			clear(k.manifests) // those in use come again
		}
		k.manifests[s.Manifest] = m
		return m, nil
	}
	return nil, errors.Join(errs...)
}

func (k *Keeper) manifestOf(ctx context.Context, agent string, s *intent.AssetSpec) (m *chunk.Manifest, err error) {
	ctx, cancel := context.WithTimeout(ctx, chunkLimit)
	defer cancel()
	body, err := k.cfg.Peers.Get(ctx, agent, "/m/1/assets/"+s.Digest.Hex()+"/manifest", "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if m, err = chunk.ReadManifest(body, s.Digest, s.Manifest); err != nil {
		return nil, fmt.Errorf("cannot take manifest from %s: %w", agent, err)
	}
	return m, nil
}

// relay reads chunks of an asset from peers.
type relay struct {
	ctx  context.Context
	k    *Keeper
	m    *chunk.Manifest
	from []string // who failed goes last
}

// load brings chunk i from the first that gives it as it should be.
func (r *relay) load(i int, buf []byte) ([]byte, error) {
	off, n := r.m.ChunkRange(i)
	errs := []error{fmt.Errorf("cannot relay chunk %d of %s: %w", i, r.m.Content.Short(), ErrNobody)}
	for range r.from {
		agent := r.from[0]
		err := r.chunk(agent, off, buf[:n])
		if err == nil && !r.m.VerifyChunk(i, buf[:n]) {
			err = fmt.Errorf("cannot use chunk %d from %s: %w", i, agent, chunk.ErrBad)
			r.k.cfg.Log.Warn("peer gives a bad chunk", "asset", r.m.Content.Short(), "chunk", i, "agent", agent)
		}
		if err == nil {
			return buf[:n], nil
		}
		errs = append(errs, err)
		r.from = append(r.from[1:], agent)
	}
	return nil, errors.Join(errs...)
}

func (r *relay) chunk(agent string, off int64, b []byte) (err error) {
	ctx, cancel := context.WithTimeout(r.ctx, chunkLimit)
	defer cancel()
	body, err := r.k.cfg.Peers.Get(ctx, agent, "/m/1/assets/"+r.m.Content.Hex()+"/content", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(b))-1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if _, err := io.ReadFull(body, b); err != nil {
		return fmt.Errorf("cannot read from %s: %w", agent, err)
	}
	return nil
}
