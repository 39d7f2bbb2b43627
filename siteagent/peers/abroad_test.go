package peers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of connections that hold nothing: a write ends when the other end has read it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Requests of an agent of another site that does not read take four places, for a minute; one that reads slowly gets all.
func TestGuestsWhoDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 3 * takePiece
		var ended []error
		m := New(Config{Site: "lon1", Log: slog.New(slog.DiscardHandler)})
		m.Abroad = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(make([]byte, size))
			ended = append(ended, errors.Join(err, http.NewResponseController(w).Flush()))
		})
		l := make(pipes)
		srv := &http.Server{Handler: m.bySite(http.NotFoundHandler())} // without a session who asks is nobody of this site
		go func() { _ = srv.Serve(l) }()
		ask := func() net.Conn {
			here, there := net.Pipe()
			l <- there
			fmt.Fprint(here, "GET /m/1/assets/x/chunks HTTP/1.1\r\nHost: a\r\n\r\n")
			synctest.Wait()
			return here
		}
		answer := func(c net.Conn, pause time.Duration) (*http.Response, int) {
			t.Helper()
			defer c.Close()
			res, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for buf := make([]byte, takePiece/4); err == nil; time.Sleep(pause) {
				var k int
				k, err = io.ReadFull(res.Body, buf)
				n += k
			}
			synctest.Wait()
			return res, n
		}
		var idle []net.Conn
		for range abroadAtOnce {
			idle = append(idle, ask())
		}
		if res, _ := answer(ask(), 0); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
			t.Errorf("beside %d: %s, %v", abroadAtOnce, res.Status, res.Header)
		}
		time.Sleep(takeTime)
		synctest.Wait()
		if len(ended) != abroadAtOnce || errors.Join(ended...) == nil || len(m.guests.of) != 0 {
			t.Fatalf("after %s %d answers ended: %v; %v are counted", takeTime, len(ended), ended, m.guests.of)
		}
		ended = nil
		if res, n := answer(ask(), takeTime/5); res.StatusCode != http.StatusOK || n != size || errors.Join(ended...) != nil {
			t.Errorf("who reads slowly gets %d octets of %d: %s, %v", n, size, res.Status, ended)
		}
		for _, c := range idle {
			c.Close()
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What one takes is not taken from another.
func TestGuests(t *testing.T) {
	g := &guests{}
	for i := range abroadAtOnce + 1 {
		if got := g.enter("par1/a1"); got != (i < abroadAtOnce) {
			t.Errorf("request %d: %v", i, got)
		}
	}
	if !g.enter("par1/a2") || !g.enter("rom1/a1") {
		t.Error("others have no place")
	}
	g.leave("par1/a2")
	g.leave("par1/a1")
	if !g.enter("par1/a1") || len(g.of) != 2 || strings.Contains(fmt.Sprint(g.of), "a2") {
		t.Errorf("counted: %v", g.of)
	}
}
