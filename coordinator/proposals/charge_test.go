package proposals

import (
	"strings"
	"testing"
	"time"
)

func TestOverdraft(t *testing.T) {
	c := func(id string, minute int, base, ack uint64, n int) charged {
		return charged{ID: id, Agent: "a" + id, Time: time.Date(2026, 11, 2, 12, minute, 0, 0, time.UTC), Base: base, Took: map[string]int{"small": n}, Ack: ack}
	}
	f := func(name, want string, id string, all ...charged) {
		t.Helper()
		got := overdraft(all, id, map[string]int{"small": 2})
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	f("within", "", "1", c("1", 1, 5, 0, 2))
	f("alone above it: its quota was lowered since", "3 machines of type small were taken offline, 2 are allowed: 1 of a1", "1", c("1", 1, 5, 0, 3))
	f("two halves", "4 machines of type small were taken offline, 2 are allowed: 1 of a1, 2 of a2", "2", c("1", 1, 5, 0, 2), c("2", 2, 5, 0, 2))
	f("the earlier one is heard last", "1 of a1, 2 of a2", "1", c("2", 2, 5, 7, 2), c("1", 1, 5, 0, 2))
	f("the first was settled, and the second knew", "", "2", c("1", 1, 5, 6, 2), c("2", 2, 6, 0, 2))
	f("the first was settled, and the second did not know", "1 of a1, 2 of a2", "2", c("1", 1, 5, 6, 2), c("2", 2, 5, 0, 2))
	f("one that had no part in it", "", "3", c("1", 1, 5, 6, 2), c("2", 2, 5, 7, 2), c("3", 3, 8, 0, 1))
	f("it overlaps each of two that followed one another", "2 of a2, 3 of a3", "2", c("1", 1, 5, 6, 1), c("2", 2, 5, 0, 1), c("3", 3, 6, 0, 2))
	other := c("2", 2, 5, 0, 0)
	other.Took = map[string]int{"big": 1}
	f("another type has its own count", "1 machines of type big were taken offline, 0 are allowed", "2", c("1", 1, 5, 0, 2), other)
}
