package claim

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/storage/state"
)

// BenchmarkOpen is the start of an agent whose site gave 200 machines leases of two hours for 83 days: 200,000 records of its own.
func BenchmarkOpen(b *testing.B) {
	const records, machines = 200_000, 200
	db := openStore(b, filepath.Join(quickDir(b), "state"))
	b.Cleanup(func() { _ = db.Close() })
	j := openJournal(b, db, "a")
	for i := range records / machines {
		var ds []Draft
		for m := range machines {
			ds = append(ds, Draft{Kind: "lease", Key: fmt.Sprintf("52:54:00:88:%02x:%02x", m/256, m%256), Body: map[string]any{"addr": fmt.Sprintf("10.88.%d.%d", m/250, m%250+1), "agent": "a", "turn": i}})
		}
		if err := j.Append(b.Context(), Local, ds...); err != nil {
			b.Fatal(err)
		}
	}
	open := func(b *testing.B) {
		for b.Loop() {
			openJournal(b, db, "a")
		}
		n := uint64(0)
		if err := db.View(func(tx *state.Tx) (err error) { n, err = tx.Count(bucketJournal); return err }); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n), "records")
	}
	b.Run("dense", open)
	if err := j.Prune(b.Context(), KeepRecords); err != nil {
		b.Fatal(err)
	}
	b.Run("pruned", open)
}
