package succession

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
)

// Succession works on the store and the keys of one coordinator. All fields are set before use.
type Succession struct {
	Keys   founding.Keys
	Store  store.Store
	Trust  *publish.Trust
	Writer *publish.Writer
	Issuer *founding.Issuer
	Audit  *auditlog.Log
	// Add takes a signed document, as if by had brought it.
	Add func(ctx context.Context, by api.Caller, env *intent.Envelope) (*api.TrustResult, error)
	// Status says how far each agent has the streams, and when it was heard.
	Status func(ctx context.Context) (*api.KeyStatus, error)
	// Heads says how far the agents of a site have its intent, as they were last heard.
	Heads func(site string) map[string]intent.Head
	Sites func() []string
	// Publish brings a site's chain up to what is wanted, under the writer of now, and returns its head.
	Publish func(ctx context.Context, site string) (intent.Head, error)
	// Lacks says of each agent that does not show a certificate under the CA of this coordinator what it lacks.
	Lacks func(ctx context.Context) (map[string]string, error)
	Ask   func() // tells every agent the heads: it asks then what is wanted of its keys
	Now   func() time.Time

	mu sync.Mutex // held over a step
}

// record is what is kept of the rotation of one key, below recordKey.
type record struct {
	Started time.Time `json:"started"`
	From    string    `json:"from"` // the key or set that was in use then, hex
	Done    time.Time `json:"done,omitzero"`
}

const (
	recordPrefix = "succession/"
	offerKey     = "trust-offer"   // the document that holders are asked to sign
	requestKey   = "trust-request" // of the CA in it, which reads otherwise each time it is made
)

// SetKey is the key of a set of roots that a trust document announces or will announce: the document holds its digest alone.
func SetKey(d intent.Digest) string { return "roots/" + d.Hex() }

// step is one call.
type step struct {
	*Succession
	ctx  context.Context
	by   api.Caller
	q    api.RotateRequest
	rec  record
	body *intent.TrustBody
	st   *api.RotationStatus
	csr  []byte // of the CA that the next document is to certify
	lost bool   // the announced roots sign the next document alone
}

// Rotate begins the rotation of q.What, or goes on with it as far as it goes now.
func (s *Succession) Rotate(ctx context.Context, by api.Caller, q api.RotateRequest) (*api.RotationStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, shared := s.Store.(store.Shared); shared && s.behind(q.What) {
		return nil, api.Refuse("another coordinator over this store made the new key: ask that one, or copy its keys/ here and start this one again")
	}
	if (q.Lost || q.After > 0) && (q.What != api.RotateRoot || !q.Lost) {
		return nil, api.Refuse("lost roots are those of `root`, and a document to go on after is named with --lost")
	}
	x := &step{Succession: s, ctx: ctx, by: by, q: q}
	if err := x.open(); err != nil {
		return nil, err
	}
	if x.st.Phase == api.PhaseDone || q.DryRun {
		return x.st, nil
	}
	var err error
	switch q.What {
	case api.RotateWriter:
		err = x.writer()
	case api.RotateRoot:
		err = x.roots()
	case api.RotateCA:
		err = x.ca()
	case api.RotateFloor:
		err = x.floor()
	default:
		err = api.Refuse(fmt.Sprintf("cannot rotate %q: it is agent, ca, writer, root or floor", q.What))
	}
	if _, shared := s.Store.(store.Shared); shared && err == nil && x.st.Phase != api.PhaseAccept && q.What != api.RotateFloor {
		x.st.Next = strings.TrimSuffix("copy keys/ of this coordinator to the others over this store, and start them again; "+x.st.Next, "; ")
	}
	return x.st, err
}

// behind tells whether trust lists a key of that kind which is newer than the one here and was not made here.
func (s *Succession) behind(what string) bool {
	b := s.Trust.Body()
	switch what {
	case api.RotateWriter:
		i := listed(b, writerKey(s.Writer))
		return i < 0 || slices.ContainsFunc(b.Writers, func(w intent.Writer) bool {
			return w.Epoch > b.Writers[i].Epoch && w.State != intent.KeyRetire && !s.Writer.Waits(w.Key)
		})
	case api.RotateCA:
		own := s.Issuer.CA().Cert
		return slices.ContainsFunc(b.CAs, func(c intent.CACert) bool {
			cert, err := x509.ParseCertificate(c.Cert)
			return err == nil && c.State == intent.KeyUse && !bytes.Equal(c.Cert, own.Raw) && !s.Issuer.Waits(cert.RawSubjectPublicKeyInfo)
		})
	}
	return false
}

// open reads where the rotation stands, and begins it where it was not.
func (x *step) open() error {
	x.body = x.Trust.Body()
	x.st = &api.RotationStatus{What: x.q.What, Phase: api.PhaseAccept, Trust: x.Trust.Head(), Steps: []api.RotationStep{}, Ledger: []api.RotationRow{}}
	e, err := x.Store.Get(x.ctx, recordPrefix+x.q.What)
	begun := err == nil
	if begun {
		err = json.Unmarshal(e.Value, &x.rec)
	}
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return fmt.Errorf("cannot read how far the rotation is: %w", err)
	}
	if begun && x.rec.Done.IsZero() {
		x.st.Started = x.rec.Started
		if x.q.DryRun {
			x.st.Next = "a rotation is under way; without --dry-run it goes on"
		}
		return nil
	}
	if begun && !x.q.Again && x.q.What != api.RotateFloor {
		x.st.Started, x.st.Phase, x.st.Next = x.rec.Started, api.PhaseDone, "the last rotation is done; --again begins a new one"
		return nil
	}
	x.rec = record{Started: x.Now().UTC(), From: x.current()}
	x.st.Started = x.rec.Started
	if x.q.DryRun {
		x.st.Next = "nothing was changed; without --dry-run a new key is made, and the next trust document lists it"
		if x.q.Lost {
			x.st.Next = "nothing was changed; without --dry-run a document is offered that the announced roots sign alone, and that a person must accept here and at every agent"
		}
		if x.q.What == api.RotateFloor {
			x.st.Next = "nothing was changed; without --dry-run the next trust document says it"
		}
		return nil
	}
	return x.keep("rotate")
}

// current names the key, or set, that is in use.
func (x *step) current() string {
	switch x.q.What {
	case api.RotateRoot:
		return x.body.Roots.Digest().Hex()
	case api.RotateCA:
		return intent.DigestOf(x.Issuer.CA().Cert.RawSubjectPublicKeyInfo).Hex()
	}
	return intent.DigestOf(writerKey(x.Writer)).Hex()
}

// keep writes the record, with a line in the audit log.
func (x *step) keep(verb string) error {
	v, err := json.Marshal(x.rec)
	if err != nil {
		return fmt.Errorf("cannot encode rotation: %w", err)
	}
	return x.Audit.Write(x.ctx, x.by.Audit(verb, x.q.What, ""), func(line store.Commit) error {
		if line.Put == nil {
			line.Put = map[string][]byte{}
		}
		line.Put[recordPrefix+x.q.What] = v
		_, err := x.Store.Commit(x.ctx, line)
		return err
	})
}

func (x *step) done() error {
	x.st.Phase, x.rec.Done = api.PhaseDone, x.Now().UTC()
	return x.keep("rotated")
}

// propose makes change part of the trust stream. Where this host is the one holder it signs; else waits is true, the status carries the
// offer, and the holders are asked. The same change is offered in the same bytes until it is signed: holders add to them.
func (x *step) propose(next *intent.RootSet, change func(*intent.TrustBody)) (waits bool, err error) {
	o, err := x.offer(next, change)
	if err != nil {
		return false, err
	}
	h, err := x.Keys.Holder()
	if err != nil {
		return false, err
	}
	if h != nil {
		if _, _, err := h.Sign(o, holder.Mark{}, x.Now()); err != nil && !errors.Is(err, holder.ErrForeign) {
			return false, err
		}
	}
	env, err := o.Envelope()
	if err != nil {
		return false, err
	}
	if env == nil {
		raw, err := holder.EncodeOffer(o)
		if err != nil {
			return false, err
		}
		_, of, err := o.Count()
		if err != nil {
			return false, err
		}
		file := fmt.Sprintf("trust%d.json", o.Body.Seq)
		x.st.Offer = string(raw)
		x.st.Next = fmt.Sprintf("%s: holders run skerry pki sign %s until it has %d signatures, then run this command again", file, file, of)
		return true, nil
	}
	res, err := x.Add(x.ctx, x.by, env)
	if err != nil {
		return false, err
	}
	if res.Offered != nil {
		x.st.Next = acceptNext(res.Offered.Digest)
		return true, nil
	}
	x.body, x.st.Trust = x.Trust.Body(), x.Trust.Head()
	return false, nil
}

func (x *step) offer(next *intent.RootSet, change func(*intent.TrustBody)) (*holder.Offer, error) {
	head, docs := x.Trust.Head(), x.Trust.From(1)
	if x.lost {
		chain := x.Trust.Chain()
		head, docs = intent.Head{Seq: x.body.Seq, Hash: chain.HashAt(x.body.Seq)}, docs[:x.body.Seq-chain.First()+1]
	}
	body := *x.body
	body.Floor = nil // said once
	body.Header = document.Follow(head, intent.StreamTrust, 0, x.Now())
	body.Writers, body.CAs = slices.Clone(body.Writers), slices.Clone(body.CAs)
	change(&body)
	o := &holder.Offer{Chain: docs, Body: body, Next: next, Lost: x.lost}
	if x.csr != nil {
		o.CSR, o.CA = x.csr, fmt.Sprintf("C%d", len(body.CAs))
	}
	e, err := x.Store.Get(x.ctx, offerKey)
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return nil, err
	}
	if err == nil {
		old := &intent.TrustBody{}
		if err := json.Unmarshal(e.Value, old); err != nil {
			return nil, fmt.Errorf("cannot read what was offered: %w", err)
		}
		o.Body.Issued = old.Issued
		if same(&o.Body, old) {
			return o, x.request(o)
		}
		o.Body.Issued = body.Issued
	}
	v, err := json.Marshal(o.Body)
	if err != nil {
		return nil, fmt.Errorf("cannot encode trust document: %w", err)
	}
	put := map[string][]byte{offerKey: v, requestKey: o.CSR}
	for _, set := range []*intent.RootSet{next, x.q.Announced} {
		if set == nil {
			continue
		}
		if put[SetKey(set.Digest())], err = json.Marshal(set); err != nil {
			return nil, fmt.Errorf("cannot encode roots: %w", err)
		}
	}
	_, err = x.Store.Commit(x.ctx, store.Commit{Put: put})
	return o, err
}

// floor says in the next trust document how late it is at most: a wrong clock had raised what everybody believes to have passed.
func (x *step) floor() error {
	if x.q.Floor == nil {
		return api.Refuse("cannot lower the time floor: say to what time")
	}
	to := x.q.Floor.UTC().Truncate(time.Second)
	if now := x.body.Floor; now == nil || !now.Equal(to) {
		waits, err := x.propose(nil, func(b *intent.TrustBody) { b.Floor = &to })
		if err != nil || waits {
			return err
		}
	}
	return x.done()
}

// request puts the request that was offered before into o.
func (x *step) request(o *holder.Offer) error {
	if o.CSR == nil {
		return nil
	}
	e, err := x.Store.Get(x.ctx, requestKey)
	if err != nil {
		return fmt.Errorf("cannot read what was offered: %w", err)
	}
	o.CSR = e.Value
	return nil
}

func same(a, b *intent.TrustBody) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// ledger fills in how far each agent is: through says what it has still to do, empty for nothing. It returns who is waited for:
// the agents that were heard within --force-after, or all without it.
func (x *step) ledger(phase string, through func(site string, a api.AgentKeys) string) (have, of int, waited []string, err error) {
	ks, err := x.Status(x.ctx)
	if err != nil {
		return 0, 0, nil, err
	}
	force := time.Duration(x.q.ForceAfterSeconds) * time.Second
	for _, site := range ks.Sites {
		for _, a := range site.Agents {
			if a.State != intent.StateAgent {
				continue // a spare has no disk yet that could lag behind
			}
			of++
			row := api.RotationRow{Agent: site.Site + "/" + a.ID, Phase: api.PhaseDone, Since: x.rec.Started}
			if lacks := through(site.Site, a); lacks == "" {
				have++
			} else {
				row.Phase = phase
				since := x.rec.Started
				if a.Contact != nil {
					since = *a.Contact
				}
				if !a.Up {
					row.Since, row.Held = since, "offline: "+lacks
				}
				if force == 0 || x.Now().Sub(since) < force {
					waited = append(waited, row.Agent)
				}
			}
			x.st.Ledger = append(x.st.Ledger, row)
		}
	}
	return have, of, waited, nil
}

// waitFor ends the step: somebody is waited for.
func (x *step) waitFor(phase string, who []string) {
	x.st.Phase = phase
	shown := who[:min(len(who), 5)]
	x.st.Next = fmt.Sprintf("waits for %s; run this command again when they are back, or --force-after AGE", strings.Join(shown, ", "))
	if n := len(who) - len(shown); n > 0 {
		x.st.Next = fmt.Sprintf("waits for %s and %d more; run this command again when they are back, or --force-after AGE", strings.Join(shown, ", "), n)
	}
}

// Rotations lists what is under way.
func (s *Succession) Rotations(ctx context.Context) ([]api.RotationStatus, error) {
	var out []api.RotationStatus
	err := s.Store.Range(ctx, recordPrefix, "", func(e store.Entry) error {
		var rec record
		if err := json.Unmarshal(e.Value, &rec); err != nil {
			return fmt.Errorf("cannot read how far a rotation is: %w", err)
		}
		if rec.Done.IsZero() {
			what := e.Key[len(recordPrefix):]
			out = append(out, api.RotationStatus{
				What: what, Phase: api.PhaseAccept, Started: rec.Started, Trust: s.Trust.Head(), Steps: []api.RotationStep{}, Ledger: []api.RotationRow{},
				Next: "skerry pki rotate " + what + " goes on, and says how far it is",
			})
		}
		return nil
	})
	return out, err
}
