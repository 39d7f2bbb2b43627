package bench

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

const (
	certificates = 2000
	entries      = 6000
	entryBytes   = 2 << 10
	newcomers    = 200
	sites        = 40 // of five agents each
)

func perSecond(n int, took time.Duration) string {
	return fmt.Sprintf("%.0f/s", float64(n)/took.Seconds())
}

// BenchmarkTrust: certificates issued on all cores, chained entries verified on one, and 200 agents that join one coordinator at once,
// with keys made beforehand.
func BenchmarkTrust(b *testing.B) {
	d := pkitest.New(b)
	keys, err := seal.Generate()
	if err != nil {
		b.Fatal(err)
	}
	csr, err := ca.NewRequest(keys.TLS)
	if err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	var g errgroup.Group
	g.SetLimit(2)
	for i := range certificates {
		g.Go(func() error {
			_, err := d.CA.Issue(csr, trust.Identity{Kind: trust.Agent, Site: "lon1", ID: fmt.Sprintf("a%d", i)}, pkitest.Now())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	Figure(os.Stdout, "certificates issued, each checked with the standard library, on 2 cores", perSecond(certificates, time.Since(at)), "", "", ">= 500/s")

	a := sitetest.NewAuthor(b)
	var envs []*intent.Envelope
	for i := range entries {
		doc := fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"User","metadata":{"name":"u%d","uid":"u%d","generation":1,"labels":{"pad":%q}},"spec":{"bindings":[]}}`,
			i, i, strings.Repeat("x", 60))
		envs = append(envs, a.Put(doc, sitetest.MachineTypeDoc(strings.Repeat("m", 60), i+1), sitetest.ArrayDoc(strings.Repeat("w", 60), i+1, 1),
			sitetest.ArrayDoc(strings.Repeat("v", 60), i+1, 1), sitetest.ArrayDoc(strings.Repeat("y", 60), i+1, 1)))
	}
	chain := document.IntentChain{Site: a.Site, Writers: a.Trust.Writers}
	at = time.Now()
	for _, env := range envs {
		if _, err := chain.Accept(env); err != nil {
			b.Fatal(err)
		}
	}
	Figure(os.Stdout, fmt.Sprintf("chained entries of %d octets verified on one core", len(envs[entries/2].Payload)), perSecond(entries, time.Since(at)), "", "", ">= 3,000/s of 2,048")

	s := procs.New(b, exe(b))
	var tokens []join.Token
	var all []*seal.Keys
	for i := range newcomers {
		site := fmt.Sprintf("s%d", i%sites)
		if i < sites {
			s.Apply(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"` + site + `"},"spec":{"region":"eu","zone":"a"}}`)
		}
		t, err := s.API("coordinator").JoinToken(b.Context(), site, api.JoinTokenRequest{Agent: fmt.Sprintf("n%d", i)})
		if err != nil {
			b.Fatal(err)
		}
		tok, _, err := join.ParseTarget(t.Token)
		if err != nil {
			b.Fatal(err)
		}
		k, err := seal.Generate()
		if err != nil {
			b.Fatal(err)
		}
		tokens, all = append(tokens, tok), append(all, k)
	}
	at = time.Now()
	var joins errgroup.Group
	for i := range newcomers {
		joins.Go(func() error {
			about := join.About{Addr: []string{fmt.Sprintf("10.9.%d.%d:7444", i/250, 1+i%250)}}
			_, err := join.Join(b.Context(), &net.Dialer{}, s.Addr["coordinator"], tokens[i], all[i], about)
			return err
		})
	}
	if err := joins.Wait(); err != nil {
		b.Fatal(err)
	}
	Figure(os.Stdout, fmt.Sprintf("%d agents join %d sites at once, whole answers, through one coordinator", newcomers, sites), Seconds(time.Since(at)), "", "", "< 30 s")
}
