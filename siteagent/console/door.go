package console

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/console/sshd"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Door is how SSH clients come in.
type Door struct {
	Listen string // host:port; empty: there is none
	Key    ed25519.PrivateKey
	// ByKey says whose a key is, and whether he may; Changed returns when something of that may be another.
	ByKey   func(ctx context.Context, spki intent.Digest, ask rights.Request) (api.Caller, error)
	Changed func(ctx context.Context, since uint64) (uint64, error)
}

// lines of history that an SSH client is shown: it has no way to ask for more.
const sshLines = 100

// Fingerprint is what SSH clients see of this agent's key; empty: they cannot come in.
func (k *Keeper) Fingerprint() string {
	if k.Door.Listen == "" {
		return ""
	}
	return sshd.Fingerprint(k.Door.Key)
}

// Serve lets SSH clients in by the Door until ctx ends.
func (k *Keeper) Serve(ctx context.Context) error {
	if k.Door.Listen == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", k.Door.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen for SSH clients: %w", err)
	}
	return k.serve(ctx, l)
}

func (k *Keeper) serve(ctx context.Context, l net.Listener) error {
	srv, err := sshd.New(sshd.Config{
		Key: k.Door.Key, Log: k.cfg.Log, Sit: k.sitSSH,
		Known: func(ctx context.Context, spki [sha256.Size]byte) error {
			if _, err := k.Door.ByKey(ctx, spki, k.ask()); errors.Is(err, api.ErrUnauthorized) {
				return err
			}
			return nil // what he may not is told to him when he is in
		},
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return srv.Run(ctx, l)
}

func (k *Keeper) ask() rights.Request {
	return rights.Request{Verb: intent.VerbConsole, Kind: intent.KindMachine, Site: k.cfg.Site}
}

// errMayNot is the one answer to who may not, whether there is such a machine or not.
var errMayNot = errors.New("there is no such machine, or you may not use its console: that takes the role operator")

const (
	// askAgain is how often it is asked whether somebody may still, where nothing changes: keys end by themselves.
	askAgain = 5 * time.Second
	// leaveLimit is how long he has to hear that he may not any more.
	leaveLimit = 2 * time.Second
)

// sitSSH seats an SSH client, as long as his key is on a user who may.
func (k *Keeper) sitSSH(ctx context.Context, s sshd.Seat) error {
	by, err := k.Door.ByKey(ctx, s.SPKI, k.ask())
	object := "Machine " + k.cfg.Site + "/" + s.Machine
	if err != nil {
		r := by.Audit("console open", object, "ssh from "+s.From+": the caller's roles do not allow it")
		r.Result = intent.AuditRefused
		return errors.Join(errMayNot, k.cfg.Audit.Note(ctx, r))
	}
	if u, _, ok := intent.Lookup[*intent.UserSpec](k.cfg.Want().Catalog, intent.KindUser, "", by.User); ok && u.BreakGlass {
		if err := k.cfg.Audit.Note(ctx, by.Audit(intent.AuditBreakGlass, "ssh "+object, "an emergency key was used")); err != nil {
			return err
		}
	}
	s.Seated()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(leaveLimit, s.Hang) }) // a client that reads nothing is not waited for
	defer stop()
	wg.Go(func() {
		defer cancel()
		for rev := uint64(0); ; {
			wait, done := context.WithTimeout(ctx, askAgain)
			now, err := k.Door.Changed(wait, rev)
			done()
			switch {
			case err == nil:
				rev = now
			case ctx.Err() != nil || wait.Err() == nil:
				return
			}
			if _, err := k.Door.ByKey(ctx, s.SPKI, k.ask()); err != nil {
				return
			}
		}
	})
	err = k.Console(ctx, consoles.Session{Site: k.cfg.Site, Machine: s.Machine, User: by.User, Via: by.Via, Lines: sshLines, In: s.In, Out: s.Out, Unblock: s.Unblock})
	if errors.Is(err, api.ErrNotFound) {
		return errMayNot
	}
	return err
}
