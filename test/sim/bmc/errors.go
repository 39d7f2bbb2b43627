package bmc

import (
	"encoding/json"
	"net/http"
)

// fail writes a Redfish error body. Source: DSP0266 section 8.6, error responses.
func fail(w http.ResponseWriter, status int, id, message string, args ...string) {
	if args == nil {
		args = []string{}
	}
	answer(w, status, map[string]any{"error": map[string]any{
		"code": id, "message": message,
		"@Message.ExtendedInfo": []any{map[string]any{
			"@odata.type": "#Message.v1_1_1.Message", "MessageId": id, "Message": message, "MessageArgs": args,
			"Severity": "Critical", "Resolution": "Correct the request and resubmit it.",
		}},
	}})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	// An error here means that the client hung up.
	_ = json.NewEncoder(w).Encode(v)
}

func missing(w http.ResponseWriter, r *http.Request) {
	fail(w, http.StatusNotFound, "Base.1.8.ResourceMissingAtURI",
		"The resource at the URI "+r.URL.Path+" was not found.", r.URL.Path)
}
