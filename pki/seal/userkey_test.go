package seal

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
)

func TestUserKey(t *testing.T) {
	file, spki, err := NewUserKey("ana")
	if err != nil {
		t.Fatal(err)
	}
	c, err := UserCertificate(file.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, spki) || leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil || leaf.NotAfter.Year() != 9999 {
		t.Errorf("the certificate is %v, %v", leaf.Subject, err)
	}
	other, _, err := NewUserKey("ana")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _ := strings.Cut(string(file.Reveal()), "-----BEGIN CERTIFICATE-----")
	_, cert, _ := strings.Cut(string(other.Reveal()), "-----BEGIN CERTIFICATE-----")
	for _, bad := range []string{"", "hello", key, "-----BEGIN CERTIFICATE-----" + cert, key + "-----BEGIN CERTIFICATE-----" + cert, strings.Repeat("x", maxKeyFile+1)} {
		if _, err := UserCertificate([]byte(bad)); err == nil || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzUserCertificate(f *testing.F) {
	file, _, err := NewUserKey("ana")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file.Reveal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := UserCertificate(b); err == nil && len(c.Certificate) == 0 {
			t.Fatal("a key without certificate")
		}
	})
}
