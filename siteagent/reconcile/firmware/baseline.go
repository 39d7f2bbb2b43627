package firmware

import (
	"context"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// KindAccounts is the journal's kind for the names of a controller's accounts as they were first listed; the key is MACHINE@ADDRESS.
const KindAccounts = "bmc-accounts"

func key(machine, address string) string { return machine + "@" + address }

// Known returns the names of a controller's accounts as they were first listed; nil: they were not.
func Known(j *claim.Journal, machine, address string) []string {
	names, ok := claim.Load[[]string](j, KindAccounts, key(machine, address))
	if ok && names == nil {
		names = []string{}
	}
	return names
}

// Draft is the record of the names as they are first listed.
func Draft(machine, address string, names []string) claim.Draft {
	return claim.Draft{Kind: KindAccounts, Key: key(machine, address), Body: names}
}

// Baseline lists the accounts for later, if nobody did; nil: it was done, or cannot be.
func Baseline(ctx context.Context, j *claim.Journal, machine, address string, ctl bmc.Firmware) ([]claim.Draft, error) {
	if Known(j, machine, address) != nil {
		return nil, nil
	}
	all, err := ctl.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, a := range all {
		names = append(names, a.Name)
	}
	return []claim.Draft{Draft(machine, address, names)}, nil
}
