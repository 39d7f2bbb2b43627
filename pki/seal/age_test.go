package seal

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
)

// What a Lock closes, its Key opens whole; a wrong key, a cut file and a flipped bit open nothing.
func TestOperatorsFile(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pass, text := NewSecret([]byte("sixteen letters!")), bytes.Repeat([]byte("kit"), 50_000)
	for _, c := range []struct {
		lock Lock
		key  Key
	}{{Lock{Passphrase: pass}, Key{Passphrase: pass}}, {Lock{Recipients: []string{id.Recipient().String()}}, Key{Identity: file}}} {
		var b bytes.Buffer
		w, err := c.lock.Encrypt(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		open := func(k Key, b []byte) ([]byte, error) {
			r, err := k.Decrypt(bytes.NewReader(b))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		}
		if got, err := open(c.key, b.Bytes()); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%+v opens %d octets, %v", c.key, len(got), err)
		}
		if c.key.Identity == "" {
			continue // each guess at a passphrase costs a second, by design
		}
		flipped := bytes.Clone(b.Bytes())
		flipped[len(flipped)/2] ^= 1
		for what, bad := range map[string][]byte{"flipped": flipped, "cut": b.Bytes()[:b.Len()-20], "empty": nil} {
			if _, err := open(c.key, bad); err == nil {
				t.Errorf("a %s file opens", what)
			}
		}
		for _, k := range []Key{{}, {Passphrase: NewSecret([]byte("another passphrase"))}, {Identity: file + "x"}} {
			if _, err := open(k, b.Bytes()); err == nil {
				t.Errorf("%+v opens it", k)
			}
		}
	}
	for _, l := range []Lock{{}, {Passphrase: NewSecret([]byte("short"))}, {Recipients: []string{"age1xyz"}}, {Recipients: []string{id.Recipient().String()}, Passphrase: pass}} {
		if _, err := l.Encrypt(io.Discard); err == nil {
			t.Errorf("%d recipients and passphrase %v lock", len(l.Recipients), !l.Passphrase.IsZero())
		}
	}
}
