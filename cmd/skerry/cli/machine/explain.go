package machine

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
)

// explainText prints an explanation for people: each section has columns of its own.
func explainText(w io.Writer, e *api.Explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "machine %s/%s", e.Site, e.Machine)
	if e.Status != nil {
		fmt.Fprintf(&b, " is %s since %s", strings.TrimSpace(string(e.Status.State)+" "+e.Status.Phase), e.Status.Since.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, "\nintent head %d.%d %s\n", e.Head.Epoch, e.Head.Seq, e.Head.Hash.Short())
	for _, s := range e.Sections {
		width := 0
		for _, f := range s.Facts {
			width = max(width, min(len(f.Name), maxFactName))
		}
		fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(s.Title))
		for _, f := range s.Facts {
			fmt.Fprintf(&b, "  %-*s  %s\n", width, f.Name, f.Value)
		}
	}
	b.WriteString("\nEVENTS\n")
	for _, ev := range e.Events {
		fmt.Fprintf(&b, "  %s  %-4s  %-26s  %s\n", ev.Time.UTC().Format("15:04:05.000"), ev.Agent, ev.Type, ev.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxFactName is how far the values of a section are indented at most; a longer name moves its own value only.
const maxFactName = 48
