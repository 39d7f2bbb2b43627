package replica_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/tally"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// told is what a test had its author say, added up by hand.
type told struct {
	objects map[string]uint64
	tombs   []intent.TombstoneObject
	acks    []intent.AckBody
}

func (w told) body() intent.SnapshotBody {
	var s tally.Sum
	for uid, rev := range w.objects {
		s.Object(uid, rev)
	}
	for _, t := range w.tombs {
		s.Tombstone(t)
	}
	for _, a := range w.acks {
		s.Ack(a)
	}
	return s.Body()
}

// A snapshot that the replay equals is active. One that it does not equal keeps what was active before it, whatever it is that differs,
// holds back what follows it, also after a restart, and is mended by a later one that is equal.
func TestSnapshotEqualsReplay(t *testing.T) {
	type change func(*told)
	object := func(uid string, rev uint64) change { return func(w *told) { w.objects[uid] = rev } }
	for name, wrong := range map[string]change{
		"one more":                object("u-evil", 1),
		"one less":                func(w *told) { delete(w.objects, "u-large") },
		"another generation":      object("u-small", 3),
		"a tombstone more":        func(w *told) { w.tombs = append(w.tombs, intent.TombstoneObject{UID: "u-large", Rev: 2}) },
		"no tombstone":            func(w *told) { w.tombs = nil },
		"a tombstone's rev":       func(w *told) { w.tombs[0].Rev++ },
		"another decision":        func(w *told) { w.acks[0].Decision = "discard" },
		"an ack that nobody made": func(w *told) { w.acks = append(w.acks, intent.AckBody{Override: "o2", Decision: "adopt"}) },
	} {
		t.Run(name, func(t *testing.T) {
			a, dir := sitetest.NewAuthor(t), t.TempDir()
			s, db := sitetest.OpenReplica(t, dir, a, "a1")
			want := func() told {
				return told{
					map[string]uint64{"s1": 1, "u-small": 2, "u-large": 1},
					[]intent.TombstoneObject{{Kind: intent.KindMachineType, UID: "u-gone", Rev: 2}},
					[]intent.AckBody{{Override: "o1", Decision: "adopt", Rev: 4}},
				}
			}
			receive := func(s *replica.Replica, envs ...*intent.Envelope) {
				t.Helper()
				if n, err := s.Receive(t.Context(), envs); n != len(envs) || err != nil {
					t.Fatalf("Receive = %d, %v", n, err)
				}
			}
			receive(
				s, a.Put(sitetest.SiteDoc, sitetest.MachineTypeDoc("small", 1), sitetest.MachineTypeDoc("gone", 1)),
				a.Put(sitetest.MachineTypeDoc("small", 2), sitetest.MachineTypeDoc("large", 1)),
				a.Entry(intent.EntryTombstone, intent.TombstoneBody{Objects: want().tombs}), a.Entry(intent.EntryAck, want().acks[0]),
				a.Entry(intent.EntrySnapshot, want().body()),
			)
			good := a.Head
			if st := s.State(); st.Head != good || st.Rejected != "" {
				t.Fatalf("active %d, %q; want the equal snapshot", st.Head.Seq, st.Rejected)
			}
			w := want()
			wrong(&w)
			receive(s, a.Entry(intent.EntrySnapshot, w.body()))
			receive(s, a.Put(sitetest.MachineTypeDoc("after", 1)))
			held := func(s *replica.Replica) {
				t.Helper()
				if st := s.State(); st.Head != good || st.Staged != a.Head || !strings.Contains(st.Rejected, "snapshot is not what the chain comes to here: entry 6 says") || names(s)["after"] {
					t.Fatalf("active %d, staged %d, %q; want entry 5 and a reason", st.Head.Seq, st.Staged.Seq, st.Rejected)
				}
			}
			held(s)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			s, _ = sitetest.OpenReplica(t, dir, a, "a1")
			held(s)
			mended := want()
			mended.objects["u-after"] = 1
			receive(s, a.Entry(intent.EntrySnapshot, mended.body()))
			if st := s.State(); st.Head != a.Head || st.Rejected != "" || !names(s)["after"] {
				t.Errorf("active %d, %q; want the snapshot that is equal", st.Head.Seq, st.Rejected)
			}
		})
	}
}

// What is here may be wrong itself. Before it takes a snapshot for wrong an agent works its state out anew, in memory and on disk.
func TestSnapshotFindsRot(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	w := told{objects: map[string]uint64{}}
	for i := range 3 {
		name := fmt.Sprintf("t%d", i)
		w.objects["u-"+name] = 1
		if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.MachineTypeDoc(name, 1))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Lose("u-t1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Entry(intent.EntrySnapshot, w.body())}); err != nil {
		t.Fatal(err)
	}
	whole := func(s *replica.Replica) {
		t.Helper()
		if st := s.State(); st.Head != a.Head || st.Rejected != "" || !names(s)["t1"] || len(names(s)) != 3 {
			t.Errorf("active %d, %q, %v; want all three", st.Head.Seq, st.Rejected, names(s))
		}
	}
	whole(s)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	whole(s)
	if rep, err := db.Scrub(t.Context()); err != nil || rep.Held != nil {
		t.Errorf("scrub: %+v, %v", rep, err)
	}
}
