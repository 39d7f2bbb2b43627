package document

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

func goodReceipt() *erasure.Receipt {
	return &erasure.Receipt{
		Site: "lon1", Agent: "a1", Seq: 1, Time: epoch0, Machine: erasure.Machine{Name: "m1", Serial: "SN1"}, Project: "shop", Instance: "i1",
		Generation: 1, Task: "erase/m1/1/1", Permission: intent.DigestOf([]byte("p")), Claim: intent.Epoch{Generation: 1, N: 65537}, Required: erasure.Purge,
		Drives: []erasure.Drive{{
			DiskID: intent.DiskID{Serial: "D1", SizeBytes: 1 << 30}, Media: "nvme", Method: "nvme-format-crypto", Level: erasure.Purge, Start: epoch0,
			End: epoch0.Add(time.Minute), DeviceStatus: "done", Canary: erasure.Canary{Blocks: 66, SeedDigest: intent.DigestOf([]byte("s"))},
		}},
		Tool: erasure.Tool{Version: "1"}, Result: erasure.Erased,
	}
}

func rosterEntry(t testing.TB, writer ed25519.PrivateKey, site, agent string, keys ...ed25519.PrivateKey) *intent.Envelope {
	t.Helper()
	a := intent.RosterAgent{ID: agent, State: "agent"}
	for _, k := range keys {
		a.Sign = append(a.Sign, MarshalKey(pub(k)))
	}
	e := entry(intent.Head{}, 1, site, "")
	e.Kind, e.Body = intent.EntryRoster, marshal(t, intent.RosterBody{Generation: 1, Agents: []intent.RosterAgent{a}})
	return sign(t, intent.PayloadIntent, e, writer)
}

// A receipt holds offline only by a writer's word for the agent's key: whatever else is changed, it fails.
func TestReceipt(t *testing.T) {
	w, a, other := key(1), key(2), key(3)
	writers := []intent.Writer{writer(w, 1, intent.KeyRetire)}
	env, err := SignReceipt(goodReceipt(), a)
	if err != nil {
		t.Fatal(err)
	}
	rosters := []*intent.Envelope{nil, rosterEntry(t, w, "lon1", "a2", other), rosterEntry(t, w, "lon1", "a1", other, a)}
	if r, err := VerifyReceipt(env, rosters, writers); err != nil || r.Machine.Serial != "SN1" {
		t.Fatalf("%+v, %v", r, err)
	}
	f := func(name string, want error, env *intent.Envelope, rosters []*intent.Envelope, writers []intent.Writer) {
		t.Helper()
		if _, err := VerifyReceipt(env, rosters, writers); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	f("no receipt", ErrUnproven, nil, rosters, writers)
	f("no roster", ErrUnproven, env, nil, writers)
	f("writer of another domain", ErrUnproven, env, rosters, []intent.Writer{writer(other, 1, intent.KeyUse)})
	f("roster of another site", ErrUnproven, env, []*intent.Envelope{rosterEntry(t, w, "par1", "a1", a)}, writers)
	f("roster names another agent", ErrUnproven, env, rosters[1:2], writers)
	f("roster gives another key", ErrSignature, env, []*intent.Envelope{rosterEntry(t, w, "lon1", "a1", other)}, writers)
	f("signed as another document", ErrType, sign(t, intent.PayloadAudit, goodReceipt(), a), rosters, writers)
	changed := *env
	changed.Payload = []byte(strings.Replace(string(env.Payload), `"SN1"`, `"SN2"`, 1))
	f("serial changed", ErrSignature, &changed, rosters, writers)

	for name, change := range map[string]func(*erasure.Receipt){
		"canary found":    func(r *erasure.Receipt) { r.Drives[0].Canary.Found = 1 },
		"weaker":          func(r *erasure.Receipt) { r.Drives[0].Level = erasure.Clear },
		"no drive":        func(r *erasure.Receipt) { r.Drives = nil },
		"twice":           func(r *erasure.Receipt) { r.Drives = append(r.Drives, r.Drives[0]) },
		"no permission":   func(r *erasure.Receipt) { r.Permission = intent.Digest{} },
		"no claim":        func(r *erasure.Receipt) { r.Claim = intent.Epoch{} },
		"no machine":      func(r *erasure.Receipt) { r.Machine.Serial = "" },
		"another result":  func(r *erasure.Receipt) { r.Result = "maybe" },
		"first with prev": func(r *erasure.Receipt) { r.Prev = "x" },
		"no prev":         func(r *erasure.Receipt) { r.Seq = 2 },
	} {
		r := goodReceipt()
		change(r)
		if _, err := SignReceipt(r, a); !errors.Is(err, erasure.ErrProof) {
			t.Errorf("%s was signed: %v", name, err)
		}
		f(name, erasure.ErrProof, sign(t, intent.PayloadReceipt, r, a), rosters, writers)
	}
}

func FuzzReceipt(f *testing.F) {
	good := goodReceipt()
	b, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"drives":[{}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		k := key(2)
		env, err := Sign(intent.PayloadReceipt, payload, k)
		if err != nil {
			return
		}
		r, err := OpenReceipt(env, []ed25519.PublicKey{pub(k)})
		if err != nil {
			return
		}
		if _, err := SignReceipt(r, k); err != nil {
			t.Errorf("taken, and not signed again: %v", err)
		}
		_, _ = VerifyReceipt(env, []*intent.Envelope{env}, nil)
	})
}
