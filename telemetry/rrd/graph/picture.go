package graph

import (
	"fmt"
	"html"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"strings"
	"time"
)

// The picture's margins, in pixels, around the plot.
const (
	left, right, top, lineHeight = 70, 30, 30, 14
	bottom                       = 30
)

// palette are colours that stay apart for most eyes (Okabe and Ito), by line, again from the first after the last.
func palette() []color.RGBA {
	return []color.RGBA{
		{0x00, 0x72, 0xb2, 0xff},
		{0xd5, 0x5e, 0x00, 0xff},
		{0x00, 0x9e, 0x73, 0xff},
		{0xcc, 0x79, 0xa7, 0xff},
		{0xe6, 0x9f, 0x00, 0xff},
		{0x56, 0xb4, 0xe9, 0xff},
		{0x00, 0x00, 0x00, 0xff},
	}
}

// layout is where things are in a picture of w by h pixels.
type layout struct {
	g          Graph
	w, h       int
	pw, ph     float64 // of the plot
	low, high  float64
	known      bool
	values     []float64   // of the horizontal grid
	times      []time.Time // of the vertical one
	legendFrom int
}

func newLayout(g Graph, w, h int) layout {
	legend := lineHeight * len(g.Lines)
	l := layout{g: g, w: w, h: h + legend, pw: float64(w - left - right), ph: float64(h - top - bottom), legendFrom: h}
	l.low, l.high, l.known = span(g.Lines)
	if l.known {
		l.values = grid(l.low, l.high, 5)
	}
	for i := range 5 {
		l.times = append(l.times, g.Start.Add(g.end().Sub(g.Start)*time.Duration(i)/4))
	}
	return l
}

func (l layout) x(f float64) float64 { return left + f*l.pw }
func (l layout) y(f float64) float64 { return top + (1-f)*l.ph }

func (l layout) title() string {
	if l.g.Unit == "" {
		return l.g.Title
	}
	return l.g.Title + " (" + l.g.Unit + ")"
}

// SVG draws all lines in one picture of w by h pixels, and the legend below.
func SVG(g Graph, w, h int) string {
	l := newLayout(g, w, h)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", l.w, l.h, l.w, l.h)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="18" font-size="13">%s</text>`+"\n", left, html.EscapeString(l.title()))
	for _, v := range l.values {
		y := l.y((v - l.low) / (l.high - l.low))
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, y, w-right, left-6, y+4, Number(v))
	}
	for i, t := range l.times {
		x := l.x(float64(i) / 4)
		fmt.Fprintf(&b, `<path d="M%.1f %dV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x, top, l.y(0), x, l.y(0)+16, g.clock(t))
	}
	if !l.known {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">nothing is known of this time</text>`+"\n", l.x(0.5), l.y(0.5))
	}
	for i, line := range g.Lines {
		c := palette()[i%len(palette())]
		hex := fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B)
		var path strings.Builder
		px, py := -1.0, -1.0
		segments(line.Values, l.low, l.high, func(x0, y0, x1, y1 float64) {
			if x0 != px || y0 != py {
				fmt.Fprintf(&path, "M%.1f %.1f", l.x(x0), l.y(y0))
			}
			fmt.Fprintf(&path, "L%.1f %.1f", l.x(x1), l.y(y1))
			px, py = x1, y1
		})
		if path.Len() > 0 {
			fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.5" stroke-linecap="round"/>`+"\n", path.String(), hex)
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left, l.legendFrom+lineHeight*i+8, hex, html.EscapeString(line.Name+"  "+line.Stats().String()))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// PNG writes the same picture as an image, with letters of its own.
func PNG(w io.Writer, g Graph, width, height int) error {
	l := newLayout(g, width, height)
	img := image.NewRGBA(image.Rect(0, 0, l.w, l.h))
	for i := range img.Pix {
		img.Pix[i] = 0xff
	}
	black, grey := color.RGBA{0, 0, 0, 0xff}, color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
	write(img, left, 10, l.title(), black)
	for _, v := range l.values {
		y := int(l.y((v - l.low) / (l.high - l.low)))
		for x := left; x < width-right; x++ {
			img.Set(x, y, grey)
		}
		write(img, left-6-6*len(Number(v)), y-3, Number(v), black)
	}
	for i, t := range l.times {
		x, text := int(l.x(float64(i)/4)), g.clock(t)
		for y := top; y <= int(l.y(0)); y++ {
			img.Set(x, y, grey)
		}
		write(img, x-3*len(text), int(l.y(0))+8, text, black)
	}
	if !l.known {
		const text = "nothing is known of this time"
		write(img, int(l.x(0.5))-3*len(text), int(l.y(0.5)), text, black)
	}
	for i, line := range g.Lines {
		c := palette()[i%len(palette())]
		segments(line.Values, l.low, l.high, func(x0, y0, x1, y1 float64) { stroke(img, l.x(x0), l.y(y0), l.x(x1), l.y(y1), c) })
		write(img, left, l.legendFrom+lineHeight*i+2, line.Name+"  "+line.Stats().String(), c)
	}
	if err := png.Encode(w, img); err != nil {
		return fmt.Errorf("cannot write picture: %w", err)
	}
	return nil
}

// stroke draws a line two pixels wide.
func stroke(img *image.RGBA, x0, y0, x1, y1 float64, c color.RGBA) {
	n := int(math.Ceil(max(math.Abs(x1-x0), math.Abs(y1-y0), 1)))
	for i := range n + 1 {
		f := float64(i) / float64(n)
		x, y := int(math.Round(x0+f*(x1-x0))), int(math.Round(y0+f*(y1-y0)))
		img.Set(x, y, c)
		img.Set(x, y+1, c)
	}
}
