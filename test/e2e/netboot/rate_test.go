package netboot

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/test/bench"
)

const (
	rateClients = 10_000
	rateRelay   = "10.66.0.2" // perfdhcp is the relay of subnet 10.66.0.0/16
	rateServer  = "10.66.0.1"
	rateSeconds = 4
)

// rateMAC is the address of perfdhcp's client i: it counts up from this one.
func rateMAC(i int) [6]byte { return [6]byte{0x00, 0x0c, 0x01, 0x00, byte(i >> 8), byte(i)} }

// rateAddr is what is reserved for it.
func rateAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 66, 16 + byte(i>>8), byte(i)}) }

func rateHost(i int) (mac, addr string) {
	m := rateMAC(i)
	return strings.ReplaceAll(fmt.Sprintf("% x", m[:]), " ", ":"), rateAddr(i).String()
}

// BenchmarkDHCP: four-way exchanges a second through a relay, 10,000 clients with a reservation each, as perfdhcp counts them: the highest
// offered rate with less than 1 % lost. Ours, kea (memfile, on disk) and dnsmasq in turn, three times; the median counts.
func BenchmarkDHCP(b *testing.B) {
	need(b, "perfdhcp", "kea-admin", "kea-dhcp4", "kea-dhcp4-server", "dnsmasq", "dnsmasq-base", "ethtool", "ethtool")
	got := map[string][]float64{}
	for i := range rounds {
		for _, who := range []string{"ours", "kea", "dnsmasq"} {
			b.Run(fmt.Sprintf("%s%d", who, i), func(b *testing.B) {
				got[who] = append(got[who], rateOf(b, who))
			})
		}
	}
	median := func(who string) float64 {
		l := got[who]
		if len(l) != rounds {
			b.Fatalf("%s: %d of %d rounds", who, len(l), rounds)
		}
		return l[0] + l[1] + l[2] - max(l[0], l[1], l[2]) - min(l[0], l[1], l[2])
	}
	ours, kea, dnsmasq := median("ours"), median("kea"), median("dnsmasq")
	bench.Figure(os.Stdout, "DHCP 4-way exchanges, relayed, 10,000 reservations, under 1 % lost", fmt.Sprintf("%.0f/s", ours), fmt.Sprintf("%.0f/s (kea, memfile on disk)", kea), fmt.Sprintf("%.2f", ours/kea), ">= 2")
	bench.Figure(os.Stdout, "the same", fmt.Sprintf("%.0f/s", ours), fmt.Sprintf("%.0f/s (dnsmasq)", dnsmasq), fmt.Sprintf("%.1f", ours/dnsmasq), ">= 10")
	b.Logf("%v", got)
}

// rateOf climbs until a server loses 1 %, and returns the rate that it reached before.
func rateOf(b *testing.B, who string) (best float64) {
	r := newBench(b)
	run(b, "ip", "-n", r.ns("c"), "addr", "add", rateRelay+"/16", "dev", "e0")
	switch who {
	case "ours":
		r.join(child{Self: "a1", Addr: netip.MustParseAddr(rateServer), Rate: true})
	default:
		r.netns("d")
		r.plug("d", rateServer+"/16")
		r.rated(who)
	}
	for _, rate := range []int{100, 200, 400, 800, 1500, 3000, 5000, 8000, 11000, 15000, 20000, 30000} {
		reached, lost := r.perfdhcp(rate)
		b.Logf("%s: offered %d/s, reached %.0f/s, lost %.2f %%", who, rate, reached, lost)
		if lost >= 1 {
			break
		}
		best = max(best, reached)
		if reached < 0.8*float64(rate) { // perfdhcp itself is at its end
			break
		}
	}
	return best
}

var (
	rateLine = regexp.MustCompile(`Rate: ([0-9.e+]+) 4-way`)
	lostLine = regexp.MustCompile(`drops ratio: ([0-9.e+-]+) %`)
)

// perfdhcp offers exchanges at a rate, and returns what came of it.
func (r *rack) perfdhcp(rate int) (reached, lost float64) {
	r.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", r.ns("c"), "perfdhcp", "-4", "-r", strconv.Itoa(rate), "-R", strconv.Itoa(rateClients), "-b", "mac=00:0c:01:00:00:00",
		"-p", strconv.Itoa(rateSeconds), "-W", "500000", "-l", rateRelay, rateServer)
	out, err := cmd.CombinedOutput() // 3: some were lost, which is what we ask
	m := rateLine.FindSubmatch(out)
	if m == nil {
		r.t.Fatalf("perfdhcp: %v\n%s", err, out)
	}
	reached, _ = strconv.ParseFloat(string(m[1]), 64)
	for _, l := range lostLine.FindAllSubmatch(out, -1) {
		x, err := strconv.ParseFloat(string(l[1]), 64)
		if err != nil {
			r.t.Fatalf("perfdhcp says %q", l[1])
		}
		lost = max(lost, x)
	}
	return reached, lost
}

// rated starts a peer with the same reservations.
func (r *rack) rated(who string) {
	dir := r.t.TempDir()
	var hosts strings.Builder
	if who == "kea" {
		for i := range rateClients {
			mac, addr := rateHost(i)
			fmt.Fprintf(&hosts, "%s{\"hw-address\":%q,\"ip-address\":%q}", map[bool]string{true: ",\n"}[i > 0], mac, addr)
		}
		text := fmt.Sprintf(`{"Dhcp4":{"interfaces-config":{"interfaces":["e0"],"dhcp-socket-type":"udp"},
			"lease-database":{"type":"memfile","persist":true,"name":%q},"multi-threading":{"enable-multi-threading":true,"thread-pool-size":2},
			"loggers":[{"name":"kea-dhcp4","severity":"ERROR","output_options":[{"output":"stderr"}]}],
			"subnet4":[{"id":1,"subnet":"10.66.0.0/16","pools":[{"pool":"10.66.200.0-10.66.255.254"}],"reservations":[%s]}]}}`, filepath.Join(dir, "l.csv"), hosts.String())
		if err := os.WriteFile(filepath.Join(dir, "k.json"), []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
		r.t.Setenv("KEA_PIDFILE_DIR", dir)
		r.t.Setenv("KEA_LOCKFILE_DIR", dir)
		r.serve("kea-dhcp4", "-c", filepath.Join(dir, "k.json"))
	} else {
		for i := range rateClients {
			mac, addr := rateHost(i)
			fmt.Fprintf(&hosts, "%s,%s\n", mac, addr)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(hosts.String()), 0o644); err != nil {
			r.t.Fatal(err)
		}
		r.serve("dnsmasq", "--conf-file=/dev/null", "--port=0", "--keep-in-foreground", "--user=root", "--interface=e0", "--bind-interfaces", "--no-ping", "--quiet-dhcp",
			"--dhcp-authoritative", "--dhcp-leasefile="+filepath.Join(dir, "leases"), "--dhcp-lease-max=50000", "--dhcp-range=10.66.200.0,10.66.255.254,255.255.0.0",
			"--dhcp-hostsfile="+filepath.Join(dir, "hosts"), "--log-facility=/dev/null")
	}
	for range 40 { // until it answers: bounded, each try takes a second
		out, _ := exec.Command("ip", "netns", "exec", r.ns("c"), "perfdhcp", "-4", "-r", "10", "-R", "10", "-b", "mac=00:0c:01:00:00:00", "-p", "1", "-W", "500000", "-l", rateRelay, rateServer).CombinedOutput()
		if m := rateLine.FindSubmatch(out); m != nil && string(m[1]) != "0" {
			return
		}
	}
	r.t.Fatalf("%s does not answer", who)
}
