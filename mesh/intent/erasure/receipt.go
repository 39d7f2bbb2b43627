package erasure

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Level says how far an erasure goes. Source: NIST SP 800-88r1, section 2.5.
type Level string

// The levels. Purge: not to be had back in a laboratory. Clear: not to be had back through the device's own commands.
const (
	Purge Level = "purge"
	Clear Level = "clear"
)

// Reaches tells whether l is at least want.
func (l Level) Reaches(want Level) bool { return l == Purge || (l == Clear && want == Clear) }

// Policies of a site, as Site.spec.erase names them; empty is Required.
const (
	PolicyRequired = "required" // purge
	PolicyClear    = "clear"    // purge where the medium can, else clear
	PolicyNone     = "none"     // nothing is erased: a released machine is held until an operator clears it
)

// MinCanary is how many blocks of 4 KiB are marked before an erasure and looked for afterwards, on a disk that has that many.
const MinCanary = 64

// Bounds of a receipt.
const (
	MaxDrives = 512
	maxText   = 256
)

// Canary is what was written on a disk before it was erased: Blocks blocks of 4 KiB, the first and the last one among them, made out of
// a random seed. Found counts those that could be read back afterwards.
type Canary struct {
	Blocks     int           `json:"blocks"`
	SeedDigest intent.Digest `json:"seedDigest"`
	Found      int           `json:"found"`
}

// Drive is what was done to one disk.
type Drive struct {
	intent.DiskID
	Vendor       string    `json:"vendor,omitempty"`
	Model        string    `json:"model,omitempty"`
	Firmware     string    `json:"firmware,omitempty"`
	Media        string    `json:"media"`
	Method       string    `json:"method"` // nvme-format-crypto, overwrite, ...
	Level        Level     `json:"level"`
	Start        time.Time `json:"start"` // of the installer's clock
	End          time.Time `json:"end"`
	DeviceStatus string    `json:"deviceStatus"` // as the device itself says that it is done
	Canary       Canary    `json:"canary"`
	Samples      int       `json:"samples,omitempty"` // blocks of 4 MiB that were read and hold zeros, after an overwrite
	Smart        string    `json:"smart,omitempty"`   // the disk's own verdict before it was erased: passed, failed; "" = it has none
}

// Proof is what an installer hands in.
type Proof struct {
	Task       string   `json:"task"`
	Generation uint64   `json:"generation"`
	Permission string   `json:"permission"` // id
	Serial     string   `json:"serial"`
	UUID       string   `json:"uuid"`
	Chassis    string   `json:"chassis,omitempty"`
	Drives     []Drive  `json:"drives"`
	Tool       Tool     `json:"tool"`
	Exceptions []string `json:"exceptions,omitempty"` // disks that were left alone, and why: removable, USB, iSCSI
}

// Tool says what erased.
type Tool struct {
	Version string `json:"version"`
	Kernel  string `json:"kernel,omitempty"`
}

// Machine is the box that was erased.
type Machine struct {
	Name    string `json:"name"`
	Serial  string `json:"serial"`
	UUID    string `json:"uuid"`
	Chassis string `json:"chassis,omitempty"`
}

// Receipt is the payload of a signed erasure receipt. Seq is dense from 1 per agent, and Prev the SHA-256 of the payload before, "" for
// the first. Source: boot.md section 8.
type Receipt struct {
	Site       string        `json:"site"`
	Agent      string        `json:"agent"` // who checked and signed
	Seq        uint64        `json:"seq"`
	Prev       string        `json:"prev"`
	Time       time.Time     `json:"time"`
	Machine    Machine       `json:"machine"`
	Project    string        `json:"project"`
	Instance   string        `json:"instance"` // uid
	Generation uint64        `json:"generation"`
	Task       string        `json:"task"`
	Permission intent.Digest `json:"permission"` // of the permission's payload
	Claim      intent.Epoch  `json:"claimEpoch"`
	Required   Level         `json:"required"`
	Drives     []Drive       `json:"drives"`
	Tool       Tool          `json:"tool"`
	Exceptions []string      `json:"exceptions,omitempty"`
	Result     string        `json:"result"` // erased: there are no others
}

// Erased is the only result that is receipted.
const Erased = "erased"

// ErrProof says that what an installer or a receipt tells is no proof.
var ErrProof = errors.New("not a proof of erasure")

// Check refuses what is no proof that the disk reached want: another level, no canary or one that was found, no status, bad times.
func (d Drive) Check(want Level) error {
	refuse := func(format string, a ...any) error {
		return fmt.Errorf("cannot accept erasure of disk %s%s: %w: %s", d.WWN, d.Serial, ErrProof, fmt.Sprintf(format, a...))
	}
	blocks := min(MinCanary, int(d.SizeBytes/4096))
	switch {
	case d.SizeBytes == 0 || (d.WWN == "" && d.Serial == ""):
		return refuse("it has no identity")
	case !d.Level.Reaches(want):
		return refuse("level %.20q where %s is wanted", d.Level, want)
	case d.Method == "" || d.DeviceStatus == "":
		return refuse("method or device status is missing")
	case d.Canary.Blocks < blocks || d.Canary.SeedDigest.IsZero():
		return refuse("%d blocks of canary, want %d", d.Canary.Blocks, blocks)
	case d.Canary.Found != 0:
		return refuse("%d blocks of the canary can still be read", d.Canary.Found)
	case d.Start.IsZero() || d.End.Before(d.Start):
		return refuse("it ends before it begins")
	}
	for _, s := range []string{d.WWN, d.Serial, d.Vendor, d.Model, d.Firmware, d.Media, d.Method, d.DeviceStatus, d.Smart} {
		if len(s) > maxText {
			return refuse("a text of %d octets", len(s))
		}
	}
	return nil
}

// CheckDrives refuses a list that lacks one of the disks, has another one, or one twice, and each drive that is no proof.
func CheckDrives(drives []Drive, disks []intent.DiskID, want Level) error {
	if len(drives) == 0 || len(drives) > MaxDrives || len(drives) != len(disks) {
		return fmt.Errorf("cannot accept erasure of %d disks, want %d: %w", len(drives), len(disks), ErrProof)
	}
	left := slices.Clone(disks)
	for _, d := range drives {
		i := slices.Index(left, d.DiskID)
		if i < 0 {
			return fmt.Errorf("cannot accept erasure of disk %s%s: %w: it was not to be erased, or comes twice", d.WWN, d.Serial, ErrProof)
		}
		left = slices.Delete(left, i, i+1)
		if err := d.Check(want); err != nil {
			return err
		}
	}
	return nil
}

// Check refuses a receipt whose fields do not prove what it says. Signature and place in its chain are checked elsewhere.
func (r *Receipt) Check() error {
	refuse := func(what string) error {
		return fmt.Errorf("cannot accept receipt %d of %.63s/%.63s: %w: %s", r.Seq, r.Site, r.Agent, ErrProof, what)
	}
	switch {
	case !intent.IsLabel(r.Site) || !intent.IsLabel(r.Agent) || r.Seq == 0 || (r.Seq == 1) != (r.Prev == ""):
		return refuse("site, agent or place in the chain is missing")
	case r.Machine.Name == "" || (r.Machine.Serial == "" && r.Machine.UUID == ""):
		return refuse("the machine is not named")
	case r.Permission.IsZero() || r.Task == "" || r.Claim == (intent.Epoch{}) || r.Generation == 0:
		return refuse("permission, task, claim or generation is missing")
	case r.Result != Erased || (r.Required != Purge && r.Required != Clear) || r.Time.IsZero():
		return refuse("result, level or time is missing")
	case len(r.Exceptions) > MaxDrives:
		return refuse("too many exceptions")
	}
	for _, s := range append(slices.Clone(r.Exceptions), r.Machine.Name, r.Machine.Serial, r.Machine.UUID, r.Machine.Chassis, r.Project, r.Instance, r.Task, r.Tool.Version, r.Tool.Kernel) {
		if len(s) > maxText {
			return refuse("a text is too long")
		}
	}
	ids := make([]intent.DiskID, 0, len(r.Drives))
	for _, d := range r.Drives {
		if slices.Contains(ids, d.DiskID) {
			return refuse("a disk comes twice")
		}
		ids = append(ids, d.DiskID)
	}
	return CheckDrives(r.Drives, ids, r.Required)
}

// List is receipts with what proves that their signers were agents of the site: entries of kind roster, signed by a writer that the
// domain's trust document lists. It is what the API answers and what a file of receipts holds.
type List struct {
	Site     string             `json:"site"`
	Receipts []*intent.Envelope `json:"receipts"`
	Rosters  []*intent.Envelope `json:"rosters"`
}
