package siteagent

import "github.com/skerry-metal/skerry/mesh/intent"

// keys is what goes up about who may speak.
func (b *backend) keys() *intent.KeyReport {
	k := &intent.KeyReport{
		Trust: b.w.TrustHead().Seq, Revocation: b.w.RevocationHead().Seq, Generation: b.w.State().Signed.Generation, Clock: intent.ClockFloor,
	}
	if _, trusted := b.floor.Now(); trusted {
		k.Clock = intent.ClockTrusted
	}
	if envs, err := b.w.TrustForks(); err == nil { // else the bucket is on hold, which is told elsewhere
		k.Forks = len(envs)
	}
	if envs, err := b.w.IntentForks(); err == nil {
		k.IntentForks = len(envs)
	}
	return k
}
