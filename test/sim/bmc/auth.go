package bmc

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// sessionIdle is how long an unused session lives: the default of most controllers.
const sessionIdle = 30 * time.Minute

// sessionCap is the number of sessions without the fault; iDRAC allows 8, iLO 13, OpenBMC 64.
const sessionCap = 64

type session struct {
	id, token string
	used      time.Time
}

// allowed tells whether r may go on: the service root and a login are open, all else needs a session or basic auth.
func (b *BMC) allowed(r *http.Request) bool {
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case path == "/redfish" || path == "/redfish/v1" || path == "/redfish/v1/odata" || path == "/redfish/v1/$metadata":
		return true
	case r.Method == http.MethodPost && path == "/redfish/v1/SessionService/Sessions":
		return true
	}
	if user, pass, ok := r.BasicAuth(); ok {
		return b.login(user, pass)
	}
	token := r.Header.Get("X-Auth-Token")
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, s := range b.sessions {
		if time.Since(s.used) > sessionIdle {
			delete(b.sessions, id)
			continue
		}
		if token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1 {
			s.used = time.Now()
			return true
		}
	}
	return false
}

func (b *BMC) login(user, pass string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults[Lockout3] && b.failed >= 3 {
		return false
	}
	if user != b.cfg.User || pass != b.password {
		b.failed++
		return false
	}
	b.failed = 0
	return true
}

func (b *BMC) postSession(w http.ResponseWriter, r *http.Request) {
	var body struct{ UserName, Password string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		fail(w, http.StatusBadRequest, "Base.1.8.MalformedJSON", "The request body submitted was malformed JSON.")
		return
	}
	if b.has(LoginSlow) {
		t := time.NewTimer(b.cfg.LoginTime)
		defer t.Stop()
		select {
		case <-r.Context().Done():
			return
		case <-t.C:
		}
	}
	if !b.login(body.UserName, body.Password) {
		fail(w, http.StatusUnauthorized, "Base.1.8.InsufficientPrivilege", "The account or password is not valid.")
		return
	}
	b.mu.Lock()
	limit := sessionCap
	if b.faults[SessionCap8] {
		limit = 8
	}
	if len(b.sessions) >= limit {
		b.mu.Unlock()
		fail(w, http.StatusServiceUnavailable, "Base.1.8.SessionLimitExceeded",
			"The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.")
		return
	}
	b.nextID++
	s := &session{id: strconv.Itoa(b.nextID), token: rand.Text(), used: time.Now()}
	b.sessions[s.id] = s
	b.mu.Unlock()
	w.Header().Set("X-Auth-Token", s.token)
	w.Header().Set("Location", sessionsPath+"/"+s.id)
	answer(w, http.StatusCreated, sessionDoc(s.id, body.UserName))
}

const sessionsPath = "/redfish/v1/SessionService/Sessions"

func sessionDoc(id, user string) map[string]any {
	return map[string]any{"@odata.id": sessionsPath + "/" + id, "@odata.type": "#Session.v1_3_0.Session", "Id": id, "Name": "User Session", "UserName": user}
}

func (b *BMC) listSessions(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	var ids []string
	for id := range b.sessions {
		ids = append(ids, id)
	}
	b.mu.Unlock()
	answer(w, http.StatusOK, collection(sessionsPath, "#SessionCollection.SessionCollection", ids...))
}

func (b *BMC) getSession(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	_, ok := b.sessions[r.PathValue("id")]
	b.mu.Unlock()
	if !ok {
		missing(w, r)
		return
	}
	answer(w, http.StatusOK, sessionDoc(r.PathValue("id"), b.cfg.User))
}

func (b *BMC) deleteSession(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	b.mu.Lock()
	_, ok := b.sessions[id]
	if !b.faults[SessionLeak] {
		delete(b.sessions, id)
	}
	b.mu.Unlock()
	if !ok {
		missing(w, r)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
