package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/console"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
)

// Prefix is where agents of a site ask each other.
const Prefix = "/m/1/console/"

// The headers in which an agent says for whom it asks: it has authenticated him, and found that he may.
const (
	userHeader = "Skerry-User"
	viaHeader  = "Skerry-Via"
)

const (
	// adoptLimit is how much of a console's history one agent takes over from another, in octets of its file.
	adoptLimit = 1 << 20
	adoptWait  = 3 * time.Second // for a peer that is alive
	adoptTries = 3
	maxRefusal = 4096
)

// Peer answers other agents of the site.
func (k *Keeper) Peer() http.Handler {
	mux := http.NewServeMux()
	serve := func(w http.ResponseWriter, r *http.Request) {
		s := consoles.Session{User: r.Header.Get(userHeader), Via: r.Header.Get(viaHeader)}
		err := consoles.Serve(w, r, here{k}, s, func(ctx context.Context) { <-ctx.Done() }) // who asks watches whether he may
		if e, ok := errors.AsType[*api.Error](err); ok {
			http.Error(w, e.Detail, e.Status)
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
	mux.HandleFunc("GET "+Prefix+"{site}/{machine}", serve)
	mux.HandleFunc("POST "+Prefix+"{site}/{machine}", serve)
	mux.HandleFunc("GET "+Prefix+"{site}/{machine}/records", k.giveRecords)
	return mux
}

// here is what this agent holds itself: a question is passed on once.
type here struct{ k *Keeper }

// Console implements consoles.Holder.
func (h here) Console(ctx context.Context, s consoles.Session) error {
	if c := h.k.held(s.Machine); c != nil && s.Site == h.k.cfg.Site {
		return h.k.sit(ctx, c, s)
	}
	return h.k.nobody(s.Machine)
}

func (k *Keeper) path(machine, more string) string {
	return "http://peer" + Prefix + url.PathEscape(k.cfg.Site) + "/" + url.PathEscape(machine) + more
}

// relay seats a person at a console that another agent holds.
func (k *Keeper) relay(ctx context.Context, agent string, s consoles.Session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method := http.MethodGet
	var body io.Reader
	if s.In != nil {
		method, body = http.MethodPost, io.NopCloser(s.In)
		stop := context.AfterFunc(ctx, s.Unblock)
		defer stop()
	}
	req, err := http.NewRequestWithContext(ctx, method, k.path(s.Machine, "?"+s.Values().Encode()), body)
	if err != nil {
		return err
	}
	req.Header.Set(userHeader, s.User)
	req.Header.Set(viaHeader, s.Via)
	res, err := k.cfg.Peer(agent).RoundTrip(req)
	if err != nil {
		return api.Refuse(fmt.Sprintf("agent %s holds the console of %s and does not answer: %v", agent, s.Machine, err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal)) // what came of it says enough
		return &api.Error{Status: res.StatusCode, Type: "refused", Detail: fmt.Sprintf("agent %s: %s", agent, bytes.TrimSpace(b))}
	}
	_, err = io.Copy(s.Out, res.Body)
	if s.In != nil {
		s.Unblock() // what carries it to the other agent reads it still
	}
	return err
}

// giveRecords answers what this agent has of a console since a time.
func (k *Keeper) giveRecords(w http.ResponseWriter, r *http.Request) {
	since, err := time.Parse(time.RFC3339Nano, r.URL.Query().Get("since"))
	if err != nil || r.PathValue("site") != k.cfg.Site {
		http.Error(w, "site or since does not fit", http.StatusBadRequest)
		return
	}
	err = k.store.Records(r.PathValue("machine"), since, adoptLimit, func(line []byte) error {
		_, err := w.Write(line)
		return err
	})
	if err != nil {
		k.cfg.Log.Debug("history of console not given", "machine", r.PathValue("machine"), "err", err)
	}
}

// adopt takes over what other agents showed of a console since this one held it last: each is asked once, or a few times if it does not
// answer, and the one that showed something last has it all. Clocks differ: what one that leads has would be newer than ours each time.
func (k *Keeper) adopt(ctx context.Context, machine string, h *held) {
	type answer struct {
		agent string
		shown []byte
		last  time.Time
		err   error
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(ctx, adoptWait)
	defer cancel()
	live := k.cfg.Live()
	answers := make(chan answer, len(live))
	for _, agent := range live {
		if h.asked[agent] < adoptTries {
			wg.Go(func() {
				shown, err := k.fetch(ctx, agent, machine, h.heard)
				answers <- answer{agent, shown, lastOf(shown), err}
			})
		}
	}
	wg.Wait()
	close(answers)
	var newest answer
	for a := range answers {
		if h.asked[a.agent]++; a.err != nil {
			k.cfg.Log.Debug("history of console not taken over", "machine", machine, "from", a.agent, "err", a.err)
			continue
		}
		h.asked[a.agent] = adoptTries
		if a.last.After(newest.last) {
			newest = a
		}
	}
	if newest.last.IsZero() {
		return
	}
	n, err := h.history.Adopt(bytes.NewReader(newest.shown), adoptLimit)
	if err != nil {
		k.cfg.Log.Debug("history of console not taken over", "machine", machine, "from", newest.agent, "err", err)
	}
	h.heard = newest.last // before our own word
	h.Mark(fmt.Sprintf("agent %s takes the console over from %s", k.cfg.Self, newest.agent))
	k.event(machine, "console.handover", fmt.Sprintf("agent %s has the console, %s had it", k.cfg.Self, newest.agent), map[string]string{"from": newest.agent, "to": k.cfg.Self, "records": fmt.Sprint(n)})
}

// lastOf is the time of the last record of shown; zero: there is none.
func lastOf(shown []byte) (last time.Time) {
	for line := range bytes.Lines(shown) {
		if r, err := console.ParseRecord(bytes.TrimSuffix(line, []byte("\n"))); err == nil {
			last = r.Time
		}
	}
	return last
}

// fetch asks an agent for the records of a console since a time.
func (k *Keeper) fetch(ctx context.Context, agent, machine string, since time.Time) ([]byte, error) {
	more := url.Values{"since": {since.Format(time.RFC3339Nano)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.path(machine, "/records?"+more.Encode()), nil)
	if err != nil {
		return nil, err
	}
	res, err := k.cfg.Peer(agent).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s", res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, adoptLimit))
}
