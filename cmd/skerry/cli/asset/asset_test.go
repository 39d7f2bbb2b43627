package asset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/spf13/cobra"
)

// yard is a server that takes one upload, and the Shell of a command that speaks to it.
type yard struct {
	*httptest.Server
	errs bytes.Buffer

	mu    sync.Mutex // guards what follows
	u     assets.Upload
	came  []byte
	cuts  []int    // octets after which an append breaks off, one each
	fails []int    // statuses of what is asked next, 0: none
	calls []string // method and path, with the offset of appends
	poll  []assets.Upload
	look  func() // when the state is asked for
}

func newYard(t *testing.T) *yard {
	y := &yard{u: assets.Upload{ID: "u1", State: assets.Open}}
	y.Server = httptest.NewServer(http.HandlerFunc(y.serve))
	t.Cleanup(y.Close)
	return y
}

func (y *yard) serve(w http.ResponseWriter, r *http.Request) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.calls = append(y.calls, strings.TrimSpace(r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/uploads")+" "+r.Header.Get(assets.OffsetHeader)))
	if len(y.fails) > 0 {
		code := y.fails[0]
		if y.fails = y.fails[1:]; code != 0 {
			w.WriteHeader(code)
			_ = json.NewEncoder(w).Encode(client.Problem{Detail: "not now"})
			return
		}
	}
	var out any = &y.u
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/v1/uploads":
		var q assets.UploadRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			panic(err)
		}
		y.u.Name, y.u.Size, y.u.URL = q.Name, q.Size, q.URL
	case r.Method == http.MethodPatch:
		body := io.Reader(r.Body)
		cut := len(y.cuts) > 0
		if cut {
			body = io.LimitReader(body, int64(y.cuts[0]))
			y.cuts = y.cuts[1:]
		}
		b, _ := io.ReadAll(body)
		if at, err := strconv.Atoi(r.Header.Get(assets.OffsetHeader)); err != nil || at != len(y.came) {
			panic("a gap")
		}
		y.came = append(y.came, b...)
		y.u.Offset = uint64(len(y.came))
		if cut {
			panic(http.ErrAbortHandler)
		}
		y.u.State = assets.Whole
	case strings.HasSuffix(r.URL.Path, "/publish"):
		out = &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindAsset, Metadata: intent.Metadata{Name: y.u.Name}, Spec: &intent.AssetSpec{Size: y.u.Size}}
	case r.Method == http.MethodGet && y.look != nil:
		y.look()
	case r.Method == http.MethodGet && len(y.poll) > 0:
		y.u, y.poll = y.poll[0], y.poll[1:]
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (y *yard) Client() (*client.Client, error) {
	return client.New(y.URL, "T", http.DefaultTransport), nil
}

func (y *yard) Print(any, func(account.Table)) error { return nil }
func (y *yard) Objects([]*intent.Object) error       { return nil }
func (y *yard) Results([]api.Result, bool) error     { return nil }
func (y *yard) Progress() (io.Writer, bool)          { return &y.errs, false }
func (y *yard) Explain(err error) error              { return err }
func (y *yard) Args(...string) cobra.PositionalArgs  { return nil }
func (y *yard) verbs() *verbs                        { return &verbs{Shell: y, rest: func(int) time.Duration { return 0 }} }

func (y *yard) upload(path string) (*intent.Object, error) {
	return y.verbs().uploadFile(context.Background(), path, assets.UploadRequest{Name: "tiny", Class: "image"})
}

func fileOf(t *testing.T, n int) (string, []byte) {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{9}).Read(b)
	path := filepath.Join(t.TempDir(), "tiny.img")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b
}

// Cut in the middle, an upload goes on where the server says, by itself; the same command run again does too.
func TestUploadGoesOn(t *testing.T) {
	y := newYard(t)
	path, want := fileOf(t, 300_000)
	y.cuts = []int{100_000, 50_000}
	y.fails = []int{0, 0, 503} // the second begin comes while the server is busy
	o, err := y.upload(path)
	if err != nil {
		t.Fatal(err)
	}
	if o.Metadata.Name != "tiny" || !bytes.Equal(y.came, want) {
		t.Errorf("published %+v of %d octets", o, len(y.came))
	}
	if got := strings.Join(y.calls, ", "); got != "POST, PATCH /u1 0, POST, POST, PATCH /u1 100000, POST, PATCH /u1 150000, POST /u1/publish" {
		t.Errorf("asked %s", got)
	}
	if got := y.errs.String(); !strings.HasPrefix(got, "uploading tiny, 0 MiB\nuploaded tiny in ") {
		t.Errorf("told %q", got)
	}
	y.calls = nil // whole, and not published yet when the command was ended
	if _, err := y.upload(path); err != nil || strings.Join(y.calls, ", ") != "POST, POST /u1/publish" {
		t.Errorf("run again: %v, %v", y.calls, err)
	}
}

func TestUploadGivesUp(t *testing.T) {
	path, _ := fileOf(t, 1000)
	f := func(want string, hint bool, calls int, fails ...int) {
		t.Helper()
		y := newYard(t)
		y.fails = fails
		_, err := y.upload(path)
		h, hinted := errors.AsType[*account.HintError](err)
		if err == nil || !strings.Contains(err.Error(), want) || hinted != hint || len(y.calls) != calls {
			t.Errorf("%v: %v, hint %v, after %v", fails, err, h, y.calls)
		}
	}
	f("not now", false, 1, 503)                                                    // the first word: a wrong server is told at once
	f("not now", false, 2, 0, 422)                                                 // a refusal is not repeated
	f("not now", false, 2, 0, 507)                                                 // nor a full disk
	f("not now", true, 2+maxFails, 0, 502, 502, 502, 502, 502, 502, 502, 502, 502) // a server that is away is given up, and the way on is told
}

func TestRegister(t *testing.T) {
	y := newYard(t)
	y.u.State = assets.Fetching
	y.poll = []assets.Upload{{ID: "u1", Name: "remote", State: assets.Fetching, Offset: 5}, {ID: "u1", Name: "remote", State: assets.Whole, Offset: 9, Size: 9}}
	y.fails = []int{0, 502} // one look goes wrong: the coordinator reads on
	q := assets.UploadRequest{Name: "remote", Class: "image", URL: "http://mirror.example/x"}
	o, err := y.verbs().registerURL(t.Context(), q)
	if err != nil || o.Metadata.Name != "remote" || strings.Join(y.calls, ", ") != "POST, GET /u1, GET /u1, GET /u1, POST /u1/publish" {
		t.Errorf("%+v, %v after %v", o, err, y.calls)
	}
	y = newYard(t)
	y.u.State, y.u.Why = assets.Failed, "404 Not Found"
	_, err = y.verbs().registerURL(t.Context(), q)
	if h, ok := errors.AsType[*account.HintError](err); !ok || !strings.Contains(h.Next, "drop u1") || !strings.Contains(err.Error(), "cannot read http://mirror.example/x: 404 Not Found") {
		t.Errorf("a URL that cannot be read: %v", err)
	}
	y = newYard(t)
	y.u.State = assets.Fetching
	ctx, cancel := context.WithCancel(t.Context())
	y.look = cancel // a signal
	_, err = y.verbs().registerURL(ctx, q)
	if h, ok := errors.AsType[*account.HintError](err); !ok || !strings.Contains(h.Next, "reads on; run the same command again") || !errors.Is(err, context.Canceled) {
		t.Errorf("ended by a signal: %v", err)
	}
}

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{"out/tiny.img": "tiny", "Debian 13 (x).raw": "debian-13--x", "vmlinuz": "vmlinuz"} {
		if got := nameOf(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}
