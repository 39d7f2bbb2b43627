package streams

import "time"

// StickResult says what became of a stick.
type StickResult struct {
	Site     string         `json:"site"`
	By       string         `json:"by"` // coordinator or agent that wrote it, as it says
	Made     time.Time      `json:"made"`
	DryRun   bool           `json:"dryRun,omitempty"`
	Before   StreamHeads    `json:"before"`
	After    StreamHeads    `json:"after"`
	Taken    map[string]int `json:"taken"`           // by kind of document
	Known    map[string]int `json:"known,omitempty"` // were here already
	Notes    []string       `json:"notes,omitempty"` // what somebody should know or do
	Refused  []StickRefusal `json:"refused,omitempty"`
	Rejected string         `json:"rejected,omitempty"` // why verified intent is not active; the last good state stays
	Partial  string         `json:"partial,omitempty"`  // why the file was not read to its end; what came before counts
}

// StickRefusal is one document that was not taken.
type StickRefusal struct {
	Line int    `json:"line,omitempty"` // none: the reason names the document
	Kind string `json:"kind"`
	Why  string `json:"why"`
}

// maxRefusals bounds what a StickResult lists.
const maxRefusals = 100

// Refuse adds a refusal; beyond maxRefusals they are only told of.
func (r *StickResult) Refuse(line int, kind string, why error) {
	switch {
	case len(r.Refused) < maxRefusals:
		r.Refused = append(r.Refused, StickRefusal{line, kind, why.Error()})
	case len(r.Refused) == maxRefusals:
		r.Refused = append(r.Refused, StickRefusal{line, kind, "and more, which are not listed"})
	}
}

// Whole tells whether all of the stick was taken and is in force.
func (r *StickResult) Whole() bool { return len(r.Refused) == 0 && r.Rejected == "" && r.Partial == "" }
