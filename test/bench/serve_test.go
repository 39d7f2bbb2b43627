package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

const (
	fileSize = 256 << 20
	fetches  = 5
)

// oneFile is an Opener of one verified file.
type oneFile string

func (f oneFile) Open(context.Context, intent.Digest) (io.ReadSeekCloser, error) {
	return os.Open(string(f))
}

// BenchmarkBootHTTP: curl fetches the same file from boot HTTP and from nginx on loopback, in turn.
func BenchmarkBootHTTP(b *testing.B) {
	lab.Need(b, lab.Tool("nginx", "nginx-light"), lab.Tool("curl", "curl"))
	dir := b.TempDir()
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, fileSize); err != nil {
		b.Fatal(err)
	}
	f.Close()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- httpboot.Serve(ctx, ln, httpboot.NewHandler(httpboot.Config{Assets: oneFile(path), Logger: log}), nil, log)
	}()
	b.Cleanup(func() { cancel(); <-ended })
	peer := procs.FreeAddr(b)
	conf := filepath.Join(dir, "nginx.conf")
	text := "daemon off;\npid " + dir + "/pid;\nerror_log " + dir + "/error.log;\nevents {}\nhttp {\n sendfile on; access_log off;\n" +
		" client_body_temp_path " + dir + "/b; proxy_temp_path " + dir + "/p; fastcgi_temp_path " + dir + "/f; uwsgi_temp_path " + dir + "/u; scgi_temp_path " + dir + "/s;\n" +
		" server { listen " + peer + "; root " + dir + "; }\n}\n"
	if os.Geteuid() == 0 {
		text = "user root;\n" + text
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	nginx := exec.Command("nginx", "-p", dir, "-c", conf)
	nginx.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := nginx.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = syscall.Kill(-nginx.Process.Pid, syscall.SIGKILL); _ = nginx.Wait() })
	url := map[string]string{"ours": fmt.Sprintf("http://%s/assets/%s/file", ln.Addr(), intent.DigestOf([]byte("x")).Hex()), "nginx": "http://" + peer + "/file"}
	took := map[string][]time.Duration{}
	for range fetches {
		for _, who := range []string{"ours", "nginx"} {
			at := time.Now()
			out, err := exec.Command("curl", "-sSf", "--retry", "10", "--retry-connrefused", "-o", "/dev/null", url[who]).CombinedOutput()
			if err != nil {
				b.Fatalf("%s: %v %s", who, err, out)
			}
			took[who] = append(took[who], time.Since(at))
		}
	}
	o, p := Quantile(took["ours"], 0.5), Quantile(took["nginx"], 0.5)
	Figure(os.Stdout, fmt.Sprintf("a file of 256 MiB by HTTP to curl, median of %d", fetches), Rate(fileSize, o), Rate(fileSize, p)+" (nginx)",
		fmt.Sprintf("%.2f", p.Seconds()/o.Seconds()), "")
}

// BenchmarkStateUpdate: acknowledged writes a second, each on the disk before it is answered, from one and from 16 writers,
// beside plain fsyncs of 256 octets on the same file system.
func BenchmarkStateUpdate(b *testing.B) {
	dir := b.TempDir()
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	const each = 200
	put := func(w, i int) {
		err := db.Update(func(tx *state.Tx) error {
			return tx.Put("bench", fmt.Sprintf("w%d-%d", w, i%50), make([]byte, 256))
		})
		if err != nil {
			b.Error(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	at := time.Now()
	for range each {
		if _, err := f.Write(make([]byte, 256)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	plain := each / time.Since(at).Seconds()
	for _, writers := range []int{1, 16} {
		at := time.Now()
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					put(w, i)
				}
			})
		}
		wg.Wait()
		ours := float64(writers*each) / time.Since(at).Seconds()
		Figure(os.Stdout, fmt.Sprintf("durable state updates, %d writers", writers), fmt.Sprintf("%.0f/s", ours), fmt.Sprintf("%.0f/s (write and fsync, 1 writer)", plain),
			fmt.Sprintf("%.2f", ours/plain), "")
	}
}
