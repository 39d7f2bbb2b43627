package netboot

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/boot/ipxe"
)

// within runs fn in a namespace of the rack. The thread comes back: with it would die what was started on it (Pdeathsig).
func (b *rack) within(n string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			defer home.Close()
			f, err := os.Open("/var/run/netns/" + b.ns(n))
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			err = fn()
			if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
				return back
			}
			runtime.UnlockOSThread()
			return err
		}()
	}()
	return <-done
}

// discover is a DISCOVER that wants its answer broadcast; xid is its place in the sequence.
func discover(mac [6]byte, xid uint32) []byte {
	b := make([]byte, 300)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], xid)
	b[10] = 0x80
	copy(b[28:], mac[:])
	copy(b[236:], "\x63\x82\x53\x63\x35\x01\x01\xff")
	return b
}

// TestFlood: smee#21. 30,000 DISCOVERs of 30,000 strangers, as fast as 10,000 a second, and between them a machine of ours: it is
// answered each time.
func TestFlood(t *testing.T) {
	need(t, "ethtool", "ethtool")
	const packets, every, rate = 30_000, 200, 10_000
	b := newBench(t, two(ipxe.ActLocal)[:1]...)
	run(t, "ip", "-n", b.ns("c"), "addr", "add", "10.88.0.50/24", "dev", "e0")
	var conn *net.UDPConn
	err := b.within("c", func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 68})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	sent := make([]time.Time, packets)
	answered, ended := map[uint32]time.Duration{}, make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for len(answered) < packets/every {
			n, err := conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if xid := binary.BigEndian.Uint32(buf[4:]); err == nil && n > 240 && xid < packets && xid%every == 0 {
				answered[xid] = time.Since(sent[xid])
			}
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	to := &net.UDPAddr{IP: net.IPv4(10, 88, 0, 11), Port: 67}
	begin := time.Now()
	for i := range packets {
		mac := [6]byte{0x52, 0x54, 0, 0, 0, 1}
		if i%every != 0 {
			binary.BigEndian.PutUint32(mac[2:], r.Uint32())
			mac[1] = 0x77
		}
		sent[i] = time.Now()
		if _, err := conn.WriteTo(discover(mac, uint32(i)), to); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate))) // paces; asserts nothing
		}
	}
	took := time.Since(begin)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	<-ended
	if len(answered) != packets/every {
		t.Fatalf("%d of %d were answered", len(answered), packets/every)
	}
	var d []time.Duration
	for _, x := range answered {
		d = append(d, x)
	}
	slices.Sort(d)
	t.Logf("%.0f a second; a known machine's offer after %v (median), %v (99 %%)", packets/took.Seconds(), d[len(d)/2], d[len(d)*99/100])
	b.drain()
}
