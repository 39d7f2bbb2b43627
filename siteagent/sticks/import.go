package sticks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// errWay says that a document is on the wrong stick.
var errWay = errors.New("it goes up, and is not a site's to take")

// ImportStick implements api.Documents.
func (d *Desk) ImportStick(ctx context.Context, by api.Caller, site string, r io.Reader, dryRun bool) (*api.StickResult, error) {
	if site != d.Site {
		return nil, api.ErrNotFound
	}
	res, err := d.Take(ctx, r, dryRun)
	if err != nil || dryRun {
		return res, err
	}
	line := by.Audit("intent.import", "Site "+site, fmt.Sprintf("stick of %s, made %s: %v taken, %d refused", res.By, res.Made.UTC().Format("2006-01-02 15:04"), res.Taken, len(res.Refused)))
	return res, d.Note(ctx, line)
}

// Take takes a stick that came from a coordinator. What verified is on disk when it returns, also of a file that breaks off.
// Errors: *api.Error 422 for what is no stick for this site; a document that is refused is told in the result.
func (d *Desk) Take(ctx context.Context, r io.Reader, dryRun bool) (*api.StickResult, error) {
	rd, err := stick.NewReader(r)
	if err != nil {
		return nil, invalid(err.Error())
	}
	switch h := rd.Header; {
	case h.Way != stick.Down:
		return nil, invalid("this stick goes up: take it to a coordinator, `skerry site import`")
	case h.Site != d.Site || h.Domain != d.Domain:
		return nil, invalid(fmt.Sprintf("this stick is for site %s of %s, this is %s of %s", h.Site, h.Domain, d.Site, d.Domain))
	}
	t := &taking{d: d, ctx: ctx, rd: rd, res: &api.StickResult{
		Site: d.Site, By: rd.Header.By, Made: rd.Header.Made, DryRun: dryRun, Before: d.heads(), Taken: map[string]int{}, Known: map[string]int{},
	}}
	if dryRun {
		t.rehearse(d.In.Replica.Rehearse())
	} else {
		t.take()
	}
	if t.end != nil && !errors.Is(t.end, io.EOF) {
		t.res.Partial = t.end.Error()
	}
	return t.res, ctx.Err()
}

func invalid(detail string) error {
	return &api.Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: detail}
}

// heads are those of the replica now.
func (d *Desk) heads() api.StreamHeads {
	st := d.In.Replica.State()
	return api.StreamHeads{Trust: d.In.Replica.TrustHead(), Revocation: d.In.Replica.RevocationHead(), Intent: st.Staged, Active: st.Head}
}

// taking is one stick on its way in.
type taking struct {
	d    *Desk
	ctx  context.Context
	rd   *stick.Reader
	res  *api.StickResult
	line *stick.Line // the one to be looked at
	back bool        // next gives it once more
	end  error       // why there are no more lines

	offered bool // a trust document waits for a person, and those that follow it are passed over
}

// next moves to the next line.
func (t *taking) next() bool {
	if t.end == nil && !t.back {
		t.line, t.end = t.rd.Next()
	}
	t.back = false
	if t.end == nil {
		t.end = t.ctx.Err()
	}
	return t.end == nil
}

// count notes what became of one document.
func (t *taking) count(kind string, fresh bool, err error) {
	switch {
	case err != nil:
		t.res.Refuse(t.rd.Line, kind, err)
	case fresh:
		t.res.Taken[kind]++
	default:
		t.res.Known[kind]++
	}
}

// trust notes what became of a trust document. One that waits for a person is not refused.
func (t *taking) trust(fresh bool, err error) {
	if t.offered = errors.Is(err, document.ErrOffered); t.offered {
		t.res.Notes = append(t.res.Notes, err.Error())
		return
	}
	t.count(intent.StreamTrust, fresh, err)
}

// take brings every document to the desk that takes a session's too.
func (t *taking) take() {
	in := t.d.In
	for t.next() {
		kind, env := t.line.Kind()
		switch kind {
		case intent.StreamTrust:
			if t.offered {
				continue // it follows what nobody accepted yet
			}
			was := in.Replica.TrustHead()
			err := in.Trust([]*intent.Envelope{env})
			t.trust(in.Replica.TrustHead() != was, err)
		case intent.StreamRevocation:
			was, n := in.Replica.RevocationHead(), in.Replica.Revocations().Len()
			err := in.Revocations([]*intent.Envelope{env})
			t.count(kind, in.Replica.RevocationHead() != was || in.Replica.Revocations().Len() != n, err)
		case intent.StreamIntent:
			t.entries()
			t.back = t.end == nil // at the line after them
		default:
			t.count(kind, false, errWay)
		}
	}
	t.res.After = t.d.heads()
	t.res.Rejected = in.Replica.State().Rejected
}

// entries takes the run of intent that begins at the present line. After one that is refused the rest of the run is passed over: it
// follows what is not here.
func (t *taking) entries() {
	seen, after := 0, 0
	fresh, err := t.d.In.Intent(t.ctx, func(take func(*intent.Envelope, int) error) error {
		for ok := true; ok && t.line.Intent != nil; ok = t.next() {
			seen++
			if err := take(t.line.Intent, len(t.line.Intent.Payload)); err != nil {
				return err
			}
		}
		return nil
	})
	for t.end == nil && t.line.Intent != nil {
		after++
		if !t.next() {
			break
		}
	}
	if fresh > 0 {
		t.res.Taken[intent.StreamIntent] += fresh
	}
	if err == nil && seen > fresh {
		t.res.Known[intent.StreamIntent] += seen - fresh
	}
	if err == nil {
		return
	}
	if after > 1 {
		err = fmt.Errorf("%w; %d entries after it were passed over", err, after-1)
	}
	t.res.Refuse(0, intent.StreamIntent, err)
}

// rehearse verifies everything and keeps nothing.
func (t *taking) rehearse(r *replica.Rehearsal) {
	broken := false
	for t.next() {
		kind, env := t.line.Kind()
		var fresh bool
		err := errWay
		switch {
		case kind == intent.StreamTrust && t.offered:
			continue
		case kind == intent.StreamTrust:
			fresh, err = r.Trust(env)
			t.trust(fresh, err)
			continue
		case kind == intent.StreamRevocation:
			fresh, err = r.Revocation(env)
		case kind == intent.StreamIntent && broken:
			continue
		case kind == intent.StreamIntent:
			fresh, err = r.Intent(env)
			broken = err != nil
		}
		t.count(kind, fresh, err)
	}
	o, err := r.End()
	if err != nil {
		t.res.Refuse(0, intent.StreamIntent, err)
	}
	t.res.After = api.StreamHeads{Trust: o.Trust, Revocation: o.Revocation, Intent: o.Staged, Active: o.Staged}
	if t.res.Rejected = o.Rejected; o.Rejected != "" {
		t.res.After.Active = t.res.Before.Active
	}
}
