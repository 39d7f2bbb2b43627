package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// waitPoll is how often instance arrays are looked at; an installation takes minutes.
const waitPoll = time.Second

// milestone says how far an instance is, in percent, so that a bar moves all the way: power-on and boot to 30, the image to
// 80, the first boot to 100.
func milestone(s intent.InstanceStatus) int64 {
	switch s.State {
	case intent.StateRunning:
		return 100
	case intent.StateAllocated:
		return 5
	case intent.StateInstalling:
		switch s.Phase {
		case "write":
			return 30 + int64(s.Percent)/2
		case "first-boot":
			return 85
		}
		return 15
	}
	return 0
}

// waitFor shows the instances of the file's arrays until all run: bars on a terminal, a line per change elsewhere.
func (a *app) waitFor(ctx context.Context, cl *client.Client, docs []*document, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	show := a.lineShower()
	if isTerminal(a.Err) {
		var end func()
		show, end = a.barShower()
		defer end()
	}
	t := time.NewTicker(waitPoll)
	defer t.Stop()
	for {
		done := true
		for _, d := range docs {
			if d.obj.Kind != intent.KindInstanceArray {
				continue
			}
			ok, err := a.arrayRuns(ctx, cl, d.obj, show)
			if err != nil {
				return explainClient(err)
			}
			done = done && ok
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(a.Err, "skerry: not everything runs within %s; `skerry get instancearrays` shows what is missing\n", limit)
			return exitCode(exitPartial)
		case <-t.C:
		}
	}
}

// arrayRuns shows each instance and tells whether all of the array's run.
func (a *app) arrayRuns(ctx context.Context, cl *client.Client, want *intent.Object, show func(name, text string, percent int64)) (bool, error) {
	info, _ := intent.KindInstanceArray.Info()
	o, err := cl.Get(ctx, info, want.Metadata.Project, want.Metadata.Name)
	if ctx.Err() != nil {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var st intent.ArrayStatus
	if len(o.Status) == 0 || json.Unmarshal(o.Status, &st) != nil {
		return o.Spec.(*intent.InstanceArraySpec).Count == 0, nil
	}
	for _, i := range st.Instances {
		name := fmt.Sprintf("%s/%s/%d", want.Metadata.Project, want.Metadata.Name, i.Index)
		text := strings.TrimSpace(fmt.Sprintf("%s %s %s %s", i.Machine, i.State, i.Phase, i.Reason))
		if i.Machine == "" {
			text = st.Message
		}
		show(name, text, milestone(i))
	}
	return st.Wanted == o.Spec.(*intent.InstanceArraySpec).Count && st.Running == st.Wanted, nil
}

func (a *app) lineShower() func(name, text string, percent int64) {
	last := map[string]string{}
	return func(name, text string, percent int64) {
		line := fmt.Sprintf("%s  %s  %d %%", name, text, percent)
		if last[name] != line {
			last[name] = line
			fmt.Fprintln(a.Err, line)
		}
	}
}

func (a *app) barShower() (show func(name, text string, percent int64), end func()) {
	p := mpb.New(mpb.WithOutput(a.Err), mpb.WithWidth(40))
	bars := map[string]*mpb.Bar{}
	var mu sync.Mutex // guards texts: the bars are drawn by a goroutine of their own
	texts := map[string]string{}
	text := func(name string) string {
		mu.Lock()
		defer mu.Unlock()
		return "  " + texts[name]
	}
	show = func(name, line string, percent int64) {
		mu.Lock()
		texts[name] = line
		mu.Unlock()
		b := bars[name]
		if b == nil {
			b = p.AddBar(100, mpb.PrependDecorators(decor.Name(name+" ")), mpb.AppendDecorators(decor.Percentage(), decor.Any(func(decor.Statistics) string { return text(name) })))
			bars[name] = b
		}
		b.SetCurrent(percent)
	}
	return show, func() {
		for _, b := range bars {
			b.Abort(false) // keeps what is drawn; a complete bar is complete already
		}
		p.Wait()
	}
}
