package traffic

import (
	"time"

	"github.com/skerry-metal/skerry/telemetry/account"
)

const (
	// Of a count over more than spreadOver minutes nobody can tell when in them it was; it is cut into at most spreadParts, with at most
	// spreadRows rows in all, so that all is one transaction of the ledger.
	spreadOver  = 60
	spreadParts = 72
	spreadRows  = 2000
)

// spread cuts what was counted while nobody read, for long, into parts of whole hours in which it counts alike, with flag spread: the sum is
// exact, and no minute has it all.
func spread(c account.Count) []account.Count {
	n := min(spreadParts, spreadRows/max(len(c.Rows), 1))
	if c.Minutes <= spreadOver || n < 2 {
		return []account.Count{c}
	}
	var out []account.Count
	size := (int(c.Minutes) + n - 1) / n
	size = (size + 59) / 60 * 60
	left := c
	left.Flags |= account.FlagSpread
	left.Rows = append([]account.Row{}, c.Rows...)
	for i := range left.Rows {
		left.Rows[i].Flags |= account.FlagSpread
	}
	for int(left.Minutes) > size {
		part := left
		part.Also, part.Minutes, part.Rows = nil, uint32(size), nil
		share := float64(size) / float64(left.Minutes)
		cut := func(x *uint64) uint64 {
			y := uint64(float64(*x) * share)
			*x -= min(y, *x)
			return y
		}
		part.Samples, part.Lost = cut(&left.Samples), cut(&left.Lost)
		for i := range left.Rows {
			r := &left.Rows[i]
			p := account.Row{Label: r.Label, Sums: account.Sums{Samples: cut(&r.Samples), Bytes: cut(&r.Bytes), L3: cut(&r.L3), Packets: cut(&r.Packets), Flags: r.Flags}}
			p.Var, p.PacketVar = r.Var*share, r.PacketVar*share
			r.Var, r.PacketVar = r.Var-p.Var, r.PacketVar-p.PacketVar
			part.Rows = append(part.Rows, p)
		}
		out = append(out, part)
		left.Start = left.Start.Add(time.Duration(size) * time.Minute)
		left.Minutes -= uint32(size)
	}
	return append(out, left)
}
