package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// qmpDialTimeout bounds the wait for QEMU's socket: it appears within 0.2 s quiet; a loaded VM took 2 s.
const qmpDialTimeout = 20 * time.Second

// qmpDialEvery is the pause between tries; QEMU announces its socket in no other way.
const qmpDialEvery = 20 * time.Millisecond

// qmpConn is a control connection. Only commands without a result that matters are sent; events are read by one goroutine.
type qmpConn struct {
	c net.Conn
	r *bufio.Scanner
}

// dialQMP connects, tries until QEMU listens, and leaves the negotiation mode.
func dialQMP(ctx context.Context, path string, gone <-chan struct{}) (*qmpConn, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpDialTimeout)
	defer cancel()
	tick := time.NewTicker(qmpDialEvery)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			q := &qmpConn{c: c, r: bufio.NewScanner(c)}
			return q, q.send("qmp_capabilities")
		}
		select {
		case <-gone:
			return nil, fmt.Errorf("cannot control qemu: it ended at once, see qemu.log")
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot control qemu: %w", err)
		case <-tick.C:
		}
	}
}

func (q *qmpConn) send(command string) error {
	// QEMU reads its socket in the main loop, within milliseconds.
	if err := q.c.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return fmt.Errorf("cannot send %s to qemu: %w", command, err)
	}
	if _, err := fmt.Fprintf(q.c, "{\"execute\":%q}\n", command); err != nil {
		return fmt.Errorf("cannot send %s to qemu: %w", command, err)
	}
	return nil
}

// shutdown reads until the guest shuts down and returns the reason: guest-reset, guest-shutdown, host-qmp-quit and so on;
// "" when the connection ended first. Source: QEMU's QMP event SHUTDOWN.
func (q *qmpConn) shutdown() string {
	for q.r.Scan() {
		var ev struct {
			Event string `json:"event"`
			Data  struct {
				Reason string `json:"reason"`
			} `json:"data"`
		}
		if json.Unmarshal(q.r.Bytes(), &ev) == nil && ev.Event == "SHUTDOWN" {
			return ev.Data.Reason
		}
	}
	return ""
}
