package sensors

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the goldens")

// recorded is a controller that answers from a tree by path. Without expand it answers a question for it with the bare collection.
type recorded struct {
	tree   map[string]json.RawMessage
	asked  []string
	expand bool
	err    error
	ipmi   []Reading // it has no resources
}

func (r *recorded) IPMISensors(context.Context, string) ([]Reading, error) {
	if r.ipmi == nil {
		return nil, ErrGone
	}
	return r.ipmi, nil
}

func (r *recorded) RedfishGet(_ context.Context, _, path string) ([]byte, error) {
	r.asked = append(r.asked, path)
	bare, query, _ := strings.Cut(path, "?")
	b, ok := r.tree[strings.TrimSuffix(bare, "/")]
	switch {
	case r.err != nil:
		return nil, r.err
	case !ok:
		return nil, ErrGone
	case query != "" && r.expand:
		var c struct {
			Members []struct {
				ID string `json:"@odata.id"`
			}
		}
		if err := json.Unmarshal(b, &c); err != nil {
			return nil, err
		}
		var full struct{ Members []json.RawMessage }
		for _, m := range c.Members {
			full.Members = append(full.Members, r.tree[m.ID])
		}
		return json.Marshal(full)
	}
	return b, nil
}

func load(t *testing.T, name string) *recorded {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorded{}
	if err := json.Unmarshal(b, &r.tree); err != nil {
		t.Fatal(err)
	}
	return r
}

func show(rr []Reading) string {
	var b strings.Builder
	for _, r := range rr {
		v := "unknown"
		if r.Known {
			v = fmt.Sprintf("%.6g", r.Value)
		}
		fmt.Fprintf(&b, "%s{sensor=%q} %s  %s\n", r.Metric, r.Sensor, v, r.ID)
	}
	return b.String()
}

// TestRecorded reads each recorded controller; the second reading asks for the resources with sensors alone.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 8 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		synctest.Test(t, func(t *testing.T) {
			src := load(t, f)
			r := New(src)
			first, err := r.Read(t.Context(), "m1")
			if err != nil {
				t.Fatal(f, err)
			}
			src.asked = nil
			again, err := r.Read(t.Context(), "m1")
			if err != nil {
				t.Fatal(f, err)
			}
			if diff := cmp.Diff(show(first), show(again)); diff != "" {
				t.Fatalf("%s: the second time:\n%s", f, diff)
			}
			got := show(again) + "\nasked:\n" + strings.Join(src.asked, "\n") + "\n"
			want := strings.TrimSuffix(f, ".json") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(b), got); diff != "" {
				t.Fatalf("%s:\n%s", f, diff)
			}
		})
	}
}

// TestExpanded: where the collection comes with its members, that is one request.
func TestExpanded(t *testing.T) {
	src := load(t, "testdata/cray_cmm.json")
	src.expand = true
	r := New(src)
	if _, err := r.Read(t.Context(), "m1"); err != nil {
		t.Fatal(err)
	}
	const path = "/redfish/v1/Chassis/Enclosure/Sensors"
	list := src.tree[path]
	delete(src.tree, path)
	rr, err := r.Read(t.Context(), "m1")
	if !errors.Is(err, ErrGone) {
		t.Fatalf("%d readings, %v", len(rr), err)
	}
	src.tree[path], src.asked = list, nil
	if rr, err = r.Read(t.Context(), "m1"); err != nil || len(rr) < 40 || len(src.asked) < 5 {
		t.Fatalf("%d readings after the new look of %d requests, %v", len(rr), len(src.asked), err)
	}
	src.asked = nil
	if _, err := r.Read(t.Context(), "m1"); err != nil || len(src.asked) != 1 {
		t.Fatalf("asked %q, %v", src.asked, err)
	}
}

// TestUnreachable: nothing is known, and nothing is 0.
func TestUnreachable(t *testing.T) {
	src := load(t, "testdata/supermicro_x10sdv.json")
	r := New(src)
	src.err = errors.New("connection refused")
	if rr, err := r.Read(t.Context(), "m1"); err == nil || rr != nil {
		t.Fatalf("%v, %v", rr, err)
	}
	src.err = nil
	if rr, err := r.Read(t.Context(), "m1"); err != nil || len(rr) == 0 {
		t.Fatalf("%v, %v", rr, err)
	}
	src.err = context.DeadlineExceeded
	if rr, err := r.Read(t.Context(), "m1"); err == nil || rr != nil {
		t.Fatalf("%v, %v", rr, err)
	}
}

// TestSingle: a slow controller is read one sensor a second; what was not reached in time is unknown, and comes first the next time.
func TestSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := load(t, "testdata/cray_cmm.json")
		delete(src.tree, "/redfish/v1/Chassis/Enclosure/Power")
		r := New(src)
		if rr, err := r.Read(t.Context(), "m1"); err != nil || len(rr) < 40 {
			t.Fatalf("%d readings, %v", len(rr), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer cancel()
		src.asked = nil
		rr, err := r.Read(ctx, "m1")
		known := 0
		for _, x := range rr {
			if x.Known {
				known++
			}
		}
		if err != nil || len(rr) < 40 || len(src.asked) != 10 || known > 10 || known == 0 {
			t.Fatalf("%d of %d known, asked %d, %v", known, len(rr), len(src.asked), err)
		}
		last := src.asked[9]
		src.asked = nil
		if _, err := r.Read(t.Context(), "m1"); err != nil || src.asked[0] == last {
			t.Fatalf("began with %s again, %v", src.asked[0], err)
		}
	})
}

// TestReadings: what vendors write where they know nothing.
func TestReadings(t *testing.T) {
	f := func(fn func([]byte) ([]Reading, error), text, want string) {
		t.Helper()
		rr, err := fn([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range numbered(rr) {
			v := "unknown"
			if r.Known {
				v = fmt.Sprint(r.Value)
			}
			got = append(got, r.Sensor+"="+v)
		}
		if g := strings.Join(got, " "); g != want {
			t.Fatalf("%s:\n%s, want %s", text, g, want)
		}
	}
	f(thermal, `{"Temperatures":[{"Name":"a","ReadingCelsius":null},{"Name":"b"},{"Name":"c","ReadingCelsius":"N/A"},{"Name":"d","ReadingCelsius":" 21.5 "}]}`, "a=unknown b=unknown c=unknown d=21.5")
	f(thermal, `{"Temperatures":[{"Name":"a","ReadingCelsius":0,"Status":{"State":"Absent"}},{"Name":"b","ReadingCelsius":0,"Status":{"State":"Disabled"}},{"Name":"c","ReadingCelsius":0,"Status":{"State":"Enabled"}},{"Name":"d","ReadingCelsius":7,"Status":null}]}`, "b=unknown c=0 d=7")
	f(thermal, `{"Temperatures":[{"Name":"x","ReadingCelsius":1},{"Name":"x","ReadingCelsius":2},7,"y",{"ReadingCelsius":3},{"Name":7,"MemberId":"m","ReadingCelsius":{}}]}`, "x=1 x 2=2 m=unknown")
	f(thermal, `{"Fans":[{"FanName":"f","Reading":50,"ReadingUnits":"Percent"},{"Name":"g","Reading":"1200","ReadingUnits":"RPM"},{"FanName":"h","CurrentReading":23,"Units":"Percent"}]}`, "f=0.5 g=1200 h=0.23")
	f(power, `{"PowerControl":[{"Name":"a","PowerConsumedWatts":344}],"PowerSupplies":[{"Name":"p","PowerInputWatts":null,"LastPowerOutputWatts":75},{"Name":"q"},{"Name":"r","Status":{"State":"Absent"}},{"Name":"s","LastPowerOutputWatts":1,"Status":{"State":"UnavailableOffline"}}],"Voltages":[{"Name":"v","ReadingVolts":1e999}]}`, "a=344 p=75 s=unknown v=unknown")
	f(thermal, `{"Temperatures":[{"Name":"`+strings.Repeat("é", 100)+`","ReadingCelsius":1}]}`, strings.Repeat("é", 62)+"=1")
	if _, err := thermal([]byte(`[1]`)); err == nil {
		t.Fatal("a list is taken for Thermal")
	}
	many := `{"Temperatures":[` + strings.TrimSuffix(strings.Repeat(`{"Name":"x","ReadingCelsius":1},`, 2000), ",") + `]}`
	if rr, err := thermal([]byte(many)); err != nil || len(rr) != maxReadings {
		t.Fatalf("%d readings, %v", len(rr), err)
	}
}

func FuzzReadings(f *testing.F) {
	for _, name := range []string{"dell_poweredge_r750_idrac9", "supermicro_x10sdv"} {
		b, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		var tree map[string]json.RawMessage
		if err := json.Unmarshal(b, &tree); err != nil {
			f.Fatal(err)
		}
		for _, v := range tree {
			f.Add([]byte(v))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var all []Reading
		for _, fn := range []func([]byte) ([]Reading, error){thermal, power, expandedSensors, func(b []byte) ([]Reading, error) { return sensor(b), nil }} {
			rr, _ := fn(b)
			all = append(all, rr...)
		}
		for _, r := range numbered(all) {
			if r.Sensor == "" || len(r.Sensor) > maxName || !r.Known && r.Value != 0 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// TestSameNames: no two sensors of a kind get one name, also where the controller itself has one with a number.
func TestSameNames(t *testing.T) {
	var got []string
	for _, r := range numbered([]Reading{{Metric: FanRPM, Sensor: "fan"}, {Metric: FanRPM, Sensor: "fan"}, {Metric: FanRPM, Sensor: "fan 2"}, {Metric: Power, Sensor: "fan"}, {Metric: FanRPM, Sensor: "fan"}}) {
		got = append(got, r.Sensor)
	}
	if want := []string{"fan", "fan 2", "fan 2 2", "fan", "fan 3"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestWithoutResources: a controller that describes its sensors itself is asked for nothing else; names are bounded and numbered, what is
// not known is no 0 of its own.
func TestWithoutResources(t *testing.T) {
	src := &recorded{ipmi: []Reading{
		{Metric: Temperature, Sensor: "CPU", ID: "7.1.1", Value: 40, Known: true},
		{Metric: Temperature, Sensor: "CPU", ID: "7.2.1", Value: 41, Known: true},
		{Metric: FanRPM, Sensor: " ", Value: 1, Known: true},
		{Metric: Power, Sensor: strings.Repeat("x", 300), Value: 7},
	}}
	got, err := New(src).Read(t.Context(), "m1")
	want := []Reading{
		{Metric: Temperature, Sensor: "CPU", ID: "7.1.1", Value: 40, Known: true},
		{Metric: Temperature, Sensor: "CPU 2", ID: "7.2.1", Value: 41, Known: true},
		{Metric: Power, Sensor: strings.Repeat("x", 124)},
	}
	if err != nil || len(src.asked) != 0 {
		t.Fatal(err, src.asked)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}
