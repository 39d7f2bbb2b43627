package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
)

// used is what the agent shows and signs with now. It is replaced, never changed.
type used struct {
	id   *Identity
	keys *seal.Keys
	leaf *tls.Certificate
	web  *tls.Certificate
}

// Own holds the agent's identity and keys. Safe for concurrent use.
type Own struct {
	dir string
	now atomic.Pointer[used]

	mu   sync.Mutex            // guards what follows
	sets map[uint64]*seal.Keys // by number: those in use, those of before that were not forgotten, those of a rotation
}

// Load reads the keys that lie beside an identity. A set that was not written whole is none: nobody knows of it yet.
func Load(dir string, id *Identity) (*Own, error) {
	o := &Own{dir: dir, sets: map[uint64]*seal.Keys{}}
	numbers := []uint64{0}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read keys: %w", err)
	}
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil && n > 0 && e.IsDir() {
			numbers = append(numbers, n)
		}
	}
	for _, n := range numbers {
		k, err := seal.Load(o.path(n))
		if errors.Is(err, fs.ErrNotExist) && n != id.Set {
			continue
		}
		if err != nil {
			return nil, err
		}
		o.sets[n] = k
	}
	if o.sets[id.Set] == nil {
		return nil, fmt.Errorf("cannot read keys: set %d is not there", id.Set)
	}
	o.use(id)
	return o, nil
}

// path is where a set lies; the first one lies beside the identity.
func (o *Own) path(set uint64) string {
	if set == 0 {
		return o.dir
	}
	return filepath.Join(o.dir, strconv.FormatUint(set, 10))
}

func (o *Own) use(id *Identity) {
	k := o.sets[id.Set]
	o.now.Store(&used{
		id: id, keys: k,
		leaf: &tls.Certificate{Certificate: [][]byte{id.Leaf, id.CA}, PrivateKey: k.TLS},
		web:  &tls.Certificate{Certificate: [][]byte{id.Web, id.CA}, PrivateKey: k.TLS},
	})
}

// Leaf returns the certificate for skerry protocols that is in use.
func (o *Own) Leaf() *tls.Certificate { return o.now.Load().leaf }

// Web returns the certificate for HTTP that is in use.
func (o *Own) Web() *tls.Certificate { return o.now.Load().web }

// Sign returns the key that signs now.
func (o *Own) Sign() ed25519.PrivateKey { return o.now.Load().keys.Sign }

// All returns every set of keys that the agent holds, the one in use first: something may be sealed to any of them.
func (o *Own) All() []*seal.Keys {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := o.now.Load().keys
	out := []*seal.Keys{first}
	for _, n := range slices.Sorted(maps.Keys(o.sets)) {
		if o.sets[n] != first {
			out = append(out, o.sets[n])
		}
	}
	return out
}

// next returns the keys that come after those in use, making them if there are none. They are on disk when it returns.
func (o *Own) next() (k *seal.Keys, made bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := o.now.Load().id.Set + 1
	if k := o.sets[set]; k != nil {
		return k, false, nil
	}
	if k, err = seal.LoadOrGenerate(o.path(set)); err != nil {
		return nil, false, err
	}
	o.sets[set] = k
	return k, true, nil
}

// credentials are certificates for one of the sets.
type credentials struct {
	set           uint64
	leaf, web, ca *x509.Certificate
}

// offered returns the best of what a roster entry certifies for keys that the agent holds: of the first key of the entry that it
// holds, the newest pair of certificates that one of the CAs vouches for. The coordinator lists the newest first; what its clock said
// when it issued them decides nothing. ok is false when there is none.
func (o *Own) offered(me intent.RosterAgent, cas []*x509.Certificate) (c credentials, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, spki := range me.TLS {
		first := len(me.Certs)
		for n, k := range o.sets {
			if pub, err := k.TLSPublic(); err != nil || !bytes.Equal(pub, spki) {
				continue
			}
			for _, ca := range cas {
				leaf, at := newest(me.Certs, spki, ca, true)
				web, _ := newest(me.Certs, spki, ca, false)
				if leaf != nil && web != nil && at < first {
					c, ok, first = credentials{set: n, ca: ca, leaf: leaf, web: web}, true, at
				}
			}
		}
		if ok {
			return c, true
		}
	}
	return c, false
}

// newest returns the first certificate of a key under ca, a leaf (which has a URI) or a web leaf, and its place.
func newest(ders [][]byte, spki []byte, ca *x509.Certificate, leaf bool) (*x509.Certificate, int) {
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err == nil && bytes.Equal(c.RawSubjectPublicKeyInfo, spki) && (len(c.URIs) == 1) == leaf && c.CheckSignatureFrom(ca) == nil {
			return c, i
		}
	}
	return nil, 0
}

// change makes c what the agent is. When it returns nil this is on disk: the rename is the change.
func (o *Own) change(c credentials, me intent.RosterAgent, peers []intent.RosterAgent) error {
	id := *o.now.Load().id
	id.Set, id.Leaf, id.Web, id.CA, id.Roster, id.Peers = c.set, c.leaf.Raw, c.web.Raw, c.ca.Raw, me, peers
	if err := id.Save(o.dir); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.use(&id)
	return nil
}

// forget removes the sets before the one in use, and returns how many there were. The TLS key goes last: what a crash leaves of a
// set is found and removed by the next call.
func (o *Own) forget() (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := o.now.Load().id.Set
	for old := range set {
		if _, err := os.Stat(o.path(old)); err != nil && old > 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		gone, err := seal.Remove(o.path(old))
		if err != nil {
			return n, err
		}
		if old > 0 {
			if err := os.Remove(o.path(old)); err != nil {
				return n, fmt.Errorf("cannot forget keys: %w", err)
			}
		}
		if gone {
			n++
		}
		delete(o.sets, old)
	}
	return n, nil
}

// old tells whether there are keys to forget.
func (o *Own) old() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := range o.sets {
		if n < o.now.Load().id.Set {
			return true
		}
	}
	return false
}
