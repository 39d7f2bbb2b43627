package console

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/console/sshd"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"golang.org/x/crypto/ssh"
)

// sshClient is Debian's ssh, with a key of its own.
type sshClient struct {
	*testing.T
	dir, port string
}

// newKey makes a key of a kind that ssh-keygen knows, and the text of it that a User has.
func newKey(t *testing.T, dir, kind string) (public string) {
	t.Helper()
	file := filepath.Join(dir, kind)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.(ssh.CryptoPublicKey).CryptoPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// run is one ssh to MACHINE@agent with a key.
func (c *sshClient) run(kind, machine string, more ...string) *exec.Cmd {
	args := append([]string{
		"-F", "none", "-p", c.port, "-i", filepath.Join(c.dir, kind), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + filepath.Join(c.dir, "known"), "-o", "LogLevel=ERROR", machine + "@127.0.0.1",
	}, more...)
	return exec.CommandContext(c.Context(), "ssh", args...)
}

// openDoor lets ssh in at an agent.
func (s *site) openDoor(name string) *sshClient {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	a := s.agents[name]
	a.Door = Door{Listen: l.Addr().String(), Key: sshd.HostKey([]byte(name)), ByKey: a.api.ByKey, Changed: a.Changed}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.serve(ctx, l) }()
	s.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		s.Fatal(err)
	}
	c := &sshClient{T: s.T, dir: s.TempDir(), port: port}
	pub, err := ssh.NewPublicKey(a.Door.Key.Public())
	if err != nil {
		s.Fatal(err)
	}
	known := "[127.0.0.1]:" + port + " " + string(ssh.MarshalAuthorizedKey(pub))
	if err := os.WriteFile(filepath.Join(c.dir, "known"), []byte(known), 0o600); err != nil {
		s.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-l", "-f", filepath.Join(c.dir, "known")).CombinedOutput(); err != nil || !strings.Contains(string(out), a.Fingerprint()) {
		s.Fatalf("ssh-keygen says %s, site status %s: %v", out, a.Fingerprint(), err)
	}
	return c
}

func user(name string, bindings []intent.RoleBinding, keys ...string) *intent.Object {
	spec := &intent.UserSpec{Bindings: bindings}
	for _, k := range keys {
		spec.Keys = append(spec.Keys, intent.UserKey{Public: k})
	}
	return &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindUser, Metadata: intent.Metadata{Name: name}, Spec: spec}
}

// TestSSH: Debian's ssh with a registered key is at the console, and is cut off when the key is taken from its user.
func TestSSH(t *testing.T) {
	lab.Need(t, lab.Tool("ssh", "openssh-client"), lab.Tool("ssh-keygen", "openssh-client"))
	s := newSite(t, "a1")
	far := s.machine.conn(t, 1)
	c := s.openDoor("a1")
	operator := []intent.RoleBinding{{Role: "operator", Site: "lon1"}}
	ed, ec := newKey(t, c.dir, "ed25519"), newKey(t, c.dir, "ecdsa")
	s.agents["a1"].put(user("ana", operator, ed, ec))
	io.WriteString(far, "login: ")
	for _, kind := range []string{"ed25519", "ecdsa"} {
		cmd := c.run(kind, "m1", "-tt")
		cmd.Args = append(cmd.Args[:len(cmd.Args)-2], "-tt", cmd.Args[len(cmd.Args)-2])
		keys, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		r, w := io.Pipe()
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p := &seat{T: t, screen: r}
		p.reads("login: ")
		p.reads("you write")
		io.WriteString(keys, "root\r")
		read(t, far, "root\r")
		if kind == "ed25519" {
			io.WriteString(keys, "\x1d.")
		} else {
			s.agents["a1"].put(user("ana", operator, ed))
			p.reads("the console is closed")
		}
		err = cmd.Wait()
		w.Close()
		if (err == nil) != (kind == "ed25519") {
			t.Fatalf("%s: ssh ended with %v", kind, err)
		}
	}
	if got := strings.Join(s.agents["a1"].verbs(t), " "); got != "open write leave open write leave" {
		t.Fatal(got)
	}
}

// TestSSHRefuses: a key that nobody has, one whose user may not, other machines, and everything that is no shell.
func TestSSHRefuses(t *testing.T) {
	lab.Need(t, lab.Tool("ssh", "openssh-client"), lab.Tool("ssh-keygen", "openssh-client"), lab.Tool("timeout", "coreutils"))
	s := newSite(t, "a1")
	s.machine.conn(t, 1)
	c := s.openDoor("a1")
	ed, ec := newKey(t, c.dir, "ed25519"), newKey(t, c.dir, "ecdsa")
	newKey(t, c.dir, "rsa")
	a := s.agents["a1"]
	a.put(user("ana", []intent.RoleBinding{{Role: "operator", Site: "lon1"}}, ed))
	past := time.Now().Add(-time.Hour)
	f := func(want string, cmd *exec.Cmd) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %v, %q; want %q", cmd.Args[len(cmd.Args)-3:], err, out, want)
		}
	}
	const denied = "Permission denied (publickey)"
	f(denied, c.run("ecdsa", "m1"))
	f(denied, c.run("rsa", "m1"))
	f("there is no such machine, or you may not", c.run("ed25519", "m9"))
	f("protocol: ipmi", c.run("ed25519", "m2"))
	f("exec request failed", c.run("ed25519", "m1", "reboot"))
	f("subsystem request failed", c.run("ed25519", "m1", "-s", "sftp"))
	forward := c.run("ed25519", "m1")
	forward.Args = append(forward.Args[:len(forward.Args)-1], "-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "m1@127.0.0.1")
	f("remote port forwarding failed", forward)
	direct := c.run("ed25519", "m1")
	direct.Args = append(direct.Args[:len(direct.Args)-1], "-W", "127.0.0.1:1", "m1@127.0.0.1")
	f("stdio forwarding failed", direct)
	a.put(user("bob", []intent.RoleBinding{{Role: "auditor"}, {Role: "owner", Project: "acme"}, {Role: "operator", Site: "par1"}}, ec))
	f("there is no such machine, or you may not", c.run("ecdsa", "m1"))
	late := user("bob", []intent.RoleBinding{{Role: "operator"}}, ec)
	late.Spec.(*intent.UserSpec).Keys[0].Expires = &past
	a.put(late)
	f(denied, c.run("ecdsa", "m1"))
	if v := a.verbs(t); v != nil {
		t.Fatal(v)
	}
}
