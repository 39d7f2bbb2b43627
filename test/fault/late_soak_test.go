//go:build soak

package fault

import (
	"testing"
	"testing/synctest"
	"time"
)

// Experiment F9, the rest of its long tier: 64 MiB come to eight agents over wires that lose 30 % and are up to 800 ms late. A job of its
// own, as it takes about as long as everything else of F9.
func TestLateWires(t *testing.T) {
	rnd := random(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		w.join(tierAgents)
		began := time.Now()
		body, digest := w.cross(rnd, crossing{64 << 20, 800 * time.Millisecond})
		t.Logf("64 MiB crossed in %v of the bubble", time.Since(began).Round(time.Minute))
		for _, a := range w.pair {
			w.end("s1/" + a)
			w.same("s1/"+a, digest, body)
		}
	})
}
