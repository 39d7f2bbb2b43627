package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
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
		for _, t := range o.Spec.(*intent.UserSpec).Tokens {
			if t.ID != parts[1] || subtle.ConstantTimeCompare(t.SHA256[:], sum[:]) != 1 {
				continue
			}
			if expired(t.Expires, now) {
				return Caller{}, ErrUnauthorized
			}
			name := o.Metadata.Name
			return Caller{User: name, Token: t.ID, Via: "token:" + t.ID, Bindings: c.BindingsOf(name)}, nil
		}
	}
	return Caller{}, ErrUnauthorized
}

func expired(at *time.Time, now time.Time) bool { return at != nil && !now.Before(*at) }

// authenticateKey finds on whom the key of a client certificate stands. That the client holds the key was proven in the handshake;
// that the certificate is self-signed, by pki/trust. The certificate's own names and dates say nothing: no clock ends a site, and
// an expiry that was chosen stands on the User. Errors: ErrUnauthorized.
func authenticateKey(c *intent.Catalog, certs []*x509.Certificate, now time.Time) (Caller, error) {
	if len(certs) != 1 {
		return Caller{}, ErrUnauthorized
	}
	return keyHolder(c, intent.DigestOf(certs[0].RawSubjectPublicKeyInfo), now)
}

func keyHolder(c *intent.Catalog, spki intent.Digest, now time.Time) (Caller, error) {
	for _, o := range c.List(intent.KindUser) {
		for _, k := range o.Spec.(*intent.UserSpec).Keys {
			if d, err := k.SPKI(); err != nil || d != spki {
				continue
			}
			if expired(k.Expires, now) {
				return Caller{}, ErrUnauthorized
			}
			name := o.Metadata.Name
			return Caller{User: name, Key: spki.Hex(), Via: "key:" + spki.Hex()[:16], Bindings: c.BindingsOf(name)}, nil
		}
	}
	return Caller{}, ErrUnauthorized
}

// may checks one request against the table.
func may(c *intent.Catalog, by Caller, r rights.Request) bool {
	return rights.Allowed(by.Bindings, ownRoles(c), r)
}

func ownRoles(c *intent.Catalog) map[string]*intent.RoleSpec {
	roles := map[string]*intent.RoleSpec{}
	for _, o := range c.List(intent.KindRole) {
		roles[o.Metadata.Name] = o.Spec.(*intent.RoleSpec)
	}
	return roles
}

// requestFor says what is asked when verb is done to o.
func requestFor(v intent.Verb, o *intent.Object) rights.Request {
	r := rights.Request{Verb: v, Kind: o.Kind, Project: o.Metadata.Project, Site: o.Metadata.Site}
	switch o.Kind {
	case intent.KindProject:
		r.Project = o.Metadata.Name
	case intent.KindSite:
		r.Site = o.Metadata.Name
	}
	return r
}

// ByKey returns who has a key, if he may do what is asked: for doors that are not HTTP, where he proves that he holds it. Errors: ErrUnauthorized,
// ErrForbidden, ErrNotFound.
func (a *API) ByKey(ctx context.Context, spki intent.Digest, ask rights.Request) (Caller, error) {
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return Caller{}, err
	}
	by, err := keyHolder(c, spki, a.b.Now())
	if err == nil && (a.b.Revoked(intent.RevokeUser, by.User) || a.b.Revoked(intent.RevokeSPKI, by.Key)) {
		err = ErrUnauthorized
	}
	return by, cmp.Or(err, authorise(c, by, ask))
}

type callerKey struct{}

// CallerFrom returns who asks; only handlers behind the authentication have one.
func callerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// authenticate is the middleware of every huma operation but /v1/info and the OpenAPI document.
func (a *API) authenticate(ctx huma.Context, next func(huma.Context)) {
	r, _ := humago.Unwrap(ctx)
	by, err := a.caller(r)
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

// caller says who asks: by a bearer token, by a client certificate, or by both, which then must name the same user.
func (a *API) caller(r *http.Request) (Caller, error) {
	ctx := r.Context()
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return Caller{}, err
	}
	by, err := a.identify(c, r)
	q, ok := ctx.Value(requestKey{}).(*request)
	if ok {
		q.by = by
	}
	if err != nil {
		return Caller{}, err
	}
	if u, _, found := intent.Lookup[*intent.UserSpec](c, intent.KindUser, "", by.User); found && u.BreakGlass && ok && !q.alarmed {
		q.alarmed = true
		a.note(ctx, by.Audit(intent.AuditBreakGlass, r.Method+" "+r.URL.EscapedPath(), "an emergency key was used"))
	}
	return by, nil
}

// identify returns whom the credentials name. With an error the caller is whom they named, for the audit log only.
func (a *API) identify(c *intent.Catalog, r *http.Request) (Caller, error) {
	header, now := r.Header.Get("Authorization"), a.b.Now()
	var by, cert Caller
	var err error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		if cert, err = authenticateKey(c, r.TLS.PeerCertificates, now); err != nil {
			return Caller{}, err
		}
		by = cert
	}
	if header != "" || cert.User == "" {
		token, ok := strings.CutPrefix(header, "Bearer ")
		if !ok {
			return cert, ErrUnauthorized
		}
		if by, err = Authenticate(c, token, now); err != nil {
			return cert, err
		}
		if cert.User != "" && cert.User != by.User {
			return by, ErrUnauthorized
		}
		by.Key = cert.Key // both are looked up among the revoked
	}
	if a.b.Revoked(intent.RevokeUser, by.User) || (by.Token != "" && a.b.Revoked(intent.RevokeToken, by.Token)) ||
		(by.Key != "" && a.b.Revoked(intent.RevokeSPKI, by.Key)) {
		return by, ErrUnauthorized
	}
	return by, nil
}

// raw wraps a handler that streams and therefore is not huma's.
func (a *API) raw(h func(w http.ResponseWriter, r *http.Request, by Caller) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		by, err := a.caller(r)
		if err == nil {
			err = h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, by)), by)
		}
		if err != nil {
			m := problem(err).(*huma.ErrorModel)
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(m.Status)
			writeJSON(w, m)
		}
	}
}
