package repository

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/skerry-metal/skerry/mesh/api/assets"
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

func TestVet(t *testing.T) {
	p := &Policy{}
	for _, u := range []string{"", "image.img", "/etc/passwd", "file:///etc/passwd", "ftp://a/b", "http://", "http:///x", "http://a:b@c/", "https://a@c/", "http://a/%zz", "http://a/" + strings.Repeat("x", maxURL)} {
		if err := p.vet(u); err == nil {
			t.Errorf("%q is taken", u)
		}
	}
	for _, u := range []string{"http://a/b", "https://mirror.example:8443/x?y=z"} {
		if err := p.vet(u); err != nil {
			t.Errorf("%q: %v", u, err)
		}
	}
	down := p.client().CheckRedirect(&http.Request{URL: &url.URL{Scheme: "http", Host: "a"}}, []*http.Request{{URL: &url.URL{Scheme: "https", Host: "a"}}})
	if down == nil || !strings.Contains(down.Error(), "from https to http") {
		t.Errorf("a redirect to plain HTTP: %v", down)
	}
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
	s := newShop(t)
	answers := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	go serveDNS(dns, &answers)
	s.r.cfg.Policy.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", dns.LocalAddr().String())
	}}
	s.r.client = s.r.cfg.Policy.client()
	want := random(15, 100_000)
	o := newOrigin(t, file(want, `"v"`, 1, 60_000))
	u := s.register(strings.Replace(o.URL, "127.0.0.1", "mirror.example.", 1))
	if u = s.step(u.ID); u.Offset != 60_000 {
		t.Fatalf("first: %+v", u)
	}
	if u = s.step(u.ID); u.State != assets.Failed || !strings.Contains(u.Why, "127.0.0.2 is no address of the internet") || len(o.asked) != 1 {
		t.Errorf("rebound: %+v", u)
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
