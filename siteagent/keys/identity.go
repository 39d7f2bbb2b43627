package keys

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// Identity is who this agent is, as the coordinator decided when it joined. It is all that a cold start needs beside keys and state.
type Identity struct {
	Site        string               `json:"site"`
	Agent       string               `json:"agent"`
	Domain      string               `json:"domain"`
	Pin         intent.Digest        `json:"pin"`
	Coordinator []string             `json:"coordinator"`
	Leaf        []byte               `json:"leaf"`
	Web         []byte               `json:"web"`
	CA          []byte               `json:"ca"`
	Set         uint64               `json:"set,omitempty"` // number of the keys that are used: 0 lies in keys/ itself, N in keys/N
	Trust       []*intent.Envelope   `json:"trust"`
	Roster      intent.RosterAgent   `json:"roster"`
	Peers       []intent.RosterAgent `json:"peers,omitempty"` // the site's other agents when it joined
}

const fileIdentity = "identity.json"

// ReadIdentity reads what Save wrote. Errors: fs.ErrNotExist for an agent that has not joined.
func ReadIdentity(dir string) (*Identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, fileIdentity))
	if err != nil {
		return nil, fmt.Errorf("cannot read identity: %w", err)
	}
	id := &Identity{}
	if err := json.Unmarshal(b, id); err != nil {
		return nil, fmt.Errorf("cannot read identity: %w", err)
	}
	return id, nil
}

// Save writes the file whole or not at all; it is the last thing of joining, and the moment at which keys change.
func (id *Identity) Save(dir string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode identity: %w", err)
	}
	return state.WriteFile(filepath.Join(dir, fileIdentity), b)
}
