package auditlog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// maxPlaces bounds the coordinator's answer: 64 agents with some chains each are 10 KiB.
const maxPlaces = 1 << 20

// Session is the coordinator over a session of this agent's.
type Session struct{ RT http.RoundTripper }

// Places implements Above.
func (s Session) Places(ctx context.Context) ([]intent.AuditPlace, error) {
	b, err := s.ask(ctx, http.MethodGet, nil)
	if err != nil {
		return nil, err
	}
	var out []intent.AuditPlace
	return out, json.Unmarshal(b, &out)
}

// Join implements Above.
func (s Session) Join(ctx context.Context, bundle intent.AuditBundle) error {
	b, err := json.Marshal(bundle)
	if err != nil {
		return fmt.Errorf("cannot encode audit records: %w", err)
	}
	_, err = s.ask(ctx, http.MethodPost, b)
	return err
}

func (s Session) ask(ctx context.Context, method string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://coordinator/u/1/audit", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := s.RT.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxPlaces))
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode == http.StatusConflict:
		return nil, fmt.Errorf("%w: %s", ErrForked, bytes.TrimSpace(b))
	case res.StatusCode >= 300:
		return nil, fmt.Errorf("coordinator answered %s: %s", res.Status, bytes.TrimSpace(b))
	}
	return b, nil
}
