package bench

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Figure prints one line, "figure | ours | peer | ratio | asked", and how busy the machine was.
func Figure(w io.Writer, name, ours, peer, ratio, asked string) {
	fmt.Fprintf(w, "%s | %s | %s | %s | %s | %s\n", name, ours, peer, ratio, asked, Pressure())
}

// Pressure returns the share of the last 10 s in which something waited for a CPU, as /proc/pressure/cpu says it; "" where
// the kernel does not say.
func Pressure() string {
	b, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return ""
	}
	for _, f := range strings.Fields(string(b)) {
		if v, ok := strings.CutPrefix(f, "avg10="); ok {
			return "cpu pressure " + v + " %"
		}
	}
	return ""
}

// Quantile returns the value below which the share q (0 to 1) of ds lies, by the nearest rank; ds must not be empty.
func Quantile(ds []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(ds))
	i := int(q*float64(len(s))+0.999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// Seconds writes d with two decimals.
func Seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// Rate writes octets per second.
func Rate(octets int64, d time.Duration) string {
	return fmt.Sprintf("%.0f MB/s", float64(octets)/1e6/d.Seconds())
}
