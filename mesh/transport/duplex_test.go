package transport

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

// TestBothWays: the bodies of one request and its answer travel at the same time, as a console needs it, and a handler can end its reading.
func TestBothWays(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if err := rc.EnableFullDuplex(); err != nil {
				t.Error(err)
			}
			done := make(chan struct{})
			defer func() { <-done }()
			said := make(chan string)
			go func() {
				defer close(done)
				buf := make([]byte, 100)
				for {
					n, err := r.Body.Read(buf)
					if err != nil {
						return
					}
					said <- string(buf[:n])
				}
			}()
			for s := range said {
				fmt.Fprint(w, strings.ToUpper(s))
				if err := rc.Flush(); err != nil {
					t.Error(err)
				}
				if s == "bye" {
					break
				}
			}
			if err := rc.SetReadDeadline(time.Unix(1, 0)); err != nil { // the reading goroutine is in Read
				t.Error(err)
			}
			<-done
			fmt.Fprint(w, "!")
		})
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, nil)
		launch(t, d.Agent("lon1", "a2", ""), b, lane, func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, h) })
		in, typed := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://a2/", in)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(typed, "one") }()
		res, err := a1.RoundTripper(Peer{"lon1", "a2"}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for _, s := range []string{"one", "two", "bye"} {
			if s != "one" {
				if _, err := io.WriteString(typed, s); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, 3)
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != strings.ToUpper(s) {
				t.Fatalf("%q %v, want %q", got, err, strings.ToUpper(s))
			}
		}
		if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "!" {
			t.Fatalf("%q %v", rest, err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
