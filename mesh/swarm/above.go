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
	if asking {
		return out, true
	}
	var urls []Source
	last := false
	if j.s.cfg.URLs != nil {
		urls, last = j.s.cfg.URLs(j.d)
	}
	if j.s.cfg.Origin != nil {
		if src, up := j.s.cfg.Origin(); up && last {
			out = append(out, src)
		} else if up {
			urls = append(urls, src)
		}
	}
	return append(out, urls...), false
}

// usable drops those that are not asked any more, and puts those that rest last. The caller holds mu.
func (j *job) usable(above []Source) []Source {
	now := time.Now()
	above = slices.DeleteFunc(above, func(s Source) bool { return j.spent(s) || s.Range != nil && j.m == nil })
	slices.SortStableFunc(above, func(a, b Source) int {
		return min(max(j.s.account(j.d, a).until.Compare(now), 0), 1) - min(max(j.s.account(j.d, b).until.Compare(now), 0), 1)
	})
	return above
}

// spent tells whether a source is not asked any more, for a while or for the rest of this Fetch. The caller holds mu.
func (j *job) spent(src Source) bool {
	if src.spare() {
		return j.s.account(j.d, src).out()
	}
	return j.line.out
}

// forsake asks a source no more: the coordinator for the rest of this Fetch, others for a while. The caller holds mu.
func (j *job) forsake(src Source) {
	if !src.spare() {
		j.line.out = true
		return
	}
	a := j.s.account(j.d, src)
	if now := time.Now(); !a.out() || a.until.Before(now.Add(away)) {
		a.fails, a.until = fails, now.Add(away)
	}
}
