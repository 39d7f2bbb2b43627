package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	tokenPrefix = "sku1"
	maxToken    = 256 // octets: sku1 + label + 43 of base64
)

// NewUserToken makes a bearer token sku1.<id>.<secret> and the half that is stored.
func NewUserToken(ttl time.Duration, now time.Time) (string, intent.UserToken) {
	id, secret := make([]byte, 5), make([]byte, 32)
	rand.Read(id) // never fails: crypto/rand, Go 1.24
	rand.Read(secret)
	t := intent.UserToken{ID: fmt.Sprintf("%x", id), SHA256: intent.DigestOf(secret)}
	if ttl > 0 {
		at := now.Add(ttl).UTC().Truncate(time.Second)
		t.Expires = &at
	}
	return tokenPrefix + "." + t.ID + "." + base64.RawURLEncoding.EncodeToString(secret), t
}

// Authenticate finds whose token it is, offline: everything needed is in the catalog. Comparison is constant-time; an
// expiry that the user chose is hard. Errors: ErrUnauthorized.
func Authenticate(c *intent.Catalog, token string, now time.Time) (Caller, error) {
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 || parts[0] != tokenPrefix {
		return Caller{}, ErrUnauthorized
	}
	secret, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(secret) != 32 {
		return Caller{}, ErrUnauthorized
	}
	sum := sha256.Sum256(secret)
	for _, o := range c.List(intent.KindUser) {
		s := o.Spec.(*intent.UserSpec)
		for _, t := range s.Tokens {
			if t.ID != parts[1] || subtle.ConstantTimeCompare(t.SHA256[:], sum[:]) != 1 {
				continue
			}
			if t.Expires != nil && !now.Before(*t.Expires) {
				return Caller{}, ErrUnauthorized
			}
			return Caller{User: o.Metadata.Name, Token: t.ID, Bindings: s.Bindings}, nil
		}
	}
	return Caller{}, ErrUnauthorized
}

// may checks one request against the table.
func may(c *intent.Catalog, by Caller, r intent.Request) bool {
	return intent.Allowed(by.Bindings, ownRoles(c), r)
}

func ownRoles(c *intent.Catalog) map[string]*intent.RoleSpec {
	roles := map[string]*intent.RoleSpec{}
	for _, o := range c.List(intent.KindRole) {
		roles[o.Metadata.Name] = o.Spec.(*intent.RoleSpec)
	}
	return roles
}

// requestFor says what is asked when verb is done to o.
func requestFor(v intent.Verb, o *intent.Object) intent.Request {
	r := intent.Request{Verb: v, Kind: o.Kind, Project: o.Metadata.Project, Site: o.Metadata.Site}
	switch o.Kind {
	case intent.KindProject:
		r.Project = o.Metadata.Name
	case intent.KindSite:
		r.Site = o.Metadata.Name
	}
	return r
}

type callerKey struct{}

// CallerFrom returns who asks; only handlers behind the authentication have one.
func callerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// authenticate is the middleware of every huma operation but /v1/info and the OpenAPI document.
func (a *API) authenticate(ctx huma.Context, next func(huma.Context)) {
	by, err := a.caller(ctx.Context(), ctx.Header("Authorization"))
	if err != nil {
		m := problem(err).(*huma.ErrorModel)
		ctx.SetHeader("WWW-Authenticate", "Bearer")
		ctx.SetHeader("Content-Type", "application/problem+json")
		ctx.SetStatus(m.Status)
		writeJSON(ctx.BodyWriter(), m)
		return
	}
	next(huma.WithValue(ctx, callerKey{}, by))
}

func (a *API) caller(ctx context.Context, header string) (Caller, error) {
	token, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return Caller{}, ErrUnauthorized
	}
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return Caller{}, err
	}
	by, err := Authenticate(c, token, time.Now())
	if err == nil && (a.b.Revoked(intent.RevokeUser, by.User) || a.b.Revoked(intent.RevokeToken, by.Token)) {
		by, err = Caller{}, ErrUnauthorized
	}
	if q, ok := ctx.Value(requestKey{}).(*request); ok {
		q.user = by.User
	}
	return by, err
}

// raw wraps a handler that streams and therefore is not huma's.
func (a *API) raw(h func(w http.ResponseWriter, r *http.Request, by Caller) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by, err := a.caller(r.Context(), r.Header.Get("Authorization"))
		if err == nil {
			err = h(w, r, by)
		}
		if err != nil {
			m := problem(err).(*huma.ErrorModel)
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(m.Status)
			writeJSON(w, m)
		}
	}
}
