package origin

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestAdmit(t *testing.T) {
	managed := []netip.Prefix{netip.MustParsePrefix("1.1.1.0/24"), netip.MustParsePrefix("2606:4700::/32")}
	p := &Policy{Managed: func() []netip.Prefix { return managed }}
	f := func(addr string, ok bool) {
		t.Helper()
		a := netip.MustParseAddr(addr)
		if err := p.admit(a); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
		if ok {
			return
		}
		open := &Policy{Managed: p.Managed, Allow: []netip.Prefix{netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen())}}
		if err := open.admit(a); err != nil {
			t.Errorf("%s, which is allowed: %v", addr, err)
		}
	}
	for _, a := range []string{
		"127.0.0.1", "127.255.0.1", "0.0.0.0", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.0.1",
		"198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "fe80::1", "fe80::1%eth0",
		"fc00::1", "fd12::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::1", "2001:db8::1", "4000::1",
		"1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1",
	} {
		f(a, false)
	}
	for _, a := range []string{"8.8.8.8", "172.15.255.255", "172.32.0.1", "11.0.0.1", "100.128.0.1", "2a00:1450::1", "2001:4860::8888", "::ffff:8.8.8.8"} {
		f(a, true)
	}
}

func TestRedirects(t *testing.T) {
	check := (&Policy{}).Client(Limits{}).CheckRedirect
	f := func(from, to, want string, hops int) {
		t.Helper()
		parse := func(text string) *http.Request {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			return &http.Request{URL: u, Header: http.Header{}}
		}
		err := check(parse(to), slices.Repeat([]*http.Request{parse(from)}, hops))
		if r, ok := RefusalOf(err); want == "" && err != nil || want != "" && (!ok || r.Why != Forbidden || !strings.Contains(r.Text, want)) {
			t.Errorf("%s to %s: %v", from, to, err)
		}
	}
	f("https://a/", "http://a/", "from https to http", 1)
	f("http://a/", "https://a/", "", 1)
	f("http://a/", "http://b/", "", 5)
	f("http://a/", "http://b/", "more than 5", 6)
	f("http://a/", "http://u:p@b/", "password", 1)
	f("http://a/", "ftp://b/", "http", 1)
}

func TestManaged(t *testing.T) {
	var objects []*intent.Object
	for _, d := range []string{
		`{"apiVersion":"skerry/v1","kind":"SubnetPool","metadata":{"name":"boot","site":"lon1"},"spec":{"prefix":"203.0.112.0/24"}}`,
		`{"apiVersion":"skerry/v1","kind":"Agent","metadata":{"name":"a1","site":"lon1"},"spec":{"management":"9.9.9.9:7444"}}`,
		`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"bmc":{"address":"8.8.4.4","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:01"}]}}`,
		`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m2","site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:88:00:02"}]}}`,
	} {
		o, err := intent.DecodeObject([]byte(d))
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	var got []string
	for _, p := range Managed(intent.NewCatalog(objects...)) {
		got = append(got, p.String())
	}
	slices.Sort(got)
	if want := "203.0.112.0/24 8.8.4.4/32 9.9.9.9/32"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// A name that resolves to an address that is allowed, and then to another, is refused the second time: what is dialled is checked, not
// what was looked up before.
func TestRebinding(t *testing.T) {
	asked := 0
	o := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(strings.Repeat("x", 1000)))
	}))
	defer o.Close()
	answers := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	go serveDNS(dns, &answers)
	p := &Policy{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", dns.LocalAddr().String())
		}},
	}
	c := p.Client(Limits{Dial: 10 * time.Second})
	part := Part{URL: strings.Replace(o.URL, "127.0.0.1", "mirror.example.", 1), Size: 1000, Off: 10, N: 20}
	r, err := part.Open(t.Context(), c, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	_, err = part.Open(t.Context(), c, 10*time.Second)
	if r, ok := RefusalOf(err); !ok || r.Why != Forbidden || !strings.Contains(r.Text, "127.0.0.2 is no address of the internet") || asked != 1 {
		t.Errorf("rebound: %v, asked %d", err, asked)
	}
}

// serveDNS answers questions for A with one address after the other.
func serveDNS(c net.PacketConn, answers *[]netip.Addr) {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA && len(*answers) > 0 {
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type}, Body: &dnsmessage.AResource{A: (*answers)[0].As4()}}}
			*answers = (*answers)[1:]
		}
		if b, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(b, from)
		}
	}
}
