package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/holdings"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/e2e/procs"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// nginx serves a directory on loopback, and returns its URL and the path of its log: status, octets of the body, Range, If-Range.
func nginx(t *testing.T, dir string) (url, logs string) {
	t.Helper()
	addr := procs.FreeAddr(t)
	conf, logs := filepath.Join(dir, "nginx.conf"), filepath.Join(dir, "access.log")
	text := "daemon off;\nuser root;\npid " + dir + "/pid;\nerror_log stderr;\nevents {}\nhttp {\n log_format parts '$status|$body_bytes_sent|$http_range|$http_if_range';\n" +
		" access_log " + logs + " parts;\n server { listen " + addr + "; root " + dir + "; }\n}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := netlab.StartProc(netlab.Command{Name: "nginx", Path: "/usr/sbin/nginx", Args: []string{"-p", dir, "-c", conf}, Output: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return "http://" + addr, logs
}

// complete counts the agents that have all of an asset, and those that have its manifest, as each says of itself: of others it knows late.
func complete(ctx context.Context, s *procs.Site, name string) (whole, known int) {
	info, _ := intent.KindAsset.Info()
	for _, agent := range []string{"a1", "a2", "a3"} {
		o, err := s.API(agent).Get(ctx, info, "", name)
		var st holdings.Status
		if err != nil || json.Unmarshal(o.Status, &st) != nil {
			return 0, 0
		}
		for _, a := range st.Agents {
			if a.Agent == agent && a.State == holdings.Complete {
				whole++
			}
			if a.Agent == agent && a.Chunks > 0 {
				known++
			}
		}
	}
	return whole, known
}

// TestURLFromNginx: three agents, real processes, whose coordinator says nothing any more though its sessions stand, read an image from nginx,
// once for all of them.
func TestURLFromNginx(t *testing.T) {
	lab.Need(t, lab.Tool("nginx", "nginx-light"))
	t.Setenv("SKERRY_URL_ALLOW", "127.0.0.1/32")
	dir := t.TempDir()
	url, logs := nginx(t, dir)
	img := make([]byte, 40<<20+4321)
	rand.NewChaCha8([32]byte{7}).Read(img)
	if err := os.WriteFile(filepath.Join(dir, "image.raw"), img, 0o644); err != nil {
		t.Fatal(err)
	}
	s := procs.New(t, buildSkerry(t), "a1", "a2", "a3")
	s.Until("nginx answers", func(ctx context.Context) bool {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	quiet := `,"wan":{"windows":[{"from":"00:00","to":"00:00","rate":"0"}]}`
	s.Apply(fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu-west","zone":"london"%s}}`, quiet))
	admin := s.API("coordinator")
	u, err := admin.BeginUpload(t.Context(), assets.UploadRequest{Name: "tiny", Class: "image", URL: url + "/image.raw", Digest: intent.DigestOf(img)})
	if err != nil {
		t.Fatal(err)
	}
	s.Until("the coordinator has read it", func(ctx context.Context) bool {
		u, err := admin.UploadStatus(ctx, u.ID)
		return err == nil && u.State == assets.Whole
	})
	if _, err := admin.PublishUpload(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	s.Until("two know what it is made of", func(ctx context.Context) bool {
		whole, known := complete(ctx, s, "tiny")
		return whole == 0 && known == 2
	})
	before, err := os.ReadFile(logs)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Procs["coordinator"].Signal(syscall.SIGSTOP); err != nil { // black-holed: nobody hangs up
		t.Fatal(err)
	}
	defer s.Kill("coordinator")
	if _, err := s.API("a1").AssetAction(t.Context(), "lon1", "tiny", assets.ActionRequest{Action: "prefetch"}); err != nil {
		t.Fatal(err)
	}
	s.Until("two have all of it", func(ctx context.Context) bool {
		whole, _ := complete(ctx, s, "tiny")
		return whole == 2
	})
	after, err := os.ReadFile(logs)
	if err != nil {
		t.Fatal(err)
	}
	octets, requests := 0, 0
	for line := range strings.Lines(string(bytes.TrimPrefix(after, before))) {
		f := strings.Split(strings.TrimSpace(line), "|")
		n, err := strconv.Atoi(f[1])
		if err != nil || f[0] != "206" || !strings.HasPrefix(f[2], "bytes=") || len(f[3]) < 3 {
			t.Errorf("nginx was asked: %s", line)
		}
		octets += n
		requests++
	}
	t.Logf("%d octets, %.4f times, in %d requests", octets, float64(octets)/float64(len(img)), requests)
	if octets < len(img) || octets > len(img)*102/100 {
		t.Errorf("%d octets of %d left nginx", octets, len(img))
	}
}
