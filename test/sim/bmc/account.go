package bmc

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

const accountsPath = "/redfish/v1/AccountService/Accounts"

// ourAccount is the slot of Config.User. The first one is empty, as on an iDRAC; the third belongs to somebody else.
const ourAccount = "2"

// passwordMax is the longest password; IPMI keeps 20 octets (IPMI 2.0, section 22.30).
const passwordMax = 20

// accounts are the user names by slot. The caller holds mu.
func (b *BMC) accounts() map[string]string {
	out := map[string]string{"1": "", ourAccount: b.cfg.User, "3": "operator"}
	for i, name := range b.more {
		out[strconv.Itoa(4+i)] = name
	}
	return out
}

// AddAccount makes an account as somebody with a root shell on the machine could. Nobody logs in with it here.
func (b *BMC) AddAccount(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.more = append(b.more, name)
}

func (b *BMC) listAccounts(w http.ResponseWriter, _ *http.Request) {
	var ids []string
	b.mu.Lock()
	for id := range b.accounts() {
		ids = append(ids, id)
	}
	b.mu.Unlock()
	answer(w, http.StatusOK, collection(accountsPath, "#ManagerAccountCollection.ManagerAccountCollection", ids...))
}

func (b *BMC) getAccount(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	b.mu.Lock()
	name, ok := b.accounts()[id]
	if !ok {
		b.mu.Unlock()
		missing(w, r)
		return
	}
	locked := b.faults[Lockout3] && b.failed >= 3 && id == ourAccount
	w.Header().Set("ETag", b.etag())
	b.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{
		"@odata.id": accountsPath + "/" + id, "@odata.type": "#ManagerAccount.v1_8_0.ManagerAccount", "Id": id, "Name": "User Account",
		"UserName": name, "Password": nil, "RoleId": map[bool]string{true: "Administrator", false: "None"}[name == b.cfg.User], "Enabled": name != "", "Locked": locked,
	})
}

// patchAccount changes a password, or does what the faults say.
func (b *BMC) patchAccount(w http.ResponseWriter, r *http.Request) {
	var body struct{ Password *string }
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil || body.Password == nil {
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyUnknown", "Only the password of an account can be changed.")
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id, next := r.PathValue("id"), *body.Password
	name, ok := b.accounts()[id]
	switch {
	case !ok:
		missing(w, r)
		return
	case b.refuseBusy(w), b.refuseMatch(w, r.Header.Get("If-Match")):
		return
	case b.faults[PasswordDenied]:
		fail(w, http.StatusForbidden, "Base.1.8.InsufficientPrivilege", "There are insufficient privileges for the account to perform the requested operation.")
		return
	case name == "":
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyValueConflict", "The account has no user name.")
		return
	case len(next) < 8 || len(next) > passwordMax || b.faults[PasswordPolicy] && !strings.ContainsAny(next, "!#%+,-./:=?@_"):
		fail(w, http.StatusBadRequest, "Base.1.8.PropertyValueFormatError", "The password does not meet the password policy of this controller.", "Password")
		return
	}
	if id == ourAccount && !b.faults[PasswordIgnored] {
		b.password = next
		b.version++
		if b.faults[PasswordLogout] {
			clear(b.sessions)
		}
	}
	if b.faults[PasswordLost] {
		panic(http.ErrAbortHandler) // the connection breaks before the answer
	}
	w.WriteHeader(http.StatusNoContent)
}

// Password returns the password that the controller takes now.
func (b *BMC) Password() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.password
}
