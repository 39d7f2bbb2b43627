package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// maxKeyFile bounds a user's key file, in octets: ours has some 500.
const maxKeyFile = 64 << 10

// NewUserKey makes an Ed25519 key and a certificate for name that it signs for itself: what a user shows to authenticate. It returns
// both as PEM, for a file of mode 0600, and the DER of the SubjectPublicKeyInfo, which goes on the User. The certificate never
// expires: whether it counts is decided by the User.
func NewUserKey(name string) (file Secret, spki []byte, err error) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Secret{}, nil, fmt.Errorf("cannot make user key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0).UTC(),
		NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 section 4.1.2.5: no expiry
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
	if err != nil {
		return Secret{}, nil, fmt.Errorf("cannot make user certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Secret{}, nil, fmt.Errorf("cannot encode user key: %w", err)
	}
	if spki, err = pkixPublic(pub); err != nil {
		return Secret{}, nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	return NewSecret(append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)), spki, nil
}

// UserCertificate reads what NewUserKey made, or openssl: one private key and its certificate, in PEM.
func UserCertificate(file []byte) (tls.Certificate, error) {
	if len(file) > maxKeyFile {
		return tls.Certificate{}, errors.New("cannot use key file: it is too large")
	}
	c, err := tls.X509KeyPair(file, file)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot use key file, want a private key and its self-signed certificate in PEM: %w", err)
	}
	return c, nil
}
