package account

import (
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// TestKeysOfSSH: what ssh-keygen writes is taken; the digests are those of what OpenSSL makes of the same keys.
func TestKeysOfSSH(t *testing.T) {
	f := func(text, spki string) {
		t.Helper()
		d, err := intent.UserKey{Public: ofSSH(text)}.SPKI()
		if (err == nil) != (spki != "") || err == nil && d.Hex() != spki {
			t.Errorf("%s: %s %v, want %s", text, d.Hex(), err, spki)
		}
	}
	f("ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBI/UFN9MdrRvSfsU4FEZNnvuMeh4b3KpZ5w1479jNRZZmaPKUWN+4qYfgRgsF9Pr0ZlwWAKA7UiW9AE5FhKYrHI= ana", "0a7c8d1233b28a1a42c036d02721640c9cc2b1deb378b38776cb2a8c53c52151")
	f("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzx+VGHLxYwE8gTAHOURTIn6XIaRef4qc/chELLD7OB ana", "457a4196fd7cd5578ec1f0fac17531bed5870b9da5958f02e7e44c639bcedb82")
	f("ssh-ed25519 AAAA ana", "")
	f("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5////// ana", "")
	f("ecdsa-sha2-nistp256 AAAAC3NzaC1lZDI1NTE5AAAAIB", "")
	f("", "")
}
