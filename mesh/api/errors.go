package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Error is what a backend refuses with. Each Type is one RFC 9457 problem type.
type Error struct {
	Status   int
	Type     string // last element of the problem type URI
	Detail   string
	Problems []intent.ObjectProblem
}

// Error returns the detail and the problems, one a line.
func (e *Error) Error() string {
	s := e.Detail
	for _, p := range e.Problems {
		s += fmt.Sprintf("\n%s: %s", p.Key, p.Problem)
	}
	return s
}

// The refusals that callers branch on.
var (
	ErrNotFound     = &Error{Status: http.StatusNotFound, Type: "not-found", Detail: "there is no such object, or you may not see it"}
	ErrForbidden    = &Error{Status: http.StatusForbidden, Type: "forbidden", Detail: "your roles do not allow this; `skerry whoami` lists them"}
	ErrUnauthorized = &Error{Status: http.StatusUnauthorized, Type: "unauthorized", Detail: "no valid bearer token or client certificate; `skerry token user NAME` makes a token, `skerry user key create` a key"}
	ErrPrecondition = &Error{Status: http.StatusPreconditionFailed, Type: "changed", Detail: "the object changed meanwhile; get it again and repeat"}
	ErrElsewhere    = &Error{Status: http.StatusConflict, Type: "elsewhere", Detail: "only the other side can do this; choose it with --context"}
	ErrUnreachable  = &Error{Status: http.StatusServiceUnavailable, Type: "unreachable", Detail: "the site has no session with the coordinator now; ask an agent of the site"}
	ErrFull         = &Error{Status: http.StatusInsufficientStorage, Type: "full", Detail: "the disk is too full to take writes; free space"}
)

// Invalid returns a 422 with the problems.
func Invalid(ps []intent.ObjectProblem) *Error {
	return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "the objects do not fit; nothing was stored", Problems: ps}
}

// Refuse returns a 409 with a reason.
func Refuse(detail string) *Error {
	return &Error{Status: http.StatusConflict, Type: "refused", Detail: detail}
}

// problem maps any error to RFC 9457. What is not an *Error is ours to fix: its text is still given, it holds no secret.
func problem(err error) error {
	e, ok := errors.AsType[*Error](err)
	if ps, isProblems := errors.AsType[intent.Problems](err); isProblems && !ok {
		e = &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "the document does not fit; nothing was stored"}
		for _, p := range ps {
			e.Problems = append(e.Problems, intent.ObjectProblem{Problem: p})
		}
		ok = true
	}
	if !ok {
		e = &Error{Status: http.StatusInternalServerError, Type: "internal", Detail: err.Error()}
	}
	m := &huma.ErrorModel{Type: "https://skerry.dev/problems/" + e.Type, Title: http.StatusText(e.Status), Status: e.Status, Detail: e.Detail}
	for _, p := range e.Problems {
		d := &huma.ErrorDetail{Message: p.What, Location: p.Path}
		if p.Fix != "" {
			d.Message += "; " + p.Fix
		}
		if p.Key != (intent.Key{}) {
			d.Value = p.Key
		}
		if p.Line > 0 && p.Key == (intent.Key{}) {
			d.Location = fmt.Sprintf("%s (line %d, column %d)", p.Path, p.Line, p.Column)
		}
		m.Errors = append(m.Errors, d)
	}
	return m
}
