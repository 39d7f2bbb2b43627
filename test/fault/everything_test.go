package fault

import (
	"fmt"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/test/sim/memnet"
)

// anything does one thing: what histories do, or one of the troubles that other experiments bring one by one.
func (h *history) anything() {
	site := h.pick(h.sites)
	switch h.rnd.IntN(16) {
	case 0:
		w := memnet.Weather{Loss: 0.3 * h.rnd.Float64(), Duplicate: 0.1, Reorder: 0.2, Jitter: time.Duration(h.rnd.IntN(800)) * time.Millisecond, MTU: 1280}
		h.note("the weather is %+v", w)
		h.net.Storm(h.rnd.Uint64(), w, "10.9.9.9")
	case 1:
		h.note("the weather is fine")
		h.net.Storm(0, memnet.Weather{}, "10.9.9.9")
	case 2:
		h.deafen(site)
	case 3:
		h.leap()
	case 4:
		h.turn(api.RotateRequest{What: api.RotateAgent, Site: site, Agent: h.pick(h.pair), Again: true})
	case 5:
		h.turn(api.RotateRequest{What: h.pick([]string{api.RotateWriter, api.RotateCA, api.RotateRoot}), Again: true})
	case 6:
		h.reseal(site)
	case 7:
		h.suspect(site)
	default:
		h.step()
		return
	}
	time.Sleep(time.Duration(1+h.rnd.IntN(45)) * time.Second)
}

// deafen lets one box no longer hear another, or hear it again.
func (h *history) deafen(site string) {
	names := []string{site + "/a1", site + "/a2", "coordinator"}
	h.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	w := [2]string{names[0], names[1]}
	h.deaf[w] = !h.deaf[w]
	h.note("%s is not heard by %s: %v", w[0], w[1], h.deaf[w])
	h.net.Mute(h.boxes[w[0]].ip, h.boxes[w[1]].ip, h.deaf[w])
}

// leap sets the clock of a box wrong by up to ten years, a coordinator's by no more than it believes, or right.
func (h *history) leap() {
	name, most := h.pick(append(h.agents(), "coordinator")), 10*365*24*time.Hour
	if name == "coordinator" {
		most = 20 * 24 * time.Hour
	}
	by := time.Duration(h.rnd.Int64N(2*int64(most))) - most
	if h.rnd.IntN(3) == 0 {
		by = 0
	}
	h.note("the clock of %s is wrong by %v", name, by)
	h.boxes[name].jump.Store(int64(by))
}

// turn asks for new keys, or asks a turn to go on.
func (h *history) turn(q api.RotateRequest) {
	if h.boxes["coordinator"].stop == nil {
		return
	}
	ctx, cancel := h.ask()
	defer cancel()
	st, err := h.api("admin", "coordinator").Rotate(ctx, q)
	if err != nil {
		h.note("new keys of %s %s%s: %.160v", q.What, q.Site, q.Agent, err)
		return
	}
	h.note("new keys of %s %s: %s", st.What, st.Target, st.Phase)
}

// reseal asks for new data keys, or new passwords of BMCs.
func (h *history) reseal(site string) {
	if h.boxes["coordinator"].stop == nil {
		return
	}
	q := api.SecretRotation{Agent: h.pick(h.pair), Reason: "history"}
	if h.rnd.IntN(2) == 0 {
		q = api.SecretRotation{BMC: "bmc", Reason: "history"}
	}
	ctx, cancel := h.ask()
	defer cancel()
	_, err := h.api("admin", "coordinator").RotateSecrets(ctx, site, q)
	h.note("new secrets at %s %+v: %.160v", site, q, err)
}

// suspect lets an agent of a site put the other one into quarantine, or lift that.
func (h *history) suspect(site string) {
	at, who := h.pick(h.pair), ""
	for _, a := range h.pair {
		if a != at {
			who = a
		}
	}
	if h.boxes[site+"/"+at].stop == nil {
		return
	}
	h.quarantine(site, at, who, h.rnd.IntN(2) == 0)
}

func (h *history) quarantine(site, at, who string, on bool) bool {
	ctx, cancel := h.ask()
	defer cancel()
	_, err := h.api("admin", site+"/"+at).Quarantine(ctx, site, who, api.QuarantineRequest{On: on, Reason: "history"})
	h.note("quarantine of %s/%s at %s %v: %.160v", site, who, at, on, err)
	return err == nil
}

// calm ends the troubles of anything, before heal ends those of step.
func (h *history) calm() {
	h.net.Storm(0, memnet.Weather{}, "10.9.9.9")
	for w, deaf := range h.deaf {
		if deaf {
			h.net.Mute(h.boxes[w[0]].ip, h.boxes[w[1]].ip, false)
		}
	}
	for _, name := range append(h.agents(), "coordinator") {
		h.boxes[name].jump.Store(0)
		if h.boxes[name].stop == nil {
			h.power(name)
		}
	}
	for w, cut := range h.cuts {
		if cut {
			h.wire(w[0], w[1], false)
		}
	}
	h.note("all troubles end")
	for _, s := range h.sites {
		for i, at := range h.pair {
			h.until("nobody of "+s+" is in quarantine", func() bool { return h.quarantine(s, at, h.pair[1-i], false) })
		}
		h.until(s+" is level after all", func() bool { return h.level(s) })
	}
	h.within(time.Hour, "every rotation is done", func() bool {
		ctx, cancel := h.ask()
		defer cancel()
		l, err := h.api("admin", "coordinator").Rotations(ctx)
		if err != nil {
			return false
		}
		h.uneven = fmt.Sprintf("under way: %+v", l.Items)
		for _, r := range l.Items {
			q := api.RotateRequest{What: r.What}
			if r.What == api.RotateAgent {
				q.Site = r.Target
			}
			h.turn(q)
		}
		return len(l.Items) == 0
	})
}

// Experiment F22, its faults: everything at random and at once. To what histories do come storms, deaf wires, clocks that leap, new keys of
// agents, writer, CA and roots, new secrets and passwords, and quarantines. The laws are those of F10. Its load is
// test/bench.BenchmarkLoad.
func TestEverything(t *testing.T) {
	histories(t, times(tierEverything), 22, func(h *history) {
		for range 40 {
			h.anything()
		}
		h.calm()
	})
}
