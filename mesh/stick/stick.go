package stick

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// History of the format: 1 (2026-11-26) stick, trust, revocation, intent, override, admission, quarantine, report, audit, events, end.

// Version is the format that is written, and the only one that is read.
const Version = 1

// MaxLine bounds one line in octets: an audit bundle of 1 MiB with the largest record over it, or an envelope of
// intent.MaxEnvelope.
const MaxLine = 2 << 20

// The ways of a stick.
const (
	Down = "down" // from the coordinator to a site
	Up   = "up"   // from an agent to the coordinator
)

// Payload types of what only sticks carry signed: over a session the session says who speaks.
const (
	PayloadReport = "application/vnd.skerry.report.v1+json"
	PayloadEvents = "application/vnd.skerry.events.v1+json"
)

// Header opens a stick. It is not signed and decides nothing: it tells a person what he holds, and a site's agent that the stick
// is another's before it reads on.
type Header struct {
	Version int       `json:"version"`
	Way     string    `json:"way"`
	Domain  string    `json:"domain"`
	Site    string    `json:"site"`
	By      string    `json:"by"` // coordinator or agent that wrote it
	Made    time.Time `json:"made"`
	From    uint64    `json:"from,omitempty"`    // first sequence number of intent
	Without []string  `json:"without,omitempty"` // kinds of lines that were left out, because who asked may not read them
}

// End closes a stick.
type End struct {
	Lines  int           `json:"lines"`  // before this one, the header among them
	SHA256 intent.Digest `json:"sha256"` // of all octets before this line
}

// Events is the payload of a batch of an agent's events, signed by the agent that wrote the stick.
type Events struct {
	Site   string         `json:"site"`
	Agent  string         `json:"agent"` // that signs
	Events []intent.Event `json:"events"`
}

// Line is one line; exactly one field is set.
type Line struct {
	Stick      *Header             `json:"stick,omitempty"`
	Trust      *intent.Envelope    `json:"trust,omitempty"`
	Revocation *intent.Envelope    `json:"revocation,omitempty"`
	Intent     *intent.Envelope    `json:"intent,omitempty"`
	Report     *intent.Envelope    `json:"report,omitempty"`
	Override   *intent.Envelope    `json:"override,omitempty"`
	Admission  *intent.Envelope    `json:"admission,omitempty"`
	Quarantine *intent.Envelope    `json:"quarantine,omitempty"`
	Audit      *intent.AuditBundle `json:"audit,omitempty"`
	Events     *intent.Envelope    `json:"events,omitempty"`
	End        *End                `json:"end,omitempty"`
}

// fields lists the documents of a line by their names.
func (l *Line) fields() []field {
	return []field{
		{"stick", l.Stick != nil, nil},
		{"trust", l.Trust != nil, l.Trust},
		{"revocation", l.Revocation != nil, l.Revocation},
		{"intent", l.Intent != nil, l.Intent},
		{"report", l.Report != nil, l.Report},
		{"override", l.Override != nil, l.Override},
		{"admission", l.Admission != nil, l.Admission},
		{"quarantine", l.Quarantine != nil, l.Quarantine},
		{"audit", l.Audit != nil, nil},
		{"events", l.Events != nil, l.Events},
		{"end", l.End != nil, nil},
	}
}

type field struct {
	name string
	set  bool
	env  *intent.Envelope
}

// Kind returns the name of the field that is set, and its envelope if it is one. "" when none or several are.
func (l *Line) Kind() (kind string, env *intent.Envelope) {
	for _, f := range l.fields() {
		if f.set && kind != "" {
			return "", nil
		}
		if f.set {
			kind, env = f.name, f.env
		}
	}
	return kind, env
}

// What a Reader says of a file.
var (
	ErrFormat  = errors.New("it is no stick of this release")
	ErrLine    = errors.New("a line is no document")
	ErrPartial = errors.New("it breaks off before its end")
	ErrDamaged = errors.New("its end names other octets")
)

// Writer writes one stick.
type Writer struct {
	w     io.Writer
	sum   hash.Hash
	lines int
}

// NewWriter writes the header and returns the writer of what follows. h.Version is set here.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	s := &Writer{w: w, sum: sha256.New()}
	h.Version = Version
	return s, s.Put(&Line{Stick: &h})
}

// Put writes one line. Errors: of the line, when it is longer than MaxLine, and the writer's.
func (s *Writer) Put(l *Line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("cannot encode a line of a stick: %w", err)
	}
	if len(b) >= MaxLine {
		return fmt.Errorf("cannot write a line of %d octets, at most %d", len(b), MaxLine)
	}
	b = append(b, '\n')
	s.sum.Write(b)
	s.lines++
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("cannot write stick: %w", err)
	}
	return nil
}

// End writes the last line.
func (s *Writer) End() error {
	return s.Put(&Line{End: &End{Lines: s.lines, SHA256: intent.Digest(s.sum.Sum(nil))}})
}

// Reader reads one stick, a line at a time.
type Reader struct {
	Header Header
	Line   int // number of the line that Next returned last, from 1

	r   *bufio.Reader
	sum hash.Hash
	end bool
}

// NewReader reads the header. Errors: ErrFormat, the reader's.
func NewReader(r io.Reader) (*Reader, error) {
	s := &Reader{r: bufio.NewReaderSize(r, MaxLine), sum: sha256.New()}
	l, err := s.next()
	if errors.Is(err, ErrLine) || errors.Is(err, ErrPartial) || err == nil && l.Stick == nil {
		return nil, fmt.Errorf("cannot read stick: %w", ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	if h := l.Stick; h.Version != Version || h.Way != Down && h.Way != Up {
		return nil, fmt.Errorf("cannot read stick of version %d, way %q: %w", h.Version, h.Way, ErrFormat)
	}
	s.Header = *l.Stick
	return s, nil
}

// Next returns the next document. Errors: io.EOF after a whole file, ErrPartial for one that breaks off, ErrDamaged for one whose
// octets are not those that were written, ErrLine for what is no line of a stick. What was returned before stands for itself:
// it carries its own signatures.
func (s *Reader) Next() (*Line, error) {
	if s.end {
		return nil, io.EOF
	}
	before, lines := s.sum.Sum(nil), s.Line
	l, err := s.next()
	if err != nil || l.End == nil {
		return l, err
	}
	s.end = true
	if l.End.Lines != lines || l.End.SHA256 != intent.Digest(before) {
		return nil, fmt.Errorf("cannot trust stick to be whole: %w", ErrDamaged)
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read stick: something follows its end: %w", ErrLine)
	}
	return nil, io.EOF
}

func (s *Reader) next() (*Line, error) {
	b, err := s.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("cannot read line %d: more than %d octets: %w", s.Line+1, MaxLine, ErrLine)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("cannot read line %d: %w", s.Line+1, ErrPartial)
	case err != nil:
		return nil, fmt.Errorf("cannot read stick: %w", err)
	}
	s.Line++
	s.sum.Write(b)
	l := &Line{}
	if err := intent.DecodeStrict(bytes.TrimSuffix(b, []byte("\n")), l); err != nil {
		return nil, fmt.Errorf("cannot read line %d: %w: %w", s.Line, ErrLine, err)
	}
	kind, env := l.Kind()
	if kind == "" || kind == "stick" && s.Line > 1 {
		return nil, fmt.Errorf("cannot read line %d: it holds no document, or several: %w", s.Line, ErrLine)
	}
	if env != nil && (len(env.Payload) > intent.MaxEnvelope || len(env.Signatures) == 0 || len(env.Signatures) > intent.MaxSignatures) {
		return nil, fmt.Errorf("cannot read line %d: %d signatures over %d octets: %w", s.Line, len(env.Signatures), len(env.Payload), ErrLine)
	}
	return l, nil
}
