// Package poisson has the exact limits of a count.
//
// Holds: Upper.
//
// Imported by: telemetry/account.
//
// Promises: a pure function.
//
// Concurrency: none of its own.
//
// Tests: those of telemetry/account that ask for bounds of few samples.
package poisson

import "math"

// Upper returns the exact upper 95 % limit (two-sided) of a Poisson mean of which n was seen: 3.69 for none.
// n is 0 to a few hundred. Source: Garwood 1936.
func Upper(n int) float64 {
	lo, hi := float64(n), float64(n)*2+10
	for range 60 {
		mid := (lo + hi) / 2
		term, sum := math.Exp(-mid), 0.0
		for k := 0; k <= n; k++ {
			if k > 0 {
				term *= mid / float64(k)
			}
			sum += term
		}
		if sum > 0.025 {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}
