package api

import (
	"errors"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// measured wraps a handler of what a site measured: it learns what the caller may see.
func (a *API) measured(serve func(http.ResponseWriter, *http.Request, telemetry.Viewer) error) func(http.ResponseWriter, *http.Request, Caller) error {
	return func(w http.ResponseWriter, r *http.Request, by Caller) error {
		view := func(by Caller) (telemetry.Viewer, error) {
			c, _, err := a.b.Snapshot(r.Context())
			if err != nil {
				return telemetry.Viewer{}, err
			}
			return telemetry.NewViewer(c, r.PathValue("site"), a.b.Now(), func(q rights.Request) bool { return may(c, by, q) }), nil
		}
		v, err := view(by)
		if err != nil {
			return err
		}
		v.Again = func() (telemetry.Viewer, error) {
			by, err := a.caller(r)
			if err != nil {
				return telemetry.Viewer{}, err
			}
			return view(by)
		}
		err = serve(w, r, v)
		if bad, ok := errors.AsType[*telemetry.BadQuery](err); ok {
			return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: bad.Error()}
		}
		return err
	}
}
