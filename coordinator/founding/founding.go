package founding

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

// The files of the key directory.
const (
	FileRootSign = "root-sign.key" // Ed25519, PKCS #8: signs trust documents; only where the host is the one holder
	FileNextSign = "next-sign.key" // the announced next root, there too
	fileLate     = "late-sign.key" // what will be announced when that one takes over
	FileWriter   = "writer.key"    // Ed25519: signs intent
	NameRoot     = "root"          // R
	NameCA       = "ca"            // C
	fileLeaf     = "leaf.der"
	fileWeb      = "web.der"
)

// firstCA is the name of the first coordinator CA.
const firstCA = "C1"

// Keys is the key directory of one coordinator.
type Keys struct {
	Dir    string // 0700
	Domain string
	ID     string   // of the coordinator
	Addr   []string // host:port at which agents and users reach it
}

// MakeHolder makes the roots of a domain in the directory itself: whoever has this host is the domain.
func (k Keys) MakeHolder(now time.Time) (*holder.Bundle, error) {
	root, err := ca.Load(k.Dir, NameRoot, k.Domain)
	if errors.Is(err, fs.ErrNotExist) {
		if root, err = ca.NewRoot(k.Domain, now); err == nil {
			err = root.Save(k.Dir, NameRoot)
		}
	}
	if err != nil {
		return nil, err
	}
	b := &holder.Bundle{Domain: k.Domain, Root: root.Cert.Raw, Roots: &intent.RootSet{Threshold: 1}, Next: intent.RootSet{Threshold: 1}}
	for name, set := range map[string]*intent.RootSet{FileRootSign: b.Roots, FileNextSign: &b.Next} {
		key, err := publish.LoadOrMakeSigner(filepath.Join(k.Dir, name))
		if err != nil {
			return nil, err
		}
		set.Keys = [][]byte{publicOf(key)}
	}
	return b, nil
}

// Holder returns the roots that lie on this host; nil where holders have them elsewhere.
func (k Keys) Holder() (*holder.Holder, error) {
	h := &holder.Holder{Name: k.ID, Domain: k.Domain}
	for _, name := range []string{FileRootSign, FileNextSign, fileLate} {
		key, err := publish.LoadSigner(filepath.Join(k.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h.Keys = append(h.Keys, key)
	}
	if len(h.Keys) == 0 {
		return nil, nil
	}
	root, err := ca.Load(k.Dir, NameRoot, k.Domain)
	if err != nil {
		return nil, err
	}
	h.Root = root
	return h, nil
}

// Late makes the set that is announced when the announced one takes over, for a domain whose one holder is the host.
func (k Keys) Late() (*intent.RootSet, error) {
	key, err := publish.LoadOrMakeSigner(filepath.Join(k.Dir, fileLate))
	if err != nil {
		return nil, err
	}
	return &intent.RootSet{Threshold: 1, Keys: [][]byte{publicOf(key)}}, nil
}

// NextSet is the announced set where its one key lies here; nil elsewhere.
func (k Keys) NextSet() *intent.RootSet {
	key, err := publish.LoadSigner(filepath.Join(k.Dir, FileNextSign))
	if err != nil {
		return nil
	}
	return &intent.RootSet{Threshold: 1, Keys: [][]byte{publicOf(key)}}
}

// Advance moves the keys of the one holder on once roots are the announced set: a crash in between is made up for by the next call.
func (k Keys) Advance(roots intent.RootSet) error {
	path := func(name string) string { return filepath.Join(k.Dir, name) }
	next, err := publish.LoadSigner(path(FileNextSign))
	if err == nil && bytes.Equal(roots.Keys[0], publicOf(next)) {
		err = state.Rename(path(FileNextSign), path(FileRootSign))
		if err == nil {
			err = fs.ErrNotExist
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := state.Rename(path(fileLate), path(FileNextSign)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func publicOf(key ed25519.PrivateKey) []byte {
	return document.MarshalKey(key.Public().(ed25519.PublicKey))
}

// own makes the coordinator's own keys, and returns the public half of its writer and the request of its CA.
func (k Keys) own() (writer, csr []byte, err error) {
	signer, err := publish.LoadOrMakeSigner(filepath.Join(k.Dir, FileWriter))
	if err != nil {
		return nil, nil, err
	}
	key, err := ca.LoadOrMakeKey(k.Dir, NameCA)
	if err != nil {
		return nil, nil, err
	}
	if csr, err = ca.NewRequest(key); err != nil {
		return nil, nil, err
	}
	_, err = seal.LoadOrGenerate(k.Dir)
	return publicOf(signer), csr, err
}

// Offer makes the coordinator's own keys and offers trust document 1 to the holders of b.
func (k Keys) Offer(b *holder.Bundle, now time.Time) (*holder.Offer, error) {
	if b.Roots == nil {
		return nil, errors.New("cannot found a domain: these are next roots alone; `skerry pki init` without --next makes what founds a domain")
	}
	if b.Domain != k.Domain {
		return nil, fmt.Errorf("cannot found %s: the roots are of %s", k.Domain, b.Domain)
	}
	writer, csr, err := k.own()
	if err != nil {
		return nil, err
	}
	return &holder.Offer{
		CSR: csr, CA: firstCA, Next: &b.Next,
		Body: intent.TrustBody{
			Header:       document.Follow(intent.Head{}, intent.StreamTrust, 0, now),
			Domain:       k.Domain,
			Roots:        *b.Roots,
			Next:         b.Next.Digest(),
			CAs:          []intent.CACert{{Root: b.Root, State: intent.KeyUse}},
			Coordinators: []intent.Coordinator{{ID: k.ID, Addr: k.Addr}},
			Writers:      []intent.Writer{{Key: writer, Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
		},
	}, nil
}

// Finish takes offered, signed by enough holders, and writes the certificates. own is what this directory offered.
func (k Keys) Finish(own, offered *holder.Offer, now time.Time) (*intent.Envelope, error) {
	if !own.Same(offered) {
		return nil, errors.New("cannot found a domain: another document was signed than this directory offered")
	}
	env, err := offered.Envelope()
	if err != nil {
		return nil, err
	}
	if env == nil {
		return nil, errors.New("cannot found a domain: not enough holders have signed")
	}
	check, err := document.Believe(append(slices.Clone(own.Chain), env))
	if err != nil {
		return nil, fmt.Errorf("cannot found a domain: its trust chain is refused: %w", err)
	}
	c := check.Body.CAs[len(check.Body.CAs)-1] // ours is offered last
	if err := ca.SaveCert(k.Dir, NameRoot, c.Root); err != nil {
		return nil, err
	}
	if err := ca.SaveCert(k.Dir, NameCA, c.Cert); err != nil {
		return nil, err
	}
	sub, err := ca.Load(k.Dir, NameCA, k.Domain)
	if err != nil {
		return nil, err
	}
	pair, err := seal.LoadOrGenerate(k.Dir)
	if err != nil {
		return nil, err
	}
	return env, k.certify(sub, pair.TLS, now)
}

// certify writes leaf.der and web.der beside the keys.
func (k Keys) certify(c *ca.CA, key *ecdsa.PrivateKey, now time.Time) error {
	csr, err := ca.NewRequest(key)
	if err != nil {
		return err
	}
	leaf, err := c.Issue(csr, trust.Identity{Kind: trust.Coordinator, ID: k.ID}, now)
	if err != nil {
		return err
	}
	names, ips := hostsOf(k.Addr)
	web, err := c.IssueWeb(csr, append(names, k.ID+"."+k.Domain), ips, now)
	if err != nil {
		return err
	}
	return errors.Join(state.WriteFile(filepath.Join(k.Dir, fileLeaf), leaf.Raw), state.WriteFile(filepath.Join(k.Dir, fileWeb), web.Raw))
}

// hostsOf splits host:port addresses into names and IPs.
func hostsOf(addr []string) (names []string, ips []netip.Addr) {
	for _, a := range addr {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			host = a
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			ips = append(ips, ip)
		} else {
			names = append(names, host)
		}
	}
	return names, ips
}
