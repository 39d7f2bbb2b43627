package swarm

import (
	"slices"
	"time"
)

// upstreams lists who may have it at the other end of the line, in the order in which they are asked; asking: more may be found in a moment.
func (j *job) upstreams() (out []Source, asking bool) {
	if j.s.cfg.Sites != nil {
		out, asking = j.s.cfg.Sites(j.d)
	}
	if j.s.cfg.Origin != nil && !asking {
		if src, up := j.s.cfg.Origin(); up {
			out = append(out, src)
		}
	}
	return out, asking
}

// usable drops those that are not asked any more, and puts those that rest last. The caller holds mu.
func (j *job) usable(above []Source) []Source {
	now := time.Now()
	above = slices.DeleteFunc(above, func(s Source) bool { return s.Tier == TierSite && j.s.account(j.d, s).out() })
	slices.SortStableFunc(above, func(a, b Source) int {
		return min(max(j.s.account(j.d, a).until.Compare(now), 0), 1) - min(max(j.s.account(j.d, b).until.Compare(now), 0), 1)
	})
	return above
}

// forsake asks a source no more: an agent of another site for a while, the coordinator for the rest of this Fetch. The caller holds mu.
func (j *job) forsake(src Source) {
	if src.Tier == TierOrigin {
		j.line.out = true
		return
	}
	a := j.s.account(j.d, src)
	if now := time.Now(); !a.out() || a.until.Before(now.Add(away)) {
		a.fails, a.until = fails, now.Add(away)
	}
}
