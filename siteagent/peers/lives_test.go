package peers

import (
	"testing"
	"time"
)

// One identity in two boxes is found when the first speaks again; a restart, a box that was put back to an older copy and a late
// request are no double.
func TestLives(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	type word struct {
		life   string
		at     int
		double bool
	}
	for name, words := range map[string][]word{
		"one process":             {{"x", 0, false}, {"x", 5, false}, {"x", 500, false}},
		"restarts":                {{"x", 0, false}, {"y", 20, false}, {"z", 40, false}, {"z", 400, false}},
		"late request":            {{"x", 0, false}, {"y", 20, false}, {"x", 29, false}, {"y", 60, false}},
		"two boxes":               {{"x", 0, false}, {"y", 1, false}, {"x", 2, false}, {"y", 3, false}, {"x", 12, true}},
		"two boxes, one restarts": {{"x", 0, false}, {"y", 1, false}, {"z", 20, false}, {"x", 21, false}, {"z", 22, false}, {"x", 40, false}, {"z", 41, true}},
		"again after a person":    {{"x", 0, false}, {"y", 1, false}, {"x", 20, true}, {"x", 21, false}, {"y", 22, false}, {"x", 40, true}},
		"nothing said":            {{"x", 0, false}, {"", 20, false}, {"x", 40, false}},
	} {
		l := &lives{}
		for i, w := range words {
			if got := l.heard("s1", w.life, at(w.at)); got != w.double {
				t.Errorf("%s, word %d: double %v", name, i, got)
			}
		}
		if l.heard("s2", "x", at(0)) {
			t.Errorf("%s: another agent is a double", name)
		}
	}
}
