package fault

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/sim/memnet"
)

// join adds agents to s1, up to n.
func (w *world) join(n int) {
	w.Helper()
	for i := len(w.pair); i < n; i++ {
		id := fmt.Sprintf("a%d", i+1)
		b := w.box("s1/"+id, fmt.Sprintf("10.1.0.%d", i+1), 7444)
		w.must(os.MkdirAll(b.dir, 0o700))
		tok, err := w.api("admin", "coordinator").JoinToken(w.Context(), "s1", api.JoinTokenRequest{Agent: id})
		w.must(err)
		w.start(b.name, tok.Token)
		w.pair = append(w.pair, id)
	}
	w.until("all are level", func() bool { return w.level("s1") })
}

// publish uploads an asset that every agent of s1 wants, and returns its octets and digest.
func (w *world) publish(size int, rnd *rand.Rand) ([]byte, intent.Digest) {
	w.Helper()
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	c := w.api("admin", "coordinator")
	for name, body := range map[string][]byte{"vmlinuz": b, "ramdisk": []byte("a ramdisk")} {
		_, err := c.Upload(w.Context(), name, "boot", bytes.NewReader(body), int64(len(body)))
		w.must(err)
	}
	_, err := c.Apply(w.Context(), rawDocs(`{"kind":"Site","metadata":{"name":"s1"},"spec":{"region":"eu","zone":"z","installer":{"kernel":"vmlinuz","ramdisk":"ramdisk"}}}`), false, "")
	w.must(err)
	return b, intent.DigestOf(b)
}

// fetched adds to wan, by agent, how much of an asset it took from the coordinator, by the events that at has; true when all are in it.
func (w *world) fetched(at string, d intent.Digest, wan map[string]int64) bool {
	ctx, cancel := w.ask()
	defer cancel()
	err := w.api("admin", "s1/"+at).Events(ctx, api.EventQuery{Site: "s1"}, func(e intent.Event) error {
		if e.Type == "asset.complete" && e.Fields["digest"] == d.String() {
			wan[e.Agent], _ = strconv.ParseInt(e.Fields["source.origin:coordinator"], 10, 64)
		}
		return nil
	})
	return err == nil && len(wan) == len(w.pair)
}

// fetchedBy asks those who are not in wan yet themselves.
func (w *world) fetchedBy(d intent.Digest, wan map[string]int64) bool {
	for _, a := range w.pair {
		if _, ok := wan[a]; !ok {
			w.fetched(a, d, wan)
		}
	}
	return len(wan) == len(w.pair)
}

// crossing is an asset that comes to every agent while 30 % of the packets are lost.
type crossing struct {
	octets int
	jitter time.Duration
}

// cross publishes an asset and waits until every agent has it. It came over the WAN once.
func (w *world) cross(rnd *rand.Rand, c crossing) ([]byte, intent.Digest) {
	w.Helper()
	w.net.Storm(rnd.Uint64(), memnet.Weather{Loss: 0.3, Duplicate: 0.1, Reorder: 0.2, Jitter: c.jitter, MTU: 1280}, "10.9.9.9")
	body, digest := w.publish(c.octets, rnd)
	published := time.Now()
	wan, known := map[string]int64{}, map[string]int64{}
	w.within(tierPatience, "every agent has the asset", func() bool { return w.fetchedBy(digest, wan) })
	took := time.Since(published)
	w.within(30*time.Minute, "an agent knows that every agent has the asset", func() bool { return w.fetched("a1", digest, known) })
	octets := int64(0)
	for _, n := range wan {
		octets += n
	}
	times := float64(octets) / float64(len(body))
	w.Logf("up to %v late: the asset of %d KiB everywhere after %v, known to an agent after %v, %.3f times over the WAN",
		c.jitter, len(body)>>10, took.Round(time.Second), time.Since(published).Round(time.Second), times)
	if !maps.Equal(wan, known) {
		w.Errorf("the agents took %v, and one of them knows of %v", wan, known)
	}
	if times > 1.05 {
		w.Errorf("the asset came %.3f times over the WAN", times)
	}
	return body, digest
}

// Experiment F9: every wire is bad all the time: 30 % of the packets are lost, 10 % come twice, 20 % out of order, up to 800 ms late, none
// is larger than 1,280 octets. Links flap and go deaf on one side, while users change things at both ends and an operator at the
// coordinator. When the flapping ends, on wires as bad as before, everybody becomes level, no change is lost, nothing forked or was
// refused. Then an asset comes to every agent without one wrong octet, and over the WAN once: at most 1.05 times its octets arrived from
// the coordinator, at all agents together, what was thrown away too. A connection that loses 30 % sends two packets or so in a round, so
// what comes late decides how long an asset takes; the short tier has it on wires that are not late.
func TestBadWires(t *testing.T) {
	rnd := random(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		w.join(tierAgents)
		w.net.Storm(rnd.Uint64(), memnet.Weather{Loss: 0.3, Duplicate: 0.1, Reorder: 0.2, Jitter: 800 * time.Millisecond, MTU: 1280}, "10.9.9.9")
		keys, types := &changes{}, &changes{}
		w.flaps(rnd, keys, types)
		ended := time.Now()
		w.within(30*time.Minute, "all are level on bad wires, and every change that was taken is stored", func() bool {
			return w.level("s1") && keys.stored(w.names(intent.KindSSHKey, "acme")) && types.stored(w.names(intent.KindMachineType, ""))
		})
		level := time.Since(ended)
		for _, n := range w.names(intent.KindSSHKey, "acme") {
			if !slices.Contains(keys.taken, n) && !slices.Contains(keys.refused, n) {
				t.Errorf("key %s is stored, and nobody asked for it", n)
			}
		}
		t.Logf("%d agents, %d flaps; of users %d changes taken, %d sent elsewhere, of the operator %d and %d; level %v after the last flap",
			len(w.pair), tierFlaps, len(keys.taken), len(keys.refused), len(types.taken), len(types.refused), level.Round(time.Second))
		var body []byte
		var digest intent.Digest
		for _, c := range tierCrossings() {
			body, digest = w.cross(rnd, c)
		}
		if s := w.logs.String(); strings.Contains(s, "fork") || strings.Contains(s, "intent is rejected") {
			t.Error("something forked or was refused")
		}
		for _, a := range w.pair {
			w.end("s1/" + a)
			w.same("s1/"+a, digest, body)
		}
	})
}

// flaps cuts and deafens links, one after the other, and changes things while they are.
func (w *world) flaps(rnd *rand.Rand, keys, types *changes) {
	var ips []string
	for _, b := range w.boxes {
		if b.dir != "" {
			ips = append(ips, b.ip)
		}
	}
	slices.Sort(ips)
	for i := range tierFlaps {
		x, y := rnd.IntN(len(ips)), rnd.IntN(len(ips))
		for x == y {
			y = rnd.IntN(len(ips))
		}
		cut := w.net.Cut
		if rnd.IntN(2) == 0 {
			cut = w.net.Mute
		}
		cut(ips[x], ips[y], true)
		time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Second))))
		at := "coordinator"
		if rnd.IntN(2) == 0 {
			at = "s1/" + w.pair[rnd.IntN(len(w.pair))]
		}
		keys.change(w, "ana", at, fmt.Sprintf("k%d", i), namedKey(fmt.Sprintf("k%d", i), i))
		if i%4 == 0 {
			name := fmt.Sprintf("t%d", i)
			types.change(w, "admin", "coordinator", name, fmt.Sprintf(`{"kind":"MachineType","metadata":{"name":%q},"spec":{"cpu":{"min":1},"memoryMiB":{"min":1}}}`, name))
		}
		cut(ips[x], ips[y], false)
		time.Sleep(time.Duration(rnd.Int64N(int64(10 * time.Second))))
	}
}

// changes are what somebody tried to change. One that was refused may be stored all the same: its answer was lost.
type changes struct{ taken, refused []string }

func (c *changes) change(w *world, user, at, name, doc string) {
	ctx, cancel := w.ask()
	defer cancel()
	if _, err := w.api(user, at).Apply(ctx, rawDocs(doc), false, "bad wires"); err != nil {
		c.refused = append(c.refused, name) // a site that hears its coordinator sends its users there
		return
	}
	c.taken = append(c.taken, name)
}

// stored tells whether all that was taken is among the names.
func (c *changes) stored(names []string) bool {
	return !slices.ContainsFunc(c.taken, func(n string) bool { return !slices.Contains(names, n) })
}

// names lists the objects of a kind that the coordinator's catalog has.
func (w *world) names(kind intent.Kind, project string) (out []string) {
	ctx, cancel := w.ask()
	defer cancel()
	info, _ := kind.Info()
	l, err := w.api("admin", "coordinator").List(ctx, info, "", project)
	if err != nil {
		return nil
	}
	for _, o := range l {
		out = append(out, o.Metadata.Name)
	}
	return out
}

// same reads an asset of an agent that is down, and compares every octet.
func (w *world) same(name string, d intent.Digest, want []byte) {
	w.Helper()
	b := w.boxes[name]
	key, err := upkeep.StateKey(b.dir)
	w.must(err)
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(b.dir, "state"), Key: key, Logger: log, UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	w.must(err)
	store, err := blob.Open(blob.Config{Dir: filepath.Join(b.dir, "assets"), State: db, Logger: log, Reserve: 1})
	w.must(err)
	r, err := store.Open(d)
	w.must(err)
	got, err := io.ReadAll(r)
	w.must(err)
	if !bytes.Equal(got, want) {
		w.Errorf("%s has %d octets that are not those that were published", name, len(got))
	}
	w.must(r.Close())
	w.must(store.Close())
	w.must(db.Close())
}
