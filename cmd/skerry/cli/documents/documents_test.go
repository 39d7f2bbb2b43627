package documents

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// text is a table as words.
type text struct{ strings.Builder }

func (t *text) Header(cols ...string) { t.Row(cols...) }
func (t *text) Row(cols ...string)    { fmt.Fprintln(t, strings.Join(cols, " | ")) }

var _ account.Table = (*text)(nil)

// A file that could not be written whole leaves nothing under its name, and nothing beside it.
func TestWriteWholeOrNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lon1.jsonl")
	_, err := write(path, func(w io.Writer) (int64, error) {
		n, err := io.WriteString(w, "half")
		return int64(n), errors.Join(err, errors.New("the line broke"))
	})
	if err == nil || !strings.Contains(err.Error(), "the line broke") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	n, err := write(path, func(w io.Writer) (int64, error) { n, err := io.WriteString(w, "whole"); return int64(n), err })
	if b, rerr := os.ReadFile(path); err != nil || rerr != nil || n != 5 || string(b) != "whole" {
		t.Errorf("%d %q %v %v", n, b, err, rerr)
	}
}

func TestTables(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := now.Add(-50 * time.Hour)
	h := func(seq uint64) intent.Head { return intent.Head{Epoch: 1, Seq: seq} }
	s := &api.IntentStatus{At: now, By: "c1", Sites: []api.SiteDocument{{Site: "lon1", Heads: api.StreamHeads{Trust: intent.Head{Seq: 2}, Intent: h(9)}, Agents: []api.AgentDocument{
		{ID: "a1", Contact: &now, Heads: api.StreamHeads{Trust: intent.Head{Seq: 2}, Intent: h(9), Active: h(9)}},
		{ID: "a2", Contact: &ago, Heads: api.StreamHeads{Trust: intent.Head{Seq: 1}, Intent: h(7), Active: h(6)}, Rejected: "entry 7: no"},
		{ID: "a3", Contact: &ago, Heads: api.StreamHeads{Trust: intent.Head{Seq: 2}, Intent: h(7), Active: h(7)}},
		{ID: "a4", Forks: 1},
		{ID: "a5"},
	}}}}
	for i := range s.Sites[0].Agents {
		s.Sites[0].Agents[i].Advise("lon1", s.Sites[0].Heads)
	}
	if !s.Wrong() {
		t.Error("nothing is wrong")
	}
	var got text
	statusTable(&got, s)
	const want = `SITE/AGENT | TRUST | REVOCATION | INTENT | ACTIVE | HEARD | STATE
lon1 | 2 | - | 1.9 |  | here | 
lon1/a1 | 2 | - | 1.9 | 1.9 | 0s | level
lon1/a2 | 1 | - | 1.7 | 1.6 | 2d | REJECTED: entry 7: no; it keeps the last good state; correct the object above and the next entry lets all be tried again, or update the agent
lon1/a3 | 2 | - | 1.7 | 1.7 | 2d | it is behind: wait for its line, or carry ` + "`skerry intent export lon1`" + ` there
lon1/a4 | - | - | - | - | never | FORKED: 1 documents; somebody else signs with our keys: ` + "`skerry pki status`" + `, then a new writer or new roots; it keeps what it had before the fork
lon1/a5 | - | - | - | - | never | it was never heard: is it started, and does it reach the coordinator?
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	var res text
	resultTable(&res, &api.StickResult{
		Site: "lon1", By: "c1", Made: time.Now(), DryRun: true, Before: api.StreamHeads{Intent: h(3)}, After: api.StreamHeads{Intent: h(9)},
		Taken: map[string]int{"intent": 6, "trust": 0}, Known: map[string]int{"trust": 1}, Notes: []string{"look"},
		Refused: []api.StickRefusal{{Line: 4, Kind: "override", Why: "no"}, {Kind: "intent", Why: "fork"}}, Rejected: "entry 9", Partial: "cut",
	})
	const result = `stick of lon1 | by c1 | made 0s ago
trust | - | -> -
revocation | - | -> -
intent | 1.3 | -> 1.9
active | - | -> -
intent | 6 | would be taken
trust | 1 | known
note | look
refused, line 4 | override | no
refused | intent | fork
not in force | entry 9 | the last good state stays
not whole | cut | what came before it counts; take a whole file to go on
`
	if d := cmp.Diff(result, res.String()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}
