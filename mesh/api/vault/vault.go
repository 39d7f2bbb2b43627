package vault

import "time"

// SecretRotation says what of a site's secrets is made anew: the data key of one agent, of all its agents (neither is named), or the
// password in one secret of type bmc.
type SecretRotation struct {
	Agent  string `json:"agent,omitempty" maxLength:"63" doc:"one agent's data key"`
	BMC    string `json:"bmc,omitempty" maxLength:"63" doc:"secret of type bmc: the BMCs that use it get a new password"`
	Reason string `json:"reason,omitempty" maxLength:"256"`
	DryRun bool   `json:"dryRun,omitempty"`
}

// SecretStatus is how far a site's secrets are.
type SecretStatus struct {
	Site     string          `json:"site"`
	DataKeys []DataKeyStatus `json:"dataKeys"`
	BMCs     []BMCSecret     `json:"bmcs"`
}

// DataKeyStatus is one agent's data key.
type DataKeyStatus struct {
	Agent   string `json:"agent"`
	From    uint64 `json:"from,omitempty"`   // before this rotation
	DEK     uint64 `json:"dek"`              // by which the agent is told its secrets
	Records int    `json:"records"`          // secrets that it is told
	Applied uint64 `json:"applied"`          // newest that it reported
	Behind  int    `json:"behind,omitempty"` // secrets that it has under an older one, as it reported
}

// BMCSecret is one secret of type bmc and the machines whose BMCs are opened with it.
type BMCSecret struct {
	Name string `json:"name"`
	Ver  uint64 `json:"ver"`
	// Since is when the change began that is under way; the password before it is kept until every BMC took the new one.
	Since    *time.Time   `json:"since,omitempty"`
	Machines []BMCMachine `json:"machines"`
	// Held is why no change was begun; asked again, it is.
	Held string `json:"held,omitempty"`
}

// BMCMachine is how far one BMC is.
type BMCMachine struct {
	Machine string `json:"machine"`
	Ver     uint64 `json:"ver"` // that its BMC was last seen to take; 0: none
	Done    bool   `json:"done"`
}

// Left counts the machines that have not taken the newest password.
func (s *BMCSecret) Left() (n int) {
	for _, m := range s.Machines {
		if !m.Done {
			n++
		}
	}
	return n
}
