package install

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
)

const (
	// discoveryLimit bounds what somebody without a session may send; the inventory of a large machine is about 64 KiB.
	discoveryLimit = 256 << 10
	// discoveriesAtOnce bounds how many such bodies are read at once: 1 MiB of memory, whoever sends.
	discoveriesAtOnce = 4
	// discoveryTime is how long one may take; on a boot network 256 KiB take 20 ms at 100 Mb/s.
	discoveryTime = 5 * time.Second
	// AgainAfter is how often a stranger's ramdisk tells that the machine is still there, and hears whether it was accepted.
	AgainAfter = time.Minute
)

// Discovery is what the ramdisk of a machine that nobody declared tells. It has no token: nothing in it is believed.
type Discovery struct {
	MAC     string           `json:"mac"` // of the card that booted, lower case
	Version string           `json:"version"`
	Report  inventory.Report `json:"report"`
}

// Standing says what became of a discovery.
type Standing string

// The standings.
const (
	StandingDiscovered Standing = "discovered" // it is on the list: ask again after AgainAfter
	StandingDeclared   Standing = "declared"   // it is a machine of the site, which boots it when it wants to: stay
	StandingIgnored    Standing = "ignored"    // it is not wanted: leave it to its own disk
	StandingInUse      Standing = "in-use"     // it is on the list, and a disk of it holds data: leave it to its own disk
)

// Discovered is the answer. It names nothing of the site: anybody on a boot network may ask.
type Discovered struct {
	Standing Standing `json:"standing"`
}

// Strangers takes the inventory of machines that nobody declared.
type Strangers interface {
	// Guest tells whether an address is one that this site leased: nobody else is listened to.
	Guest(from netip.Addr) bool
	// Discover takes one discovery from an address; d is as it came. Errors: ErrBadRequest; ErrBusy: ask another agent, or later.
	Discover(ctx context.Context, from netip.Addr, d Discovery) (Discovered, error)
}

// Welcome makes h serve strangers too; call it before h serves.
func (h *Handler) Welcome(s Strangers) {
	at := &slots{by: map[netip.Addr]bool{}}
	h.mux.HandleFunc("POST /install/v1/discovery", func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !s.Guest(from.Addr().Unmap()) {
			h.answer(w, nil, fmt.Errorf("%w: that address is not leased here", ErrBusy))
			return
		}
		if !at.take(from.Addr()) {
			h.answer(w, nil, fmt.Errorf("cannot take one more discovery at once: %w", ErrBusy))
			return
		}
		defer at.free(from.Addr())
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discoveryTime)) // what cannot is a recorder of a test
		ctx, cancel := context.WithTimeout(r.Context(), discoveryTime)
		defer cancel()
		var d Discovery
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, discoveryLimit))
		if err == nil {
			err = json.Unmarshal(b, &d) // a newer ramdisk may tell more than is known here
		}
		if err != nil {
			err = fmt.Errorf("cannot read discovery: %w: %w", ErrBadRequest, err)
			h.answer(w, nil, err)
			return
		}
		out, err := s.Discover(ctx, from.Addr().Unmap(), d)
		h.answer(w, out, err)
	})
}

// slots bounds how many bodies are read at once, and lets nobody have two.
type slots struct {
	mu sync.Mutex // guards by
	by map[netip.Addr]bool
}

func (s *slots) take(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[a] || len(s.by) >= discoveriesAtOnce {
		return false
	}
	s.by[a] = true
	return true
}

func (s *slots) free(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, a)
}

// Discover tells the site of this machine, until an agent took it. Errors: ErrBadRequest, ErrUnreachable, ctx.
func (c *Client) Discover(ctx context.Context, d Discovery) (Discovered, error) {
	var out Discovered
	err := c.call(ctx, http.MethodPost, "discovery", d, &out, callTimeout, giveUp)
	return out, err
}

// Stranger is the work of the ramdisk on a machine that nobody declared: it tells what the machine is, and waits. It opens no disk for
// writing, and has nothing that could tell it to.
type Stranger struct {
	Client  *Client
	MAC     string // of the card that booted, lower case
	Version string
	Collect func(context.Context) (*inventory.Report, error)
	Log     *slog.Logger
}

// Run tells until the machine is not wanted, or nobody answers: then it boots anew. Declared, it stays, until the site boots it.
func (s *Stranger) Run(ctx context.Context) (WorkKind, error) {
	last := Standing("")
	for {
		r, err := s.Collect(ctx) // each time: disks and cards are plugged in
		if err != nil {
			return "", err
		}
		at, err := s.Client.Discover(ctx, Discovery{MAC: s.MAC, Version: s.Version, Report: *r})
		switch {
		case ctx.Err() != nil:
			return "", fmt.Errorf("cannot go on: %w", ctx.Err())
		case err != nil:
			s.Log.Error("booting anew", "err", err)
			return WorkReboot, nil
		case at.Standing == StandingIgnored:
			s.Log.Info("the site does not want this machine: it is left to its own disk")
			return WorkReboot, nil
		case at.Standing == StandingInUse:
			s.Log.Info("inventory sent; a disk holds data, so the machine is left to it", "serial", r.Serial)
			return WorkReboot, nil
		}
		if at.Standing != last {
			last = at.Standing
			s.Log.Info("inventory sent", "standing", string(last), "serial", r.Serial, "disks", len(r.Disks), "nics", len(r.NICs), "memoryMiB", r.Memory>>20)
		}
		if err := pause(ctx, AgainAfter); err != nil {
			return "", fmt.Errorf("cannot go on: %w", err)
		}
	}
}
