package uplink

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// History of the protocol: 1 (2026-11-21) hello, welcome, heads, applied, ping, busy. 2 (2026-11-28) rest: the
// agent ends this session and comes by again; to a coordinator of before it is an unknown field, which ends the session too.

// Bounds and times of a session; reasons in mesh.md section 2.
const (
	maxLine      = 16 << 10
	helloTimeout = 10 * time.Second // from the session to the welcome
	pingEvery    = 20 * time.Second // on TCP: a NAT forgets an idle flow after a minute
	silence      = 3 * pingEvery    // on TCP: then the session is dead
	writeTimeout = 10 * time.Second
)

// Heads are the heads of the three streams that an agent follows.
type Heads struct {
	Trust      intent.Head `json:"trust"`
	Revocation intent.Head `json:"revocation"`
	Intent     intent.Head `json:"intent"`
}

// Hello opens a session. Agent and Site must be those of the certificate; Boot is random per process.
type Hello struct {
	Agent   string `json:"agent"`
	Site    string `json:"site"`
	Boot    string `json:"boot"`
	Version string `json:"version"`
	Heads   Heads  `json:"heads"`
}

// Welcome answers it. Epoch is the coordinator's writer epoch, Now its time, SpreadSeconds how widely the agents of a lost
// coordinator spread their return.
type Welcome struct {
	Coordinator   string               `json:"coordinator"`
	Epoch         uint64               `json:"epoch"`
	Now           time.Time            `json:"now"`
	Heads         Heads                `json:"heads"`
	SpreadSeconds int                  `json:"spread"`
	Coordinators  []intent.Coordinator `json:"coordinators,omitempty"`
}

// line is one line of the control stream; one field is set.
type line struct {
	Hello   *Hello    `json:"hello,omitempty"`
	Welcome *Welcome  `json:"welcome,omitempty"`
	Heads   *Heads    `json:"heads,omitempty"`
	Applied *Heads    `json:"applied,omitempty"`
	Ping    *ping     `json:"ping,omitempty"`
	Busy    *busy     `json:"busy,omitempty"`
	Rest    *struct{} `json:"rest,omitempty"`
}

type ping struct{}

type busy struct {
	RetryAfter int `json:"retryAfter"` // seconds
}

// ErrDown says that no session stands.
var ErrDown = errors.New("no uplink")

func encode(l *line) ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("cannot encode uplink line: %w", err)
	}
	if len(b) >= maxLine {
		return nil, fmt.Errorf("cannot send uplink line of %d octets, at most %d", len(b), maxLine)
	}
	return append(b, '\n'), nil
}

// lineReader reads lines of at most maxLine octets.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReaderSize(r, maxLine)} }

// next returns the next line.
func (r *lineReader) next() (*line, error) {
	b, err := r.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("cannot read uplink line of more than %d octets", maxLine)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read uplink line: %w", err)
	}
	l := &line{}
	if err := intent.DecodeStrict(b, l); err != nil {
		return nil, fmt.Errorf("cannot decode uplink line: %w", err)
	}
	return l, nil
}
