package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/telemetry/rrd/graph"
)

// Shell is what the verb needs of the command line that it hangs in.
type Shell interface {
	Client() (*client.Client, error)
	Site() string
	Print(v any, fill func(account.Table)) error
	Token(v any, text string) error
	Explain(err error) error
	ArgsUpTo(least int, names ...string) cobra.PositionalArgs
	// Out is where drawings go; Getenv reads the environment.
	Out() io.Writer
	Getenv(name string) string
}

// options are the flags.
type options struct {
	since, until, cf string
	png, svg         string
	spark            bool
}

// Command returns `skerry graph`.
func Command(s Shell) *cobra.Command {
	var o options
	c := &cobra.Command{
		Use: "graph [MATCH] [SENSOR]", Short: "Draw what a site measured", Args: s.ArgsUpTo(0, "MATCH", "SENSOR"),
		Long: "Draw what a site measured, or list it without MATCH. MATCH is name{label=\"value\",label=~\"pattern\"}, or machine/NAME with\n" +
			"temperature, fan, power or voltage behind it. Unknown is a gap. Rows are made coarser until they fit, by --cf.\n" +
			"Asked at a coordinator, the site answers; with the WAN down choose an agent of the site: --context lon1.",
		Example: "  skerry graph --site lon1\n  skerry graph machine/m1 temperature --since 7d\n  skerry graph 'skerry_bmc_power_watts{machine=~\"m.*\"}' --cf max --svg power.svg\n" +
			"  skerry graph machine/m1 fan --spark",
		RunE: func(c *cobra.Command, given []string) error {
			if s.Site() == "" {
				return &account.HintError{Err: &account.UsageError{Err: errors.New("cannot choose a site")}, Next: "`skerry graph --site SITE`; `skerry get sites` lists them"}
			}
			cl, err := s.Client()
			if err != nil {
				return err
			}
			if len(given) == 0 {
				return list(c.Context(), s, cl)
			}
			match, err := matchOf(given)
			if err != nil {
				return &account.UsageError{Err: err}
			}
			return o.draw(c.Context(), s, cl, match, strings.Join(given, " "))
		},
	}
	f := c.Flags()
	f.StringVar(&o.since, "since", "6h", "how far back: 30m, 6h, 7d, or an RFC 3339 time")
	f.StringVar(&o.until, "until", "", "up to when: as --since; default: now")
	f.StringVar(&o.cf, "cf", "average", "how rows are made coarser: average, max; min and last where they are kept")
	f.StringVar(&o.png, "png", "", "write a picture to this file")
	f.StringVar(&o.svg, "svg", "", "write a drawing to this file")
	f.BoolVar(&o.spark, "spark", false, "one line a series")
	return c
}

// sensors are the words behind machine/NAME.
func sensors() map[string]string {
	return map[string]string{
		"temperature": "skerry_bmc_temperature_celsius", "fan": "skerry_bmc_fan_speed_(rpm|ratio)", "power": "skerry_bmc_power_watts", "voltage": "skerry_bmc_voltage_volts",
	}
}

// matchOf turns what was given into matches: an alias may stand for two names.
func matchOf(given []string) ([]string, error) {
	machine, alias := strings.CutPrefix(given[0], "machine/")
	switch {
	case !alias && len(given) == 1:
		return given, nil
	case !alias:
		return nil, fmt.Errorf("cannot read %q: %q stands behind machine/NAME only", strings.Join(given, " "), given[1])
	case len(given) == 1:
		return []string{"{machine=" + strconv.Quote(machine) + "}"}, nil
	}
	name, ok := sensors()[given[1]]
	if !ok {
		return nil, fmt.Errorf("cannot graph %q: choose one of %s", given[1], strings.Join(slices.Sorted(maps.Keys(sensors())), ", "))
	}
	var out []string
	for _, n := range []string{strings.Replace(name, "(rpm|ratio)", "rpm", 1), strings.Replace(name, "(rpm|ratio)", "ratio", 1)} {
		out = append(out, n+"{machine="+strconv.Quote(machine)+"}")
	}
	return slices.Compact(out), nil
}

func list(ctx context.Context, s Shell, cl *client.Client) error {
	l, err := cl.Series(ctx, s.Site(), url.Values{})
	if err != nil {
		return s.Explain(err)
	}
	return s.Print(l, func(t account.Table) {
		t.Header("SERIES", "UNIT", "LAST", "AT")
		for _, x := range l.Series {
			t.Row(key(x.Name, x.Labels), x.Unit, graph.Number(float64(x.Last)), x.At.UTC().Format(time.RFC3339))
		}
		for _, n := range missing(l.Agents) {
			t.Row(n)
		}
	})
}

// key is name{label="value"}, as MATCH takes it.
func key(name string, labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+strconv.Quote(labels[k]))
	}
	return name + "{" + strings.Join(parts, ",") + "}"
}

func missing(agents map[string]string) (out []string) {
	for _, a := range slices.Sorted(maps.Keys(agents)) {
		if agents[a] != "ok" {
			out = append(out, "agent "+a+" is not heard: what it keeps is missing here")
		}
	}
	return out
}

func (o *options) draw(ctx context.Context, s Shell, cl *client.Client, matches []string, title string) error {
	screen, small := screenOf(s)
	points := 2 * screen.Width
	if o.png != "" || o.svg != "" {
		points = pictureWidth
	}
	rows, err := o.ask(ctx, s, cl, matches, points)
	if err != nil {
		return err
	}
	if len(rows.Series) == 0 {
		err := fmt.Errorf("cannot graph %s: no such series is kept", title)
		if m := missing(rows.Agents); len(m) > 0 {
			err = fmt.Errorf("%w; %s", err, strings.Join(m, "; "))
		}
		return &account.HintError{Err: err, Next: "`skerry graph` lists what is kept"}
	}
	g := graphOf(rows, title)
	for _, p := range []struct {
		file  string
		write func(io.Writer) error
	}{
		{o.png, func(w io.Writer) error { return graph.PNG(w, g, pictureWidth, pictureHeight) }},
		{o.svg, func(w io.Writer) error {
			_, err := io.WriteString(w, graph.SVG(g, pictureWidth, pictureHeight))
			return err
		}},
	} {
		if p.file == "" {
			continue
		}
		var b bytes.Buffer
		if err := p.write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(p.file, b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("cannot write %s: %w", p.file, err)
		}
	}
	notes := ""
	for _, m := range missing(rows.Agents) {
		notes += m + "\n"
	}
	switch {
	case o.png != "" || o.svg != "":
		return s.Token(rows, strings.TrimSuffix(notes+"written: "+strings.Trim(o.png+" "+o.svg, " "), "\n"))
	case o.spark || small:
		return s.Token(rows, strings.TrimSuffix(sparks(g, screen)+notes, "\n"))
	}
	return s.Token(rows, strings.TrimSuffix(graph.Text(g, screen)+notes, "\n"))
}

const pictureWidth, pictureHeight = 900, 300

// ask puts the questions of all matches and joins what fits together.
func (o *options) ask(ctx context.Context, s Shell, cl *client.Client, matches []string, points int) (*telemetry.Rows, error) {
	var all *telemetry.Rows
	for _, m := range matches {
		v := url.Values{"match": {m}, "from": {o.since}, "cf": {o.cf}, "max_points": {strconv.Itoa(points)}}
		if o.until != "" {
			v.Set("to", o.until)
		}
		r, err := cl.Rows(ctx, s.Site(), v)
		switch {
		case err != nil:
			return nil, s.Explain(err)
		case all == nil || len(all.Series) == 0:
			all = r
		case len(r.Series) > 0 && r.Step == all.Step && r.Count == all.Count:
			all.Series = append(all.Series, r.Series...)
		}
	}
	return all, nil
}

// graphOf names lines by what tells them apart.
func graphOf(r *telemetry.Rows, title string) graph.Graph {
	g := graph.Graph{Title: title, Start: r.Start, Step: time.Duration(r.Step) * time.Second}
	machines, names, units := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range r.Series {
		machines[s.Labels["machine"]], names[s.Name], units[s.Unit] = true, true, true
	}
	if len(units) == 1 {
		g.Unit = r.Series[0].Unit
	}
	for _, s := range r.Series {
		name := s.Labels["sensor"]
		switch {
		case name == "":
			name = key(s.Name, s.Labels)
		case len(machines) > 1:
			name = s.Labels["machine"] + " " + name
		}
		if len(names) > 1 {
			name += " " + s.Unit
		}
		l := graph.Line{Name: name}
		for _, v := range s.Values {
			l.Values = append(l.Values, float64(v))
		}
		g.Lines = append(g.Lines, l)
	}
	return g
}

func sparks(g graph.Graph, screen graph.Screen) string {
	wide := 0
	for _, l := range g.Lines {
		wide = max(wide, len([]rune(l.Name)))
	}
	screen.Width = max(screen.Width-wide-30, 10)
	var b strings.Builder
	for _, l := range g.Lines {
		fmt.Fprintf(&b, "%-*s %s  %s\n", wide, l.Name, graph.Spark(l, screen), l.Stats())
	}
	return b.String()
}

// screenOf is what the terminal shows: its size, or 80 by 24 where there is none; dots where the locale is UTF-8. small: fewer than ten lines.
func screenOf(s Shell) (screen graph.Screen, small bool) {
	wide, high := 80, 24
	terminal := false
	if f, ok := s.Out().(*os.File); ok {
		if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			terminal = true
			if ws.Col > 0 && ws.Row > 0 {
				wide, high = int(ws.Col), int(ws.Row)
			}
		}
	}
	if n, err := strconv.Atoi(s.Getenv("COLUMNS")); err == nil && n > 0 && n < 1000 {
		wide = n
	}
	locale := s.Getenv("LC_ALL")
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = s.Getenv(name)
		}
	}
	locale = strings.ToLower(strings.ReplaceAll(locale, "-", ""))
	return graph.Screen{
		Width: min(max(wide-13, 20), 400), Height: 8, ASCII: !strings.Contains(locale, "utf8"), Color: terminal && s.Getenv("NO_COLOR") == "",
	}, high < 10
}
