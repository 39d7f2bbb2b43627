package holdings

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Handler serves the other agents: GET /m/1/assets/held, a Report, and GET /m/1/assets/{digest}/content with Range, of complete
// assets; and does what they ask for by POST /m/1/assets/{digest}/{act}. The rest goes to next.
func (k *Keeper) Handler(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/m/1/assets/", next)
	mux.HandleFunc("GET /m/1/assets/held", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(k.Report()) // a broken session is noticed by its owner
	})
	mux.HandleFunc("POST /m/1/assets/{digest}/{act}", k.act)
	mux.HandleFunc("GET /m/1/assets/{digest}/content", func(w http.ResponseWriter, r *http.Request) {
		d, err := intent.ParseDigest(r.PathValue("digest"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f, err := k.cfg.Blobs.Open(d)
		if err != nil {
			http.Error(w, "not here", http.StatusNotFound)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, f)
	})
	return mux
}
