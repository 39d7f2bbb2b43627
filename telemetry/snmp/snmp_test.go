package snmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gosnmp/gosnmp"
)

// port is the objects of one interface, Ethernet by type.
func port(index int, name string, octets, errs uint64, more ...string) string {
	return fmt.Sprintf(`1.3.6.1.2.1.2.2.1.3.%[1]d|2|6
1.3.6.1.2.1.2.2.1.8.%[1]d|2|1
1.3.6.1.2.1.2.2.1.14.%[1]d|65|%[4]d
1.3.6.1.2.1.31.1.1.1.1.%[1]d|4|%[2]s
1.3.6.1.2.1.31.1.1.1.6.%[1]d|70|%[3]d
1.3.6.1.2.1.31.1.1.1.15.%[1]d|66|10000
%[5]s
`, index, name, octets, errs, strings.Join(more, "\n"))
}

const uptime = "1.3.6.1.2.1.1.3.0|67|%d\n"

// of returns the lines of a metric.
func of(rr []Reading, m Metric) string {
	return text(slices.DeleteFunc(slices.Clone(rr), func(r Reading) bool { return r.Metric != m }))
}

// mute is a session that answers from objects, and not at all to more than most variables at once.
type mute struct {
	objects []object
	most    uint32
	asked   []uint32
	from    []string
	err     error
}

func (m *mute) bulk(_ context.Context, after oid, n uint32) (out []variable, err error) {
	m.asked, m.from = append(m.asked, n), append(m.from, after.String())
	if n > m.most {
		return nil, m.err
	}
	for _, v := range (&responder{objects: m.objects}).after(after, int(n)) {
		name, _ := parseOID(v.Name)
		out = append(out, variable{name, valueOf(v)})
	}
	return out, nil
}

func (m *mute) get(_ context.Context, name oid) (value, error) {
	return valueOf((&responder{objects: m.objects}).exactly(name)), nil
}

func (m *mute) close() error { return nil }

// over makes a Reader that reads what s answers.
func over(s session) *Reader {
	r := New()
	r.dial = func(context.Context, Target) (session, error) { return s, nil }
	return r
}

// TestAdapts: a device that answers few variables at once is asked for fewer, down to one, and after clean readings for more again; one
// that answers nothing costs three requests.
func TestAdapts(t *testing.T) {
	for _, why := range []error{errTimeout, errTooBig} {
		m := &mute{objects: objects(t, fmt.Sprintf(uptime, 100)+port(1, "e1", 7, 0)), most: 3, err: why}
		r := over(m)
		rr, err := r.Read(t.Context(), "sw1", Target{})
		if err != nil || !strings.Contains(of(rr, PortOctets), `direction="in",port="e1"} 7 `) {
			t.Fatalf("%v: %v: %s", why, err, text(rr))
		}
		if !slices.Equal(m.asked[:3], []uint32{10, 5, 2}) {
			t.Fatalf("%v: asked for %v", why, m.asked[:3])
		}
		m.most, m.asked = 1000, nil
		for range 60 {
			if _, err := r.Read(t.Context(), "sw1", Target{}); err != nil {
				t.Fatal(err)
			}
		}
		if got := slices.Compact(m.asked); !slices.Equal(got, []uint32{2, 3, 5, 8, 12, 18, 27, 41, 50}) {
			t.Fatalf("%v: asked for %v", why, got)
		}
		m.most, m.asked = 0, nil
		if rr, err := r.Read(t.Context(), "sw1", Target{}); !errors.Is(err, why) || len(rr) != 0 || len(m.asked) > 8 {
			t.Fatalf("%v: %v, %v, %s", why, m.asked, err, text(rr))
		}
	}
}

// TestHostile: what a device says that makes no sense costs its own part only.
func TestHostile(t *testing.T) {
	f := func(name, objs string, mangle func(q, a *gosnmp.SnmpPacket) *gosnmp.SnmpPacket, wantErr string, want ...string) {
		t.Helper()
		r := respond(t, objects(t, fmt.Sprintf(uptime, 100)+objs), mangle)
		rr, err := New().Read(t.Context(), "sw1", r.target())
		if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: %v, want %q", name, err, wantErr)
		}
		for _, w := range want {
			if got := text(rr); !strings.Contains(got, w) {
				t.Errorf("%s: %q is not in\n%s", name, w, got)
			}
		}
	}
	below := func(q *gosnmp.SnmpPacket, root string) bool { return strings.HasPrefix(q.Variables[0].Name, root) }
	const sensors, load = ".1.3.6.1.2.1.99.", "1.3.6.1.4.1.2021.10.1.5.1|2|150\n"
	f("names go in circles", port(1, "e1", 7, 0)+load, func(q, a *gosnmp.SnmpPacket) *gosnmp.SnmpPacket {
		if below(q, sensors) {
			a.Variables = []gosnmp.SnmpPDU{{Name: sensors + "1.1.1.1.5", Type: gosnmp.Integer, Value: 8}, {Name: sensors + "1.1.1.1.4", Type: gosnmp.Integer, Value: 8}}
		}
		return a
	}, "circles", `port="e1"} 7 `, "load_average{minutes=\"1\"} 1.5")
	n := 0
	f("variables without end", port(1, "e1", 7, 0), func(q, a *gosnmp.SnmpPacket) *gosnmp.SnmpPacket {
		if below(q, sensors) {
			a.Variables = nil
			for range q.MaxRepetitions {
				n++
				a.Variables = append(a.Variables, gosnmp.SnmpPDU{Name: fmt.Sprint(sensors+"1.1.1.1.", n), Type: gosnmp.Integer, Value: 8})
			}
		}
		return a
	}, "more than 10000", `port="e1"} 7 `)
	f("an answer of nothing", port(1, "e1", 7, 0), func(q, a *gosnmp.SnmpPacket) *gosnmp.SnmpPacket {
		if below(q, sensors) {
			a.Error, a.Variables = gosnmp.NoAccess, q.Variables
		}
		return a
	}, "NoAccess", `port="e1"} 7 `)
	f("text for numbers", strings.ReplaceAll(port(1, "e1", 7, 0), "|70|7", "|4|7")+"1.3.6.1.4.1.2021.10.1.5.1|4|150\n1.3.6.1.2.1.25.3.3.1.2.1|4|x\n", nil, "",
		`octets_total{direction="in",port="e1"} unknown`, `load_average{minutes="1"} unknown`, `cpu="0"} unknown`, `port_up{port="e1"} 1`)
	f("numbers for text", strings.ReplaceAll(port(1, "e1", 7, 0), "|4|e1", "|2|5"), nil, "", `port="index 1"} 7 `)
	f("names", port(1, "e1", 7, 0)+port(2, "e1", 8, 0)+port(3, strings.Repeat("ä\x01", 100), 9, 0)+port(4, "  ", 10, 0), nil, "",
		`port="e1"} 7 `, `port="e1 2"} 8 `, `"in",port="`+strings.Repeat("ä?", 40)+`"} 9 `, `port="index 4"} 10 `)
	f("no uptime, no speed", "1.3.6.1.2.1.1.3.0|4|x\n1.3.6.1.2.1.2.2.1.8.1|2|2\n1.3.6.1.2.1.2.2.1.2.1|4|eth0\n1.3.6.1.2.1.31.1.1.1.6.1|70|5\n", nil, "",
		`port_up{port="eth0"} 0`, `speed_octets_per_second{port="eth0"} unknown`)
	f("sensors", sensorsOf("8|9|1|215|1|inlet", "8|9|0|0|2|away", "8|9|0|1000000000|1|over", "8|99|0|5|1|scaled", "4|8|0|12050|1|", "9|9|0|40|1|air", "12|9|0|1|1|door", "8|9|0|-5|1|inlet"), nil, "",
		`celsius{sensor="inlet"} 21.5`, `celsius{sensor="away"} unknown`, `{sensor="over"} unknown`, `{sensor="scaled"} unknown`, `volts{sensor="sensor 5"} 12.05`,
		`humidity_ratio{sensor="air"} 0.4`, `celsius{sensor="inlet 2"} -5`)
}

// sensorsOf makes sensors of type|scale|precision|value|status|name.
func sensorsOf(lines ...string) (out string) {
	for i, l := range lines {
		f := strings.Split(l, "|")
		for c, v := range f[:5] {
			out += fmt.Sprintf("1.3.6.1.2.1.99.1.1.1.%d.%d|2|%s\n", c+1, i+1, v)
		}
		out += fmt.Sprintf("1.3.6.1.2.1.47.1.1.1.1.7.%d|4|%s\n", i+1, f[5])
	}
	return out
}

// TestNames: the long table of sensors' names is read once, again when there is a new sensor, after a restart, and each day; a sensor that
// has no name there is not asked for again and again.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mute{most: 1000}
		r := over(m)
		begun := time.Now()
		f := func(wait time.Duration, again bool, objs string, ticks time.Duration) {
			t.Helper()
			time.Sleep(wait)
			m.objects, m.from = objects(t, fmt.Sprintf(uptime, (time.Since(begun)+ticks)/(10*time.Millisecond))+objs), nil
			if _, err := r.Read(t.Context(), "sw1", Target{}); err != nil {
				t.Fatal(err)
			}
			if got := slices.ContainsFunc(m.from, func(s string) bool { return strings.HasPrefix(s, ".1.3.6.1.2.1.47.") }); got != again {
				t.Errorf("after %v names were read: %v", time.Since(begun), got)
			}
		}
		one, two := sensorsOf("8|9|1|215|1|inlet", "8|9|1|215|1|"), sensorsOf("8|9|1|215|1|inlet", "8|9|1|215|1|", "8|9|1|215|1|outlet")
		f(0, true, one, time.Hour)
		f(time.Minute, false, one, time.Hour)
		f(time.Minute, true, two, time.Hour)
		f(time.Minute, false, two, time.Hour)
		f(time.Minute, true, two, 0) // it restarted
		f(time.Minute, false, two, 0)
		f(24*time.Hour, true, two, 0)
	})
}

// TestResets: a counter that falls, and every counter of a device that restarted, begins anew; one of 32 bits may wrap; a port that is down
// keeps its speed; after a restart ports are found by name, whatever index they have.
func TestResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mute{most: 1000}
		r := over(m)
		at := 0
		f := func(name string, wait time.Duration, ticks int, objs string, want ...string) {
			t.Helper()
			at++
			time.Sleep(wait)
			m.objects = objects(t, fmt.Sprintf(uptime, ticks)+objs)
			rr, err := r.Read(t.Context(), "sw1", Target{})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, w := range want {
				if got := text(rr); !strings.Contains(got, w) {
					t.Errorf("%s: %q is not in\n%s", name, w, got)
				}
			}
		}
		const in, errs = `octets_total{direction="in",port="e1"} `, `errors_total{direction="in",port="e1"} `
		f("the first", 0, 100_000, port(1, "e1", 5000, 3_000_000_000), in+"5000 max", errs+"3000000000 max")
		f("it goes on, and the 32 bits wrap", time.Minute, 106_000, port(1, "e1", 6000, 5), in+"6000 max", errs+"5 max")
		f("a counter is cleared", time.Minute, 112_000, port(1, "e1", 100, 4), in+"100 reset", errs+"4 reset")
		f("the device restarted, its counters are above", time.Minute, 3000, port(9, "e1", 7000, 5), in+"7000 reset", errs+"5 reset")
		f("it goes on", time.Minute, 9000, strings.ReplaceAll(port(9, "e1", 7001, 5), "|66|10000", "|66|0"), in+"7001 max 1.5625e+09", "speed_octets_per_second{port=\"e1\"} unknown")
		f("a restart within a long silence", 10*time.Minute, 30_000, port(9, "e1", 8000, 5), in+"8000 reset")
		f("near the end of the time that it counts", 0, 30_000, port(9, "e1", 8000, 5))
		f("later", time.Duration(1<<32-40_000)*10*time.Millisecond, 1<<32-10_000, port(9, "e1", 8000, 5), in+"8000 max")
		f("its uptime wraps", 200*time.Second, 10_000, port(9, "e1", 8100, 5), in+"8100 max")
	})
}

// TestRestartsMeanwhile: what was read over a restart is of two lives and is dropped; the next reading begins anew.
func TestRestartsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &twice{mute: mute{most: 1000, objects: objects(t, port(1, "e1", 7, 0))}, uptimes: []uint32{50_000, 56_000, 500, 6_500, 12_500}}
		r := over(m)
		if rr, err := r.Read(t.Context(), "sw1", Target{}); !errors.Is(err, errRestarted) || len(rr) != 0 {
			t.Fatalf("%v: %s", err, text(rr))
		}
		time.Sleep(time.Minute)
		m.uptimes = []uint32{62_000, 62_000}
		if rr, err := r.Read(t.Context(), "sw1", Target{}); err != nil || !strings.Contains(text(rr), "7 reset") {
			t.Fatalf("%v: %s", err, text(rr))
		}
		time.Sleep(time.Minute)
		m.uptimes = []uint32{68_000, 68_000}
		if rr, err := r.Read(t.Context(), "sw1", Target{}); err != nil || strings.Contains(text(rr), "reset") {
			t.Fatalf("%v: %s", err, text(rr))
		}
	})
}

// twice is a device whose uptime jumps.
type twice struct {
	mute
	uptimes []uint32
}

func (m *twice) get(context.Context, oid) (value, error) {
	n := m.uptimes[0]
	m.uptimes = m.uptimes[1:]
	return value{kind: unsigned, n: uint64(n)}, nil
}

// wire is a connection that hands out what a fuzzer made.
type wire struct {
	net.Conn
	parts [][]byte
}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.parts) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b, w.parts[0])
	w.parts = w.parts[1:]
	return n, nil
}
func (w *wire) Write(b []byte) (int, error)      { return len(b), nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
func (w *wire) Close() error                     { return nil }

// FuzzAnswer: whatever datagrams come, a walk ends with an error or with what is within its bounds. A request number of 0 is taken for any.
func FuzzAnswer(f *testing.F) {
	for _, v := range [][]gosnmp.SnmpPDU{
		{{Name: ".1.3.6.1.2.1.31.1.1.1.1.1", Type: gosnmp.OctetString, Value: []byte("e1")}, {Name: ".1.3.6.1.2.1.31.1.1.1.1.2", Type: gosnmp.Counter64, Value: uint64(1 << 60)}},
		{{Name: ".1.3.6.1.2.1.31.1.1.1.1.1", Type: gosnmp.EndOfMibView}},
		{{Name: ".1.3", Type: gosnmp.OpaqueFloat, Value: float32(1.5)}},
	} {
		b, err := (&gosnmp.SnmpPacket{Version: gosnmp.Version2c, Community: "c", PDUType: gosnmp.GetResponse, Variables: v}).MarshalMsg()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(false, b, b)
		f.Add(true, b, []byte{})
	}
	f.Fuzz(func(t *testing.T, v3 bool, one, two []byte) {
		to := Target{Address: "127.0.0.1:9", Community: "c"}
		if v3 {
			to.User, to.Auth, to.Priv = "u", "authpassword", "privpassword"
		}
		s, err := dial(t.Context(), to)
		if err != nil {
			t.Skip(err)
		}
		defer s.close()
		g := s.(*client).g
		g.Conn.Close()
		g.Conn = &wire{parts: [][]byte{one, two, one, two, two, one}}
		root, n := ifXEntry(1), 0
		w := &walk{ctx: t.Context(), s: s, d: &device{bulk: firstBulk}}
		err = w.tree(root, func(index oid, v value) {
			n++
			if len(index) == 0 || len(index)+len(root) > maxOID || len(v.s) > maxText {
				t.Fatalf("%v %+v", index, v)
			}
			v.number()
		})
		if n > maxVariables || err != nil && (len(err.Error()) > 300 || strings.Contains(err.Error(), "goroutine")) {
			t.Fatalf("%d variables, %v", n, err)
		}
	})
}

// FuzzOID: what is read as a name is written as it was.
func FuzzOID(f *testing.F) {
	f.Add(".1.3.6.1.4294967295")
	f.Add("1..3")
	f.Fuzz(func(t *testing.T, s string) {
		if o, ok := parseOID(s); ok {
			if again, ok := parseOID(o.String()); !ok || !slices.Equal(o, again) || len(o) > maxOID {
				t.Fatalf("%q is %v", s, o)
			}
		}
	})
}

// TestUnreachable: nobody listens; a wrong community is silence. The error is one line and holds no secret.
func TestUnreachable(t *testing.T) {
	r := respond(t, nil, nil)
	to := r.target()
	r.stop()
	_, err := New().Read(t.Context(), "sw1", to)
	if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
		t.Fatal(err)
	}
	for _, a := range []string{"", "x", "127.0.0.1:x", "127.0.0.1:99999"} {
		if _, err := New().Read(t.Context(), "sw1", Target{Address: a}); err == nil {
			t.Errorf("%q is taken", a)
		}
	}
}

// TestSameNames: no two things of a device get one name, also where the device itself has one with a number.
func TestSameNames(t *testing.T) {
	n := namer{}
	var got []string
	for _, s := range []string{"fan", "fan", "fan 2", "fan", "fan 2", "", "index 7"} {
		got = append(got, n.name(s, "index 7"))
	}
	if want := []string{"fan", "fan 2", "fan 2 2", "fan 3", "fan 2 3", "index 7", "index 7 2"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestMetrics: each metric has a unit, and those that count are those that end with _total.
func TestMetrics(t *testing.T) {
	for i, x := range metrics() {
		if x.m.rank() != i || x.m.Unit() == "" || x.m.Counter() != strings.HasSuffix(x.m.Unit(), "/s") && x.m != PortSpeed {
			t.Errorf("%s: %d, %q", x.m, x.m.rank(), x.m.Unit())
		}
	}
}

// TestInventsNames: a device that has other names each time is not remembered without end.
func TestInventsNames(t *testing.T) {
	m := &mute{most: 1000}
	r := over(m)
	for i := range 12 {
		var b strings.Builder
		for p := range 1200 {
			b.WriteString(port(p+1, fmt.Sprint("e", i, "-", p), 7, 0))
		}
		m.objects = objects(t, b.String())
		rr, err := r.Read(t.Context(), "sw1", Target{})
		if err != nil || len(rr) > 10*maxPorts {
			t.Fatalf("%d readings, %v", len(rr), err)
		}
		if d := r.devices["sw1"]; len(d.last) > maxRemembered || len(d.speeds) > maxRemembered {
			t.Fatalf("after %d readings %d counters and %d speeds are remembered", i, len(d.last), len(d.speeds))
		}
	}
}

// TestManyPorts: a switch with more objects than one column may have is read all the same.
func TestManyPorts(t *testing.T) {
	all := fmt.Sprintf(uptime, 100_000)
	for i := range 2000 {
		all += port(i+1, fmt.Sprint("e", i), 1, 0)
	}
	rr, err := over(&mute{most: 1000, objects: objects(t, all)}).Read(t.Context(), "sw1", Target{})
	if err != nil || len(rr) < maxPorts {
		t.Errorf("%d readings, %v", len(rr), err)
	}
}

// TestForget: a device that left and comes again is new.
func TestForget(t *testing.T) {
	m := &mute{most: 1000, objects: objects(t, fmt.Sprintf(uptime, 100)+port(1, "e1", 7, 0))}
	r := over(m)
	for i, want := range []string{"7 max", "6 reset max", "5 max"} {
		m.objects = objects(t, fmt.Sprintf(uptime, 100)+port(1, "e1", uint64(7-i), 0))
		if i == 2 {
			r.Forget("sw1")
		}
		if rr, err := r.Read(t.Context(), "sw1", Target{}); err != nil || !strings.Contains(of(rr, PortOctets), want) {
			t.Fatalf("%v: %s, want %s", err, text(rr), want)
		}
	}
}
