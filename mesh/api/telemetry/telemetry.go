package telemetry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Scope is whose machines somebody may see.
type Scope struct {
	All      bool
	Machines []string // in order; of no meaning with All
}

// Sees tells whether what has these labels may be seen. What is of no machine is for who sees all.
func (s Scope) Sees(labels map[string]string) bool {
	if s.All {
		return true
	}
	_, ok := slices.BinarySearch(s.Machines, labels["machine"])
	return ok
}

// See says what of a site somebody may see: all, with the right to read its machines; else the machines that run instances of arrays
// that they may read. It goes by the statuses in the catalog.
func See(c *intent.Catalog, site string, may func(rights.Request) bool) Scope {
	if may(rights.Request{Verb: intent.VerbRead, Kind: intent.KindMachine, Site: site}) {
		return Scope{All: true}
	}
	var s Scope
	for _, o := range c.List(intent.KindInstanceArray) {
		infra := c.Get(intent.Key{Kind: intent.KindInfrastructure, Scope: o.Metadata.Project, Name: o.Spec.(*intent.InstanceArraySpec).Infrastructure})
		if infra == nil || infra.Metadata.Site != site || !may(rights.Request{Verb: intent.VerbRead, Kind: o.Kind, Project: o.Metadata.Project, Site: o.Metadata.Site}) {
			continue
		}
		var st intent.ArrayStatus
		if json.Unmarshal(o.Status, &st) != nil {
			continue
		}
		for _, i := range st.Instances {
			if i.Machine != "" {
				s.Machines = append(s.Machines, i.Machine)
			}
		}
	}
	slices.Sort(s.Machines)
	s.Machines = slices.Compact(s.Machines)
	return s
}

// Put adds the scope to a question that one of our own asks another; Of reads it there.
func (s Scope) Put(v url.Values) url.Values {
	if s.All {
		v.Set("see", "all")
	} else {
		v["machine"] = s.Machines
	}
	return v
}

// ScopeOf reads what Put wrote. It is for doors that only our own agents and coordinators reach.
func ScopeOf(v url.Values) Scope {
	s := Scope{All: v.Get("see") == "all", Machines: slices.Clone(v["machine"])}
	slices.Sort(s.Machines)
	return s
}

// Routes are the paths of the API that s answers.
func Routes(s Source) []Route { return seriesRoutes(s) }

// Inner serves the routes to our own, who say themselves what the asker may see.
func Inner(s Source) http.Handler {
	mux := http.NewServeMux()
	for _, r := range Routes(s) {
		mux.HandleFunc("GET "+r.Path, func(w http.ResponseWriter, req *http.Request) {
			err := r.Serve(w, req, ScopeOf(req.URL.Query()))
			if err == nil {
				return
			}
			status := http.StatusInternalServerError
			if e, ok := err.(*Error); ok {
				status = e.Status
			}
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "detail": err.Error()})
		})
	}
	return mux
}
