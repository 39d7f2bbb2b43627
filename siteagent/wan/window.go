package wan

import (
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// window returns the first window of s that holds at t, or nil.
func window(s *intent.WANSpec, t time.Time) *intent.WANWindow {
	for i := range s.Windows {
		if w := &s.Windows[i]; holds(w, t) {
			return w
		}
	}
	return nil
}

func holds(w *intent.WANWindow, t time.Time) bool {
	from, to := minuteOf(w.From), minuteOf(w.To)
	now, day := t.Hour()*60+t.Minute(), t.Weekday()
	if to <= from && now < to { // it began yesterday
		now, day = now+24*60, (day+6)%7
	}
	if to <= from {
		to += 24 * 60
	}
	return from <= now && now < to && (len(w.Days) == 0 || slices.Contains(w.Days, strings.ToLower(day.String()[:3])))
}

// minuteOf reads HH:MM, which the model has checked.
func minuteOf(s string) int {
	t, _ := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute()
}
