package bootnet

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/boot/tftp"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// TestTrafficCounted: bad HTTP, TFTP and install requests are counted by how they were dealt with; nothing that a sender
// writes becomes a label.
func TestTrafficCounted(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	p := &traffic{install: install.NewHandler(&installers{})}
	h := httpboot.NewHandler(httpboot.Config{Logger: log, Seen: p.count})
	for _, path := range []string{"/", "/a", "/assets/zz/kernel", "/loaders/x"} {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil))
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, "/boot/x/auto.ipxe", nil))
	for _, body := range []string{"", "{", `{"unknown":1}`, "[]"} {
		p.install.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/install/v1/hello", strings.NewReader(body)))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "undionly.kpxe"), make([]byte, 3000), 0o644); err != nil {
		t.Fatal(err)
	}
	p.addTFTP(tftpServer(t, dir))
	want := `skerry_dhcp_packets_total{reason="ack"} 0
skerry_dhcp_packets_total{reason="malformed"} 0
skerry_dhcp_packets_total{reason="nak"} 0
skerry_dhcp_packets_total{reason="offer"} 0
skerry_tftp_transfers_total{result="absent"} 1
skerry_install_rejected_total 4
skerry_http_requests_total{what="other",code="404"} 4
skerry_http_requests_total{what="other",code="405"} 1
`
	var got bytes.Buffer
	p.write(&got)
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Fatalf("-want +got\n%s", d)
	}
}

// tftpServer returns a server that was asked once for what it does not have.
func tftpServer(t *testing.T, dir string) *tftp.Server {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := tftp.New(tftp.Config{Loaders: ipxe.Loaders{Dir: dir}, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, conn) }()
	t.Cleanup(func() { cancel(); <-ended })
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteTo([]byte("\x00\x01../../etc/shadow\x00octet\x00"), conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 600)
	if n, _, err := client.ReadFrom(b); err != nil || n < 4 || b[1] != 5 {
		t.Fatalf("no TFTP error came back: %x %v", b[:max(n, 0)], err)
	}
	return s
}

// quietSite has one subnet and nobody in it.
type quietSite struct{ v *dhcp.View }

func (s quietSite) View() *dhcp.View                       { return s.v }
func (quietSite) Commit(context.Context, dhcp.Lease) error { return nil }
func (quietSite) Seen(dhcp.Event)                          {}

// TestMalformedDHCPCounted: what is no DHCP is counted, and the listener lives on.
func TestMalformedDHCPCounted(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"))
	l := lab.New(t)
	ns, err := l.Namespace("mt")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Addr("lo", "10.88.0.11/24"); err != nil {
		t.Fatal(err)
	}
	v, err := dhcp.NewView(dhcp.Facts{
		Self: "a1", Agents: []dhcp.Agent{{ID: "a1", Boot: []netip.Addr{netip.MustParseAddr("10.88.0.11")}}},
		Subnets: []dhcp.Subnet{{Name: "boot", Prefix: netip.MustParsePrefix("10.88.0.0/24"), Mode: dhcp.ModeAuthoritative}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	listener := dhcp.NewListener(dhcp.ListenerConfig{Iface: "lo", Site: quietSite{v}, Logger: slog.New(slog.DiscardHandler), Ready: ready})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- ns.Do(func() error { return listener.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-ready
	p := &traffic{}
	p.addDHCP(listener)
	junk(t, ns)
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C { // counters have no event; bounded by the deadline
		var got bytes.Buffer
		p.write(&got)
		if strings.Contains(got.String(), "skerry_dhcp_packets_total{reason=\"malformed\"} 3\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not counted:\n%s", got.String())
		}
	}
}

// junk sends three datagrams that are no DHCP.
func junk(t *testing.T, ns *netlab.Namespace) {
	t.Helper()
	c, err := ns.DialContext(t.Context(), "udp4", "10.88.0.11:67")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, s := range []string{"x", strings.Repeat("\x00", 240), strings.Repeat("\xff", 1400)} {
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
	}
}
