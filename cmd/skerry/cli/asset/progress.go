package asset

import (
	"fmt"
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// lineEvery is how often progress is told where no bar is.
const lineEvery = 10 * time.Second

// progress draws a bar on a terminal, and plain lines elsewhere.
type progress struct {
	w           io.Writer
	verb, name  string // upload, read
	size        uint64 // octets; 0: not known yet
	began, last time.Time

	all *mpb.Progress // nil: lines
	bar *mpb.Bar
}

func (v *verbs) begin(verb, name string, size uint64) *progress {
	w, terminal := v.Progress()
	p := &progress{w: w, verb: verb, name: name, size: size, began: time.Now(), last: time.Now()}
	if !terminal {
		fmt.Fprintf(w, "%sing %s, %d MiB\n", verb, name, size>>20)
		return p
	}
	p.all = mpb.New(mpb.WithOutput(w), mpb.WithWidth(48))
	p.bar = p.all.AddBar(int64(size), mpb.PrependDecorators(decor.Name(name+" "), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(), decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
	return p
}

// of says how large it is, once that is known.
func (p *progress) of(size uint64) {
	if p.size == size {
		return
	}
	p.size = size
	if p.bar != nil {
		p.bar.SetTotal(int64(size), false)
	}
}

// at says how far it is, in octets.
func (p *progress) at(n uint64) {
	if p.bar != nil {
		p.bar.SetCurrent(int64(n))
		return
	}
	if now := time.Now(); now.Sub(p.last) >= lineEvery {
		p.last = now
		fmt.Fprintf(p.w, "%sing %s: %d of %d MiB\n", p.verb, p.name, n>>20, p.size>>20)
	}
}

func (p *progress) end(done bool) {
	if p.bar == nil {
		if done {
			past := map[string]string{"upload": "uploaded", "read": "read"}[p.verb]
			fmt.Fprintf(p.w, "%s %s in %s\n", past, p.name, time.Since(p.began).Round(time.Millisecond))
		}
		return
	}
	if done {
		p.bar.SetTotal(int64(p.size), true)
	} else {
		p.bar.Abort(false)
	}
	p.all.Wait()
}

// told tells a progress what is read through it.
type told struct {
	r  io.Reader
	at uint64
	p  *progress
}

// Read implements io.Reader.
func (t *told) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	t.at += uint64(n)
	t.p.at(t.at)
	return n, err
}
