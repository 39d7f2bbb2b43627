package founding

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/seal"
)

// A change of the CA that is cut off after any of its steps is ended by the next start, or had not begun: key, certificate and what the
// coordinator shows are always of one CA.
func TestIssuer(t *testing.T) {
	whole := t.TempDir()
	k := keysAt(whole)
	alone(t, k)
	pair, err := seal.Load(whole)
	if err != nil {
		t.Fatal(err)
	}
	i, err := k.Issuer(pair.TLS, now)
	if err != nil {
		t.Fatal(err)
	}
	first := i.CA().Cert
	spki, csr, err := i.Next()
	if err != nil {
		t.Fatal(err)
	}
	if again, _, err := i.Next(); err != nil || string(again) != string(spki) {
		t.Errorf("another key was made: %v", err)
	}
	root, err := ca.Load(whole, NameRoot, k.Domain)
	if err != nil {
		t.Fatal(err)
	}
	second, err := root.Certify(csr, "C2", now)
	if err != nil {
		t.Fatal(err)
	}
	rename := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	steps := []func(dir string) error{
		func(dir string) error { return ca.SaveCert(dir, nameNextCA, second.Raw) },
		func(dir string) error {
			next, err := ca.Load(dir, nameNextCA, k.Domain)
			if err != nil {
				return err
			}
			return keysAt(dir).certify(next, pair.TLS, now)
		},
		rename(nameNextCA+".key", NameCA+".key"),
		rename(nameNextCA+".crt", NameCA+".crt"),
	}
	for n := range len(steps) + 1 {
		dir := filepath.Join(t.TempDir(), "keys")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		for _, step := range steps[:n] {
			if err := step(dir); err != nil {
				t.Fatal(err)
			}
		}
		i, err := keysAt(dir).Issuer(pair.TLS, now)
		if err != nil {
			t.Fatalf("after %d steps: %v", n, err)
		}
		want := second
		if n == 0 {
			want = first
		}
		if !i.CA().Cert.Equal(want) {
			t.Errorf("after %d steps: %s is in use", n, i.CA().Cert.Subject.CommonName)
		}
		for _, c := range [][]byte{i.Leaf().Certificate[0], i.Web().Certificate[0]} {
			cert, err := x509.ParseCertificate(c)
			if err != nil || cert.CheckSignatureFrom(want) != nil {
				t.Errorf("after %d steps: a certificate is not under it: %v", n, err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, nameNextCA+".crt")); err == nil {
			t.Errorf("after %d steps: something waits still", n)
		}
	}
	if err := i.Take(second.Raw, now); err != nil || !i.CA().Cert.Equal(second) {
		t.Errorf("while it runs: %v", err)
	}
}
