package account

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

// TestTwoAgents: two agents hear one stream, each is killed and restarted at random and loses what it had not written, their clocks lie
// apart, datagrams come late: nothing is counted twice, every minute that one of them wrote whole is there, and the coverage says what
// part is missing. Samples are 1 in 1, so that figures are exact.
func TestTwoAgents(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for trial := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, trial))
		p := plan(Ingress)
		stores := [2]*memory{{m: map[string][]byte{}}, {m: map[string][]byte{}}}
		agents := [2]*agent{newAgent(t, p, stores[0]), newAgent(t, p, stores[1])}
		offset := [2]time.Duration{0, time.Duration(r.Int64N(int64(20*time.Minute))) - 10*time.Minute}
		var down [2]int           // seconds that an agent is still dead
		var whole [2]map[int]bool // minutes that it heard from the first to the last datagram, and wrote
		whole[0], whole[1] = map[int]bool{}, map[int]bool{}
		var since [2]int // second from which it heard everything
		e := sflowtest.Exporter{Agent: swA, Uptime: 7_000}
		const minutes = 90
		var seq uint32
		sent := make([]uint64, minutes+2)
		for s := range minutes * 60 {
			seq++
			e.Uptime = 7_000 + uint32(s)*1000
			fl := flow(m1, away, 1, 1, 9)
			fl.Seq, fl.Rate, fl.Pool = seq, 1, seq
			b := e.Datagram(fl.Sample())
			sent[e.Uptime/60_000]++
			for i := range agents {
				now := t0.Add(time.Duration(s)*time.Second + offset[i])
				switch {
				case down[i] > 1:
					down[i]--
					continue
				case down[i] == 1:
					down[i] = 0
					agents[i], since[i] = newAgent(t, p, stores[i]), s
				case r.IntN(1500) == 0:
					down[i] = 1 + r.IntN(400)
					continue
				}
				agents[i].Take(b, swA, now)
				agents[i].e.Tick(now, false)
				if s%20 == 19 {
					if err := agents[i].e.Flush(); err != nil {
						t.Fatal(err)
					}
				}
				// The minute before the last is on disk by now: it closed 10 s after its end, and a Flush came within 20 s.
				if m := int(e.Uptime)/60_000 - 2; m >= 0 && since[i]*1000+7_000 <= m*60_000 || m == 0 && since[i] == 0 {
					whole[i][m] = true
				}
			}
		}
		end := t0.Add((minutes + 5) * time.Minute)
		q, err := NewQuery(t0.Add(-30*time.Minute), end.Add(30*time.Minute), 0, nil, nil, end)
		if err != nil {
			t.Fatal(err)
		}
		var got, least, all uint64
		fs := ask(t, q, end, agents[0], agents[1])
		if len(fs) == 1 {
			got = fs[0].Packets
		}
		for m, n := range sent {
			all += n
			if whole[0][m] || whole[1][m] {
				least += n
			}
		}
		// Clocks 10 min apart make one agent's minutes begin elsewhere, and the query asks for all of them.
		if got > all || got < least {
			t.Errorf("seed %d, trial %d: %d packets counted, %d sent, %d at least in minutes heard whole", seed, trial, got, all, least)
		}
		q.Tier = Hours
		if fs = ask(t, q, end, agents[0], agents[1]); len(fs) == 1 && fs[0].Packets > all {
			t.Errorf("seed %d, trial %d: %d packets in the hours, %d sent", seed, trial, fs[0].Packets, all)
		}
	}
}

// TestMergeProperty: of random parts of a stream, each with its own datagrams, none that two agents heard is taken twice, and the part of
// most datagrams is always taken.
func TestMergeProperty(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var shares []Share
		most, mostAgent := Header{}, ""
		base := r.Uint32() // sequences wrap
		for a := range 1 + r.IntN(4) {
			s := Share{Agent: fmt.Sprint("a", a)}
			at := uint32(r.IntN(50))
			for n := range r.IntN(6) {
				from := at + uint32(r.IntN(30))
				to := from + uint32(r.IntN(40))
				at = to + 1
				h := Header{
					Key: sflow.Key{Agent: swA}, ID: ID(n), Bucket: 5, Start: t0.Add(time.Duration(r.IntN(600)) * time.Second), Minutes: 1,
					SeqFrom: base + from, SeqTo: base + to, Datagrams: uint64(1 + r.IntN(int(to-from)+1)),
				}
				s.Headers = append(s.Headers, h)
			}
			var sum uint64
			for _, h := range s.Headers {
				sum += h.Datagrams
			}
			if sum > most.Datagrams {
				most.Datagrams, mostAgent = sum, s.Agent
			}
			shares = append(shares, s)
		}
		taken := map[uint32]string{}
		for agent, ids := range Merge(shares) {
			for _, s := range shares {
				for _, h := range s.Headers {
					if s.Agent != agent || !ids[h.ID] {
						if s.Agent == mostAgent && s.Agent == agent {
							t.Fatalf("seed %d: the agent that heard most lacks %+v", seed, h)
						}
						continue
					}
					for q := h.SeqFrom; q != h.SeqTo+1; q++ {
						if by := taken[q-base]; by != "" && by != agent {
							t.Fatalf("seed %d: datagram %d counts by %s and by %s", seed, q, by, agent)
						}
						taken[q-base] = agent
					}
				}
			}
		}
	}
}

// TestClocksApart: agents that cut by their own clocks, as the exporter's runs off, add nothing twice either.
func TestClocksApart(t *testing.T) {
	share := func(agent string, from ...uint32) Share {
		s := Share{Agent: agent}
		for i, f := range from {
			s.Headers = append(s.Headers, Header{ID: ID(i), Bucket: 1000 + uint32(i) + uint32(len(agent)), Start: t0.Add(time.Duration(i) * time.Minute), SeqFrom: f, SeqTo: f + 9, Datagrams: 10, Flags: FlagClock})
		}
		return s
	}
	got := Merge([]Share{share("a", 0, 10, 40), share("bb", 5, 15, 25)})
	if fmt.Sprint(got) != "map[a:map[0:true 1:true 2:true] bb:map[2:true]]" {
		t.Errorf("%v", got)
	}
}

// TestGapOfOne: an agent that a cut kept from the exporter, and that did not restart, does not give what it missed a second time when the
// sequence tells it how much that was.
func TestGapOfOne(t *testing.T) {
	p := plan(Ingress)
	agents := [2]*agent{newAgent(t, p, nil), newAgent(t, p, nil)}
	e := sflowtest.Exporter{Agent: swA}
	const seconds = 3600
	for s := range uint32(seconds) {
		e.Uptime = s * 1000
		fl := flow(m1, away, 1, 1, 9)
		fl.Seq, fl.Rate, fl.Pool = s, 10, s*10
		b := e.Datagram(fl.Sample())
		now := t0.Add(time.Duration(s) * time.Second)
		for i, a := range agents {
			if i == 0 && s >= 1185 && s < 2115 {
				continue
			}
			a.Take(b, swA, now)
			a.e.Tick(now, false)
		}
	}
	now := t0.Add(seconds * time.Second)
	for _, a := range agents {
		a.end(t, now)
	}
	q, _ := NewQuery(t0.Add(-time.Hour), now, 0, nil, nil, now)
	fs := ask(t, q, now.Add(time.Hour), agents[0], agents[1])
	if len(fs) != 1 || fs[0].Packets != seconds*10 || fs[0].Coverage != 1 {
		t.Errorf("%+v; %d packets were sent", fs, seconds*10)
	}
}
