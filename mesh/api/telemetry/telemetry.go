package telemetry

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Scope is whose machines somebody may see.
type Scope struct {
	All       bool
	Machines  []string // in order; of no meaning with All
	Instances []string // uids of those that run there, in order
}

// ofGuest begins the names of what the system on a machine says of itself, where the others are of the machine.
const ofGuest = "skerry_snmp_"

// Sees tells whether a series may be seen: of a machine, by who has it now; what the system on it said, by whose instance that was. What is of
// no machine is for who sees all.
func (s Scope) Sees(name string, labels map[string]string, tenant string) bool {
	if s.All {
		return true
	}
	_, machine := slices.BinarySearch(s.Machines, labels["machine"])
	_, instance := slices.BinarySearch(s.Instances, tenant)
	return machine && (instance && tenant != "" || !strings.HasPrefix(name, ofGuest))
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
				s.Machines, s.Instances = append(s.Machines, i.Machine), append(s.Instances, i.UID)
			}
		}
	}
	slices.Sort(s.Machines)
	slices.Sort(s.Instances)
	s.Machines, s.Instances = slices.Compact(s.Machines), slices.Compact(s.Instances)
	return s
}

// Put adds the scope to a question that one of our own asks another; Of reads it there.
func (s Scope) Put(v url.Values) url.Values {
	if s.All {
		v.Set("see", "all")
	} else {
		v["machine"], v["instance"] = s.Machines, s.Instances
	}
	return v
}

// ScopeOf reads what Put wrote. It is for doors that only our own agents and coordinators reach.
func ScopeOf(v url.Values) Scope {
	s := Scope{All: v.Get("see") == "all", Machines: slices.Clone(v["machine"]), Instances: slices.Clone(v["instance"])}
	slices.Sort(s.Machines)
	slices.Sort(s.Instances)
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
