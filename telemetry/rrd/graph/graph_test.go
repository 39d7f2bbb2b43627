package graph

import (
	"bytes"
	"flag"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the goldens")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s differs (%d octets, want %d); -update writes it\n%s", path, len(got), len(want), got[:min(len(got), 4000)])
	}
}

// wave has a gap of a quarter, a single known value in it, and one line of which nothing is known.
func wave() Graph {
	g := Graph{Title: "machine/m1 temperature", Unit: "celsius", Start: time.Date(2026, 11, 28, 6, 0, 0, 0, time.UTC), Step: time.Minute}
	cpu, inlet, lost := Line{Name: "CPU1 Temp"}, Line{Name: `Inlet "A" <&>`}, Line{Name: "DIMM Temp"}
	for i := range 360 {
		v := 45 + 8*math.Sin(float64(i)/40)
		if i > 150 && i < 240 && i != 200 {
			v = math.NaN()
		}
		cpu.Values = append(cpu.Values, v)
		inlet.Values = append(inlet.Values, 22)
		lost.Values = append(lost.Values, math.NaN())
	}
	g.Lines = []Line{cpu, inlet, lost}
	return g
}

func TestGoldens(t *testing.T) {
	g := wave()
	golden(t, "wave.txt", []byte(Text(g, Screen{Width: 60, Height: 8})))
	golden(t, "wave.ascii.txt", []byte(Text(g, Screen{Width: 60, Height: 8, ASCII: true})))
	golden(t, "wave.color.txt", []byte(Text(g, Screen{Width: 20, Height: 2, Color: true})))
	golden(t, "wave.svg", []byte(SVG(g, 700, 250)))
	var b bytes.Buffer
	if err := PNG(&b, g, 700, 250); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b.Bytes()))
	if err != nil || img.Bounds().Dx() != 700 || img.Bounds().Dy() != 250+3*lineHeight {
		t.Fatalf("%v, %v", img.Bounds(), err)
	}
	golden(t, "wave.png", b.Bytes())
	var spark strings.Builder
	for _, l := range g.Lines {
		spark.WriteString("[" + Spark(l, Screen{Width: 40}) + "]\n[" + Spark(l, Screen{Width: 40, ASCII: true}) + "]\n")
	}
	golden(t, "wave.spark.txt", []byte(spark.String()))
}

// TestEdges: what has one value, none, or no lines is drawn, too.
func TestEdges(t *testing.T) {
	for _, values := range [][]float64{nil, {1}, {math.NaN()}, {1, 1}, {math.NaN(), 3, math.NaN()}, {-1e300, 1e300}, {1e-300, 2e-300}, {0, 0, 0}} {
		for _, lines := range [][]Line{nil, {{Name: "x", Values: values}}} {
			g := Graph{Start: time.Unix(0, 0), Step: time.Hour, Lines: lines}
			if out := Text(g, Screen{}) + SVG(g, 300, 100); strings.Contains(out, "NaN") || strings.Contains(out, "Inf") {
				t.Fatalf("%v:\n%s", values, out)
			}
			if err := PNG(&bytes.Buffer{}, g, 300, 100); err != nil {
				t.Fatal(err)
			}
			for _, l := range lines {
				Spark(l, Screen{Width: 10})
			}
		}
	}
}

func TestNumber(t *testing.T) {
	f := func(v float64, want string) {
		t.Helper()
		if got := Number(v); got != want {
			t.Fatalf("%v = %s, want %s", v, got, want)
		}
	}
	f(math.NaN(), "unknown")
	f(0, "0")
	f(21.5, "21.5")
	f(1.0/3, "0.333")
	f(18600, "1.86e+04")
	f(-0.0001, "-0.0001")
	f(9999, "9999")
}

func TestGlyphs(t *testing.T) {
	for r, text := range glyphs() {
		if len(text) != 14 || strings.Trim(text, "0123456789ABCDEF") != "" {
			t.Errorf("%q is %q", r, text)
		}
		for _, row := range glyph(r) {
			if row > 0x1f {
				t.Errorf("%q is wider than five", r)
			}
		}
	}
}
