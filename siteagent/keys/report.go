package keys

import (
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Report is what goes up about who may speak, as an agent knows it.
func Report(r *replica.Replica, floor *trust.Floor) *intent.KeyReport {
	k := &intent.KeyReport{
		Trust: r.TrustHead().Seq, Revocation: r.RevocationHead().Seq, Generation: r.State().Signed.Generation, Clock: intent.ClockFloor,
	}
	if _, trusted := floor.Now(); trusted {
		k.Clock = intent.ClockTrusted
	}
	if envs, err := r.TrustForks(); err == nil { // else the bucket is on hold, which is told elsewhere
		k.Forks = len(envs)
	}
	if envs, err := r.IntentForks(); err == nil {
		k.IntentForks = len(envs)
	}
	if env := r.OfferedTrust(); env != nil {
		k.Offered = env.Digest().Hex()
	}
	k.DEK, k.Behind = r.DataKey()
	return k
}
