package install

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// setPhase begins a phase. What progress reports show lives in the fetcher, which all stages share.
func (f *fetcher) setPhase(name string, total uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phase, f.done, f.total = name, 0, total
}

func (f *fetcher) addBytes(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done += uint64(n)
}

func (f *fetcher) setBytes(n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = n
}

// progress is a snapshot of the job.
func (j *job) progress(task string) Progress {
	f := j.fetch
	f.mu.Lock()
	p := Progress{Task: task, Phase: f.phase, Bytes: f.done, Total: f.total, Sources: maps.Clone(f.bytes), Blames: slices.Clone(f.blames)}
	var fetched uint64
	for _, n := range f.bytes {
		fetched += n
	}
	f.mu.Unlock()
	busy := j.writer.Busy()
	busy["fetch"] = time.Duration(f.busy.Load())
	bytes := map[string]uint64{"fetch": fetched, "hash": fetched, "write": j.writer.Written() * (4 << 20), "readback": 0}
	if p.Phase == "verify" {
		bytes["readback"] = p.Bytes
		bytes["hash"] += p.Bytes
	}
	var longest time.Duration
	for _, name := range []string{"fetch", "hash", "write", "readback"} {
		d := busy[name]
		if d <= 0 || bytes[name] == 0 {
			continue
		}
		p.Stages = append(p.Stages, Stage{name, float64(bytes[name]) / 1e6 / d.Seconds()})
		if d > longest {
			longest, p.Bottleneck = d, name
		}
	}
	return p
}

// lineBuffer keeps log lines until an agent took them.
type lineBuffer struct {
	mu    sync.Mutex // guards what follows
	lines []LogLine
}

func (l *lineBuffer) add(level slog.Level, msg string, args []any) {
	name := map[slog.Level]string{slog.LevelInfo: "info", slog.LevelWarn: "warn", slog.LevelError: "error"}[level]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, LogLine{time.Now().UTC(), name, text(msg, args)})
	l.lines = l.lines[max(0, len(l.lines)-maxBuffered):]
}

func (l *lineBuffer) take() []LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}
