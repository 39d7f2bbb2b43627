package e2e

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

const debianPath = "../../out/debian.img"

// TestInstallDebian installs a real distribution, which reads the seed by cloud-init, and logs in over SSH. It takes about
// eight minutes under TCG, so it runs by `make e2e-debian` only.
func TestInstallDebian(t *testing.T) {
	if os.Getenv("SKERRY_E2E_DEBIAN") != "1" {
		t.Skip("takes long: make e2e-debian")
	}
	lab.Need(t, lab.Built(debianPath, "image-debian"))
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	ctx, machine, rack := installBareDisk(t, scenario{
		fw: vm.UEFIPXE, image: debianPath, diskBytes: 4 << 30, memoryMiB: 1024, limit: 40 * time.Minute,
		userData: "#cloud-config\nusers:\n  - name: ops\n    shell: /bin/bash\n    ssh_authorized_keys: [" + public + "]\n" + phoneHome,
	})
	got, err := login(ctx, rack, signer, "hostname; df -BM --output=size / | tail -1")
	if err != nil {
		b, _ := os.ReadFile(machine.SerialLog())
		t.Fatalf("%v; the serial line ends in:\n%s", err, b[max(0, len(b)-4000):])
	}
	var name string
	var size int
	if _, err := fmt.Sscanf(strings.Join(strings.Fields(got), " "), "%s %dM", &name, &size); err != nil || name != "web-1" || size < 3000 {
		t.Errorf("over SSH: %q, want web-1 and a root of more than 3,000 MiB (%v)", got, err)
	}
}

// login runs a command as ops; the host key is new with each install, and the namespace has no other host.
func login(ctx context.Context, rack *netlab.Namespace, signer ssh.Signer, command string) (string, error) {
	c, err := rack.DialContext(ctx, "tcp", machineIP+":22")
	if err != nil {
		return "", err
	}
	defer c.Close()
	conn, chans, reqs, err := ssh.NewClientConn(c, machineIP, &ssh.ClientConfig{
		User: "ops", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: time.Minute,
	})
	if err != nil {
		return "", err
	}
	client := ssh.NewClient(conn, chans, reqs)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, err := s.CombinedOutput(command)
	return string(out), err
}
