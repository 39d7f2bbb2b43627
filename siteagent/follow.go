package siteagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/intake"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// heads are what this agent has active.
func (a *Agent) heads() uplink.Heads {
	st := a.site.State()
	return uplink.Heads{Trust: a.replica.TrustHead(), Revocation: a.replica.RevocationHead(), Intent: st.Head}
}

// targets lists the coordinators of the trust document, after the address that the agent joined at.
func (a *Agent) targets() []uplink.Target {
	var out []uplink.Target
	for _, c := range a.replica.Coordinators() {
		out = append(out, uplink.Target{ID: c.ID, Addr: c.Addr, Priority: 1})
	}
	if len(a.id.Coordinator) > 0 {
		out = append(out, uplink.Target{Addr: a.id.Coordinator, Priority: 0})
	}
	return out
}

// onUp offers the overrides, and what the audit chains hold beyond the coordinator's, as soon as a session stands.
func (a *Agent) onUp(ctx context.Context, _ uplink.Welcome) {
	a.gossip.SetTags(func(t *gossip.Tags) { t.WAN = true })
	a.fresh.Kick()
	a.audit.Kick()
	a.proposeAdmissions(ctx)
	a.propose(ctx)
}

// proposeAdmissions brings up which spares took a place here; the roster is the answer.
func (a *Agent) proposeAdmissions(ctx context.Context) {
	for _, env := range a.members.Admissions() {
		b, err := document.Encode(env)
		if err != nil {
			a.cfg.Logger.Error("admission not encoded", "err", err)
			continue
		}
		if status, answer, err := a.post(ctx, "/u/1/admissions", b); err != nil || status != http.StatusOK {
			a.cfg.Logger.Warn("admission not taken", "status", status, "answer", answer, "err", err)
		}
	}
}

// session is the coordinator for the audit log; ok is false while there is none.
func (a *Agent) session() (auditlog.Above, bool) {
	return auditlog.Session{RT: a.uplink.RoundTripper()}, a.uplink.Status().Up
}

// onHeads pulls what the coordinator has beyond us. It returns what may go better the next time.
func (a *Agent) onHeads(ctx context.Context, h uplink.Heads) (again error) {
	failed := func(what string, err error) {
		a.cfg.Logger.Warn(what+" not pulled", "err", err)
		if !document.Refused(err) {
			again = err
		}
	}
	last := a.above.Swap(&h)
	rt := a.uplink.RoundTripper()
	chain := a.replica.TrustChain()
	if own := chain.Head; h.Trust.Seq > 0 && chain.HashAt(h.Trust.Seq) != h.Trust.Hash { // in one of our places: evidence, or it is offered
		if err := a.desk.PullTrust(ctx, rt, "http://coordinator/u/1/trust", min(h.Trust.Seq, own.Seq+1)); err != nil && !errors.Is(err, document.ErrOffered) { // told once, by the desk
			failed("trust", err)
		}
	}
	if h.Revocation.Compare(a.replica.RevocationHead()) > 0 {
		if err := a.desk.PullRevocations(ctx, rt, "http://coordinator/u/1/revocations"); err != nil {
			failed("revocations", err)
		}
	}
	a.chain.Want(h.Intent)
	a.uplink.Applied(a.heads())
	a.rekey.Kick() // heads are also told when the coordinator wants keys
	a.propose(ctx)
	if last != nil && *last == h { // told again, and nothing moved: it wants something of an agent
		a.mesh.Call(ctx)
	}
	return again
}

// closeGone ends the sessions of who may not speak any more, and returns how many.
func (a *Agent) closeGone() int {
	v := a.replica.View()
	if v == nil || a.end == nil {
		return 0
	}
	return a.end.CloseIf(func(id trust.Identity) bool { return !v.Admits(id) })
}

// moved tells peers and the coordinator where a stream is.
func (a *Agent) moved(stream string, head intent.Head) {
	if a.uplink != nil { // else a stick is read before anybody listens
		a.setHead(stream, head)
		a.uplink.Applied(a.heads())
	}
}

// auditRefusal keeps what was refused, in the audit chain and as an event: replayed, forked, truncated or other-site documents,
// and peers who may not speak.
func (a *Agent) auditRefusal(kind string, err error) {
	if err == nil {
		return
	}
	if a.audit == nil { // a stick that is read before anything is wired: who started the agent is told
		return
	}
	r := intent.AuditRecord{Via: "agent", Verb: kind, Result: intent.AuditRefused, Reason: err.Error()}
	if jerr := a.audit.Keep(context.Background(), r, reconcile.Event("", "", intent.Epoch{}, kind, err.Error(), nil)); jerr != nil {
		a.cfg.Logger.Error("refusal not kept in the audit log", "err", jerr)
	}
}

// note keeps what a person did, and an event beside it.
func (a *Agent) note(ctx context.Context, r intent.AuditRecord, kind, message string) error {
	drafts := []claim.Draft{a.audit.Draft(r)}
	if kind != "" {
		drafts = append(drafts, reconcile.Event("", "", intent.Epoch{}, kind, message, nil))
	}
	return a.journal.Append(ctx, claim.Local, drafts...)
}

// peerPull is how often peers are asked without a hint: gossip's heads are the normal way.
const peerPull = 15 * time.Second

// follow pulls intent from peers that hold more: the agent without a session lives from it.
func (a *Agent) follow(ctx context.Context) error {
	a.setHead(intent.StreamIntent, a.site.State().Head)
	a.setHead(intent.StreamRevocation, a.replica.RevocationHead())
	a.moved(intent.StreamTrust, a.replica.TrustHead())
	from := intake.Peers{Desk: a.desk}
	t := time.NewTicker(peerPull)
	defer t.Stop()
	for {
		st := a.site.State()
		a.setHead(intent.StreamIntent, st.Head)
		a.members.CloseGone()
		for _, m := range a.gossip.Members() {
			if m.ID != a.id.Agent && m.Alive {
				from.Follow(ctx, m.ID, a.end.RoundTripper(m.Peer), m.Tags)
			}
		}
		a.claims.Meet(ctx)
		a.recover(ctx)
		a.uplink.Reconsider()
		select {
		case <-ctx.Done():
			return nil
		case e := <-a.gossip.Events():
			a.noteMember(e)
		case <-st.Wake:
		case <-t.C:
		}
	}
}

// recover ends the recovery of a restored or damaged store once it is level: with the marks, with peers that hold our own
// chain, and with what enough of them know of our promises. An agent that is alone is level when its coordinator has brought the intent up to the marks.
func (a *Agent) recover(ctx context.Context) {
	if !a.db.Recovering() || !a.site.Level() || !a.journal.Level() || !a.site.Counts() {
		return
	}
	alone := len(a.site.State().Roster.Agents) == 1
	if len(a.mesh.Live()) == 0 && !(alone && a.uplink.Status().Up) {
		return
	}
	if err := a.claims.Recover(ctx); err != nil {
		a.cfg.Logger.Warn("still recovering", "err", err)
		return
	}
	if err := a.db.Recovered(); err != nil {
		a.cfg.Logger.Error("recovery not ended", "err", err)
		return
	}
	a.cfg.Logger.Info("level with peers and marks again")
	if err := a.journalEvent("agent.recovered", a.id.Agent+" is level with its peers and marks again"); err != nil {
		a.cfg.Logger.Warn("event not journaled", "err", err)
	}
}

// journalEvent writes one event of the agent itself.
func (a *Agent) journalEvent(kind, message string) error {
	return a.journal.Append(context.Background(), claim.Local, reconcile.Event("", "", intent.Epoch{}, kind, message, nil))
}

func (a *Agent) noteMember(e gossip.Event) {
	if e.Kind != gossip.EventAlive && e.Kind != gossip.EventDead {
		return
	}
	if err := a.journalEvent("agent."+string(e.Kind), fmt.Sprintf("%s is %s, seen by %s", e.Member.ID, e.Kind, a.id.Agent)); err != nil {
		a.cfg.Logger.Warn("event not journaled", "err", err)
	}
}

// cutOff tells whether the coordinator cannot be reached now. A session that looks up is asked: it may have died without a
// word, and a user should not wait for its timeout.
func (a *Agent) cutOff(ctx context.Context) bool {
	if !a.uplink.Status().Up {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, askCoordinator)
	defer cancel()
	res, err := uplink.Get(ctx, a.uplink.RoundTripper(), fmt.Sprintf("http://coordinator/u/1/trust?from=%d", a.replica.TrustHead().Seq+1))
	if err != nil {
		return true
	}
	return res.Body.Close() != nil
}

// askCoordinator is how long a coordinator may take to answer before a site counts as cut off for a change.
const askCoordinator = 3 * time.Second

// propose offers every unsettled override; the answer comes by the chain, as an ack.
func (a *Agent) propose(ctx context.Context) {
	if !a.proposing.TryLock() {
		return // somebody is at it; what he does not see yet goes with the next report
	}
	defer a.proposing.Unlock()
	for _, rec := range a.over.pending() {
		b, err := json.Marshal(rec.Envelope)
		if err != nil {
			a.cfg.Logger.Error("override not encoded", "override", rec.Doc.ID, "err", err)
			return
		}
		status, answer, err := a.post(ctx, "/u/1/overrides", b)
		if err != nil {
			a.cfg.Logger.Warn("override not proposed", "override", rec.Doc.ID, "err", err)
			return
		}
		kind := "override.proposed"
		if status != http.StatusOK {
			kind = "override.refused"
		}
		if a.answered[rec.Doc.ID] == answer {
			continue // the same answer as last time
		}
		a.answered[rec.Doc.ID] = answer
		if err := a.journalEvent(kind, rec.Doc.ID+": "+answer); err != nil {
			a.cfg.Logger.Warn("event not journaled", "err", err)
		}
	}
}

func (a *Agent) post(ctx context.Context, path string, body []byte) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://coordinator"+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := a.uplink.RoundTripper().RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	return res.StatusCode, string(bytes.TrimSpace(b)), err
}

const (
	reportEvery = time.Second      // at most that often when things move
	reportAlive = 30 * time.Second // and at least that often
)

// reports tells the coordinator how the site is doing, when it changed.
func (a *Agent) reports(ctx context.Context) error {
	sent := uint64(0)
	last, session := time.Time{}, time.Time{}
	for {
		if !sleep(ctx, reportEvery) {
			return nil
		}
		rev, up := a.backend.revision(), a.uplink.Status()
		up.Up = up.Up && !up.Resting // nothing is reported that those who hold sessions report too
		if rev != sent && up.Up {
			a.proposeAdmissions(ctx)
		}
		if !up.Up || (rev == sent && time.Since(last) < reportAlive) {
			continue
		}
		if up.Since.Equal(session) && time.Since(last) < uplink.VisitEvery && !a.mesh.Holds() {
			sent = rev // a visit: of the site those tell that hold sessions
			continue
		}
		b, err := json.Marshal(a.backend.report(a.life))
		if err != nil {
			return fmt.Errorf("cannot encode report: %w", err)
		}
		if _, _, err := a.post(ctx, "/u/1/report", b); err != nil {
			a.cfg.Logger.Debug("report not sent", "err", err)
			continue
		}
		sent, last, session = rev, time.Now(), up.Since
		a.propose(ctx) // what was taken while the session stood and was too slow for a user to wait for
	}
}

// reverse serves the coordinator's questions over the session: reads only, as an auditor.
func (a *Agent) reverse() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sites/{site}/status", func(w http.ResponseWriter, r *http.Request) {
		s, err := a.backend.SiteStatus(r.Context(), r.PathValue("site"))
		answerReverse(w, s, err)
	})
	mux.HandleFunc("GET /v1/sites/{site}/intent", a.mesh.GiveIntent) // for a coordinator that lost it
	inner := telemetry.Inner(a.history)
	mux.Handle("GET /v1/sites/{site}/series", inner)
	mux.Handle("GET /v1/sites/{site}/query", inner)
	mux.HandleFunc("GET /m/1/trust", a.mesh.GiveTrust)
	mux.HandleFunc("GET /m/1/revocations", a.mesh.GiveRevocations)
	mux.HandleFunc("GET /v1/sites/{site}/machines/{machine}/explain", func(w http.ResponseWriter, r *http.Request) {
		e, err := a.backend.Explain(r.Context(), r.PathValue("site"), r.PathValue("machine"))
		answerReverse(w, e, err)
	})
	mux.HandleFunc("GET /v1/sites/{site}/receipts", func(w http.ResponseWriter, r *http.Request) {
		l, err := a.proofs.Receipts(r.Context(), r.PathValue("site"), r.URL.Query().Get("machine"))
		answerReverse(w, l, err)
	})
	mux.HandleFunc("GET /v1/sites/{site}/discovered", func(w http.ResponseWriter, r *http.Request) {
		l, err := a.strange.Discovered(r.Context(), r.PathValue("site"), r.URL.Query().Get("machine"))
		answerReverse(w, l, err)
	})
	a.traffic.Reverse(mux)
	mux.HandleFunc("GET /v1/sites/{site}/events", func(w http.ResponseWriter, r *http.Request) {
		q := api.EventQuery{Site: r.PathValue("site"), Machine: r.URL.Query().Get("machine"), Follow: r.URL.Query().Get("follow") == "true"}
		if s := r.URL.Query().Get("since"); s != "" {
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				http.Error(w, "since is no time", http.StatusBadRequest)
				return
			}
			q.Since = t
		}
		enc, rc := json.NewEncoder(w), http.NewResponseController(w)
		err := a.backend.Events(r.Context(), q, func(e intent.Event) error {
			if err := enc.Encode(e); err != nil {
				return err
			}
			return rc.Flush()
		})
		if err != nil && r.Context().Err() == nil {
			a.cfg.Logger.Debug("event stream ended", "err", err)
		}
	})
	return mux
}

func answerReverse(w http.ResponseWriter, v any, err error) {
	if e, ok := errors.AsType[*api.Error](err); ok {
		answerJSON(w, e.Status, map[string]any{"status": e.Status, "detail": e.Detail})
		return
	}
	if err != nil {
		answerJSON(w, http.StatusInternalServerError, map[string]any{"status": http.StatusInternalServerError, "detail": err.Error()})
		return
	}
	answerJSON(w, http.StatusOK, v)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a broken session is noticed by its owner
}

// keepMarks saves the time floor now and then.
func (a *Agent) keepMarks(ctx context.Context) error {
	for sleep(ctx, marksEvery) {
		if err := a.site.SaveMarks(); err != nil {
			a.cfg.Logger.Error("marks not saved", "err", err)
		}
	}
	return nil
}

// addressesOf implements transport.Resolver from the roster, and for other sites from the agents that the intent names.
func (a *Agent) addressesOf(p transport.Peer) []string {
	if p.Site != a.id.Site {
		if s, _, ok := intent.Lookup[*intent.AgentSpec](a.site.Now().Overlay.Catalog, intent.KindAgent, p.Site, p.ID); ok {
			return []string{s.Management}
		}
		return nil
	}
	for _, r := range a.replica.State().Roster.Agents {
		if r.ID == p.ID {
			return r.Addr
		}
	}
	return nil
}

// marksEvery is how often the floor is saved (trust.md section 2).
const marksEvery = 10 * time.Minute
