package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkUpdate is one durable record; it reports the process's resident memory at the end.
func BenchmarkUpdate(b *testing.B) {
	d := open(b, filepath.Join(b.TempDir(), "state"))
	defer d.Close()
	v := make([]byte, 300)
	for i := 0; b.Loop(); i++ {
		if err := d.Update(func(tx *Tx) error { return tx.Put("b", fmt.Sprint(i%5000), v) }); err != nil {
			b.Fatal(err)
		}
	}
	s, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return
	}
	for _, l := range strings.Split(string(s), "\n") {
		var kb float64
		if _, err := fmt.Sscanf(l, "VmRSS: %f kB", &kb); err == nil {
			b.ReportMetric(kb/1024, "MiB-rss")
		}
	}
}
