package rotate

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
)

// Kind says what a key is for.
type Kind string

// The kinds, and the only values of the label of skerry_key_age_seconds.
const (
	Root        Kind = "root"        // signs trust documents
	CA          Kind = "ca"          // a coordinator CA
	Writer      Kind = "writer"      // signs intent and revocations
	Coordinator Kind = "coordinator" // the leaf of a coordinator
	Agent       Kind = "agent"       // the leaf of an agent
)

// Kinds lists all kinds.
func Kinds() []Kind { return []Kind{Root, CA, Writer, Coordinator, Agent} }

// Key is one key and since when it is there.
type Key struct {
	Kind  Kind
	Owner string // SITE/AGENT, the name of a coordinator or a CA, "epoch N" of a writer, "root N" counted from 1
	Made  time.Time
}

// Age is how old k is at now, never negative.
func (k Key) Age(now time.Time) time.Duration { return max(now.Sub(k.Made), 0) }

// Made returns when the certificate was issued: it begins ca.Backdate before that.
func Made(der []byte) (time.Time, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot tell the age of a certificate: %w", err)
	}
	return c.NotBefore.Add(ca.Backdate), nil
}

// Signed lists the keys that the newest of the trust documents (from the first on, in order) names and that are not retired. A
// root or writer was made when the first document that lists it without a break was issued.
func Signed(docs []*intent.TrustBody) ([]Key, error) {
	if len(docs) == 0 {
		return nil, nil
	}
	head := docs[len(docs)-1]
	since := func(has func(*intent.TrustBody) bool) time.Time {
		at := head.Issued
		for _, d := range slices.Backward(docs) {
			if !has(d) {
				break
			}
			at = d.Issued
		}
		return at
	}
	var out []Key
	for i, k := range head.Roots.Keys {
		made := since(func(d *intent.TrustBody) bool {
			return slices.ContainsFunc(d.Roots.Keys, func(o []byte) bool { return bytes.Equal(o, k) })
		})
		out = append(out, Key{Root, fmt.Sprintf("root %d", i+1), made})
	}
	for _, w := range head.Writers {
		if w.State == intent.KeyRetire {
			continue
		}
		made := since(func(d *intent.TrustBody) bool {
			return slices.ContainsFunc(d.Writers, func(o intent.Writer) bool { return bytes.Equal(o.Key, w.Key) })
		})
		out = append(out, Key{Writer, fmt.Sprintf("epoch %d", w.Epoch), made})
	}
	for _, c := range head.CAs {
		if c.State == intent.KeyRetire {
			continue
		}
		cert, err := x509.ParseCertificate(c.Cert)
		if err != nil {
			return nil, fmt.Errorf("cannot tell the age of a CA: %w", err)
		}
		out = append(out, Key{CA, strings.TrimPrefix(cert.Subject.CommonName, ca.NamePrefix), cert.NotBefore.Add(ca.Backdate)})
	}
	return out, nil
}

// OfAgent returns the key of a rostered agent: its newest, since an older one is on its way out. ok is false for an agent whose
// roster entry holds no certificate.
func OfAgent(site string, a intent.RosterAgent) (k Key, ok bool, err error) {
	k = Key{Kind: Agent, Owner: site + "/" + a.ID}
	for _, der := range a.Certs {
		made, err := Made(der)
		if err != nil {
			return k, false, err
		}
		if made.After(k.Made) {
			k.Made, ok = made, true
		}
	}
	return k, ok, nil
}

// Oldest returns the oldest of each kind, oldest first.
func Oldest(keys []Key) []Key {
	by := map[Kind]Key{}
	for _, k := range keys {
		if o, ok := by[k.Kind]; !ok || k.Made.Before(o.Made) {
			by[k.Kind] = k
		}
	}
	var out []Key
	for _, kind := range Kinds() {
		if k, ok := by[kind]; ok {
			out = append(out, k)
		}
	}
	slices.SortStableFunc(out, func(x, y Key) int { return x.Made.Compare(y.Made) })
	return out
}
