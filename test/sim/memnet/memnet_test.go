package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a stream from a to b, both ends.
func pipe(t *testing.T, a, b *Host, port string) (from, to net.Conn) {
	t.Helper()
	ln, err := b.Listen("tcp", b.ip.String()+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	from, err = a.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if to, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return from, to
}

// TestStreams: what is written arrives, a cut holds it up and loses nothing, the end comes after the rest, and deadlines hold.
func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		from, to := pipe(t, a, b, "80")
		big := strings.Repeat("x", 2*window)
		read := make(chan string)
		n.Cut("10.0.0.1", "10.0.0.2", true)
		go func() {
			got, err := io.ReadAll(to)
			if err != nil {
				t.Error(err)
			}
			read <- string(got)
		}()
		go func() {
			if _, err := from.Write([]byte(big)); err != nil {
				t.Error(err)
			}
			from.Close()
		}()
		select {
		case <-read:
			t.Fatal("a cut let something through")
		case <-time.After(time.Hour):
		}
		n.Cut("10.0.0.1", "10.0.0.2", false)
		if got := <-read; got != big {
			t.Errorf("%d octets of %d arrived", len(got), len(big))
		}
		from, to = pipe(t, a, b, "81")
		if err := to.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(at) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(at))
		}
		from.Close()
	})
}

// TestUnplug: who spoke with a host that is gone hears nothing until it listens again; a dial to it waits.
func TestUnplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		from, _ := pipe(t, a, b, "80")
		b.Unplug()
		ended := make(chan error, 1)
		go func() {
			_, err := from.Read(make([]byte, 1))
			ended <- err
		}()
		select {
		case err := <-ended:
			t.Fatalf("the peer of a dead host was told: %v", err)
		case <-time.After(time.Hour):
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := a.DialContext(ctx, "tcp", "10.0.0.2:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial to a dead host: %v", err)
		}
		if _, err := b.Listen("tcp", "10.0.0.2:80"); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after it is back: %v", err)
		}
		if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a closed port: %v", err)
		}
	})
}

// TestPackets: they take a moment, and a cut loses them.
func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		from, err := a.ListenPacket("udp", "10.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		to, err := b.ListenPacket("udp", "10.0.0.2:53")
		if err != nil {
			t.Fatal(err)
		}
		send := func(text string) {
			t.Helper()
			if _, err := from.WriteTo([]byte(text), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		n.Cut("10.0.0.2", "10.0.0.1", true)
		send("lost")
		time.Sleep(time.Second)
		n.Cut("10.0.0.2", "10.0.0.1", false)
		send("arrives")
		buf, at := make([]byte, 100), time.Now()
		k, peer, err := to.ReadFrom(buf)
		if err != nil || string(buf[:k]) != "arrives" || peer.String() != from.LocalAddr().String() || time.Since(at) != latency {
			t.Errorf("%q from %v after %v, %v", buf[:k], peer, time.Since(at), err)
		}
		b.Unplug()
		if _, _, err := to.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("of an unplugged host: %v", err)
		}
	})
}

// stormed is how many packets a storm test sends.
const stormed = 400

// fates sends packets through w and returns which came, in this order, and when the last did.
func fates(t *testing.T, w Weather, calm ...string) (got []int, last time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New()
		from, err := n.Host("10.0.0.1").ListenPacket("udp", "10.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		to, err := n.Host("10.0.0.2").ListenPacket("udp", "10.0.0.2:53")
		if err != nil {
			t.Fatal(err)
		}
		n.Storm(7, w, calm...)
		begun := time.Now()
		go func() {
			for i := range stormed {
				if _, err := from.WriteTo([]byte{byte(i >> 8), byte(i), 0}, to.LocalAddr()); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond)
			}
		}()
		buf := make([]byte, 10)
		for {
			if err := to.SetReadDeadline(begun.Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			k, _, err := to.ReadFrom(buf)
			if err != nil {
				break
			}
			if k != 3 {
				t.Errorf("%d octets", k)
			}
			got, last = append(got, int(buf[0])<<8|int(buf[1])), time.Since(begun)
		}
		from.Close()
		to.Close()
	})
	return got, last
}

// TestWeather: packets are lost, come twice, out of order, late and not at all when they are too large, each as often as asked; the same
// seed draws the same fate; hosts in calm are spared, and streams are late, never wrong.
func TestWeather(t *testing.T) {
	count := func(got []int) (lost, twice, disordered int) {
		seen := map[int]int{}
		for i, p := range got {
			seen[p]++
			if i > 0 && p < got[i-1] {
				disordered++
			}
		}
		for p := range stormed {
			switch seen[p] {
			case 0:
				lost++
			case 2:
				twice++
			}
		}
		return lost, twice, disordered
	}
	about := func(what string, got int, part float64) {
		t.Helper()
		if want := part * stormed; float64(got) < want/2 || float64(got) > want*1.5+1 {
			t.Errorf("%s: %d of %d, asked for %.0f %%", what, got, stormed, part*100)
		}
	}
	for name, c := range map[string]struct {
		w                       Weather
		calm                    []string
		lost, twice, disordered float64
		late                    time.Duration
	}{
		"fine":            {},
		"loss":            {w: Weather{Loss: 0.3}, lost: 0.3},
		"all lost":        {w: Weather{Loss: 1}, lost: 1},
		"twice":           {w: Weather{Duplicate: 0.2}, twice: 0.2},
		"jitter":          {w: Weather{Jitter: 800 * time.Millisecond}, disordered: 0.5, late: 800 * time.Millisecond},
		"too large":       {w: Weather{MTU: 30}, lost: 1},
		"large enough":    {w: Weather{MTU: 31}},
		"calm at one end": {w: Weather{Loss: 1}, calm: []string{"10.0.0.2"}},
	} {
		got, last := fates(t, c.w, c.calm...)
		lost, twice, disordered := count(got)
		about(name+", lost", lost, c.lost)
		about(name+", twice", twice, c.twice)
		about(name+", disordered", disordered, c.disordered)
		if last > c.late+time.Second {
			t.Errorf("%s: the last came after %v", name, last)
		}
		again, _ := fates(t, c.w, c.calm...)
		if l, tw, _ := count(again); l != lost || tw != twice {
			t.Errorf("%s: the same seed lost %d and doubled %d, then %d and %d", name, lost, twice, l, tw)
		}
	}
	got, _ := fates(t, Weather{Reorder: 0.2, Jitter: 10 * time.Millisecond})
	if _, _, disordered := count(got); disordered == 0 {
		t.Error("nothing came out of order")
	}
	synctest.Test(t, func(t *testing.T) {
		n := New()
		from, to := pipe(t, n.Host("10.0.0.1"), n.Host("10.0.0.2"), "80")
		n.Storm(7, Weather{Loss: 0.5, Duplicate: 0.3, Reorder: 0.3, Jitter: 800 * time.Millisecond, MTU: 1280})
		text, begun := strings.Repeat("in this order, ", 100), time.Now()
		go func() {
			for part := range strings.SplitSeq(text, " ") {
				if _, err := from.Write([]byte(part + " ")); err != nil {
					t.Error(err)
				}
			}
			from.Close()
		}()
		got, err := io.ReadAll(to)
		if string(got) != text+" " || err != nil || time.Since(begun) < time.Second {
			t.Errorf("%d octets of %d after %v, %v", len(got), len(text), time.Since(begun), err)
		}
	})
}

// TestMute: what one host says is not heard by the other, packets and streams, and the other way all is well.
func TestMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		one, err := a.ListenPacket("udp", "10.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		two, err := b.ListenPacket("udp", "10.0.0.2:53")
		if err != nil {
			t.Fatal(err)
		}
		from, to := pipe(t, a, b, "80")
		hears := func(c net.Conn) bool {
			t.Helper()
			if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, err := c.Read(make([]byte, 1))
			return err == nil
		}
		packet := func(from, to net.PacketConn) bool {
			t.Helper()
			if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			if err := to.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, _, err := to.ReadFrom(make([]byte, 9))
			return err == nil
		}
		n.Mute("10.0.0.1", "10.0.0.2", true)
		go func() { _, _ = from.Write([]byte("a")) }() // waits for the end of the silence
		if packet(one, two) || hears(to) {
			t.Error("a mute host was heard")
		}
		if !packet(two, one) {
			t.Error("a mute host hears nothing")
		}
		n.Mute("10.0.0.1", "10.0.0.2", false)
		if !hears(to) || !packet(one, two) {
			t.Error("nothing is heard after the silence")
		}
		from.Close()
	})
}
