package graph

import (
	"fmt"
	"math"
	"strings"
)

// Screen is what a terminal can show.
type Screen struct {
	Width, Height int // cells of the plot, without its axis; at least 8 and 2
	ASCII         bool
	Color         bool
}

// Text draws each line as a plot of its own, with its statistics below: braille dots, 2 by 4 to a cell, or asterisks.
func Text(g Graph, s Screen) string {
	s.Width, s.Height = max(s.Width, 8), max(s.Height, 2)
	var b strings.Builder
	for i, l := range g.Lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		plot(&b, g, l, s)
	}
	return b.String()
}

func plot(b *strings.Builder, g Graph, l Line, s Screen) {
	fmt.Fprintf(b, "%s", l.Name)
	if g.Unit != "" {
		fmt.Fprintf(b, " (%s)", g.Unit)
	}
	b.WriteByte('\n')
	low, high, ok := span([]Line{l})
	if !ok {
		b.WriteString("  nothing is known of this time\n")
		return
	}
	cells := braille(l.Values, low, high, s)
	if s.ASCII {
		cells = ascii(l.Values, low, high, s)
	}
	side, corner, line, color, plain := "│", "└", "─", "", ""
	if s.ASCII {
		side, corner, line = "|", "+", "-"
	}
	if s.Color {
		color, plain = "\x1b[36m", "\x1b[0m"
	}
	for y, row := range cells {
		label := ""
		switch y {
		case 0:
			label = Number(high)
		case len(cells) - 1:
			label = Number(low)
		}
		fmt.Fprintf(b, "%10s %s%s%s%s\n", label, side, color, strings.TrimRight(string(row), " \u2800"), plain)
	}
	from, to := g.clock(g.Start), g.clock(g.end())
	fmt.Fprintf(b, "%10s %s%s\n", "", corner, strings.Repeat(line, s.Width))
	fmt.Fprintf(b, "%10s  %s%*s\n", "", from, max(s.Width-len(from), len(to)+1), to)
	fmt.Fprintf(b, "%10s  %s\n", "", l.Stats())
}

// dots are the bits of a braille cell, by row and column.
func dots() [4][2]rune {
	return [4][2]rune{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}
}

func braille(values []float64, low, high float64, s Screen) [][]rune {
	cells := make([][]rune, s.Height)
	for i := range cells {
		cells[i] = []rune(strings.Repeat("\u2800", s.Width))
	}
	bits := dots()
	draw(values, low, high, 2*s.Width, 4*s.Height, func(x, y int) { cells[y/4][x/2] |= bits[y%4][x%2] })
	return cells
}

func ascii(values []float64, low, high float64, s Screen) [][]rune {
	cells := make([][]rune, s.Height)
	for i := range cells {
		cells[i] = []rune(strings.Repeat(" ", s.Width))
	}
	draw(values, low, high, s.Width, s.Height, func(x, y int) { cells[y][x] = '*' })
	return cells
}

// draw sets the points of a line on a raster of w by h points, y from the top.
func draw(values []float64, low, high float64, w, h int, set func(x, y int)) {
	segments(values, low, high, func(x0, y0, x1, y1 float64) {
		ax, ay := x0*float64(w-1), (1-y0)*float64(h-1)
		bx, by := x1*float64(w-1), (1-y1)*float64(h-1)
		n := int(math.Ceil(max(math.Abs(bx-ax), math.Abs(by-ay), 1)))
		for i := range n + 1 {
			f := float64(i) / float64(n)
			set(int(math.Round(ax+f*(bx-ax))), int(math.Round(ay+f*(by-ay))))
		}
	})
}

// Spark is a line of one row: a bar for each of width parts of the time, the average of what is known there; a part of which nothing is
// known is a blank.
func Spark(l Line, s Screen) string {
	low, high, ok := span([]Line{l})
	if !ok {
		return strings.Repeat(" ", s.Width)
	}
	bars := []rune("▁▂▃▄▅▆▇█")
	if s.ASCII {
		bars = []rune("_.-=+*#@")
	}
	var b strings.Builder
	n := len(l.Values)
	for c := range min(s.Width, n) {
		w := min(s.Width, n)
		v := (Line{Values: l.Values[c*n/w : (c+1)*n/w]}).Stats().Avg
		if math.IsNaN(v) {
			b.WriteByte(' ')
			continue
		}
		b.WriteRune(bars[min(int((v-low)/(high-low)*float64(len(bars))), len(bars)-1)])
	}
	return b.String()
}
