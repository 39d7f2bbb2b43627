package founding

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
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
		key, err := Signer(filepath.Join(k.Dir, name))
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
	for _, name := range []string{FileRootSign, FileNextSign} {
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

// Signer returns the Ed25519 key at path, and makes it when there is none.
func Signer(path string) (ed25519.PrivateKey, error) {
	key, err := publish.LoadSigner(path)
	if errors.Is(err, fs.ErrNotExist) {
		return publish.MakeSigner(path)
	}
	return key, err
}

func publicOf(key ed25519.PrivateKey) []byte {
	return document.MarshalKey(key.Public().(ed25519.PublicKey))
}

// Offer makes the coordinator's own keys and offers trust document 1 to the holders of b.
func (k Keys) Offer(b *holder.Bundle, now time.Time) (*holder.Offer, error) {
	if b.Roots == nil {
		return nil, errors.New("cannot found a domain: these are next roots alone; `skerry pki init` without --next makes what founds a domain")
	}
	if b.Domain != k.Domain {
		return nil, fmt.Errorf("cannot found %s: the roots are of %s", k.Domain, b.Domain)
	}
	writer, err := Signer(filepath.Join(k.Dir, FileWriter))
	if err != nil {
		return nil, err
	}
	key, err := ca.LoadOrMakeKey(k.Dir, NameCA)
	if err != nil {
		return nil, err
	}
	csr, err := ca.NewRequest(key)
	if err != nil {
		return nil, err
	}
	if _, err := seal.LoadOrGenerate(k.Dir); err != nil {
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
			Writers:      []intent.Writer{{Key: publicOf(writer), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
		},
	}, nil
}

// Finish takes offered, signed by enough holders, and writes the certificates. own is what this directory offered.
func (k Keys) Finish(own, offered *holder.Offer, now time.Time) (*intent.Envelope, error) {
	was, err1 := json.Marshal(own.Body)
	is, err2 := json.Marshal(offered.Body)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if !bytes.Equal(was, is) || !bytes.Equal(own.CSR, offered.CSR) {
		return nil, errors.New("cannot found a domain: another document was signed than this directory offered")
	}
	env, err := offered.Envelope()
	if err != nil {
		return nil, err
	}
	if env == nil {
		return nil, errors.New("cannot found a domain: not enough holders have signed")
	}
	check := document.TrustChain{Pin: env.Digest()}
	body, err := check.Accept(env)
	if err != nil {
		return nil, fmt.Errorf("cannot found a domain: own trust document is refused: %w", err)
	}
	if err := ca.SaveCert(k.Dir, NameRoot, body.CAs[0].Root); err != nil {
		return nil, err
	}
	if err := ca.SaveCert(k.Dir, NameCA, body.CAs[0].Cert); err != nil {
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
