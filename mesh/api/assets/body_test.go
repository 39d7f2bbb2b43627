package assets

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// A body whose line is dead, and which is therefore never read to its end, gives its session free at once.
func TestStop(t *testing.T) {
	f := func(http2 bool) {
		t.Helper()
		began, ended := make(chan *Body), make(chan error)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b := NewBody(w, r)
			if _, err := io.ReadFull(b, make([]byte, 3)); err != nil {
				t.Error(err)
			}
			began <- b
			_, err := b.Read(make([]byte, 10))
			ended <- err
			b.End()
		}))
		srv.EnableHTTP2 = http2
		srv.StartTLS()
		defer srv.Close()
		r, w := io.Pipe()
		gone := make(chan error)
		go func() {
			res, err := srv.Client().Post(srv.URL, "", io.MultiReader(bytes.NewReader([]byte("abc")), r))
			if err == nil {
				err = res.Body.Close()
			}
			gone <- err
		}()
		b := <-began
		b.Stop()
		if err := <-ended; !errors.Is(err, ErrStopped) {
			t.Errorf("HTTP/2 %v: a stopped body says %v", http2, err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, ErrStopped) {
			t.Errorf("HTTP/2 %v: read again, it says %d, %v", http2, n, err)
		}
		w.Close()
		<-gone // what it got depends on which side noticed first
	}
	f(false)
	f(true)
}
