package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The values of a session's key: of a commit, and of the session's own moves.
const (
	kindCommit = "c"
	kindOwn    = "o"
)

// errMoved says that a transaction met the session's key elsewhere than thought, moved by the session itself.
var errMoved = errors.New("session moved")

// definite errors mean that nothing happened and nothing will.
func definite(err error) bool {
	for _, e := range []error{
		ErrAbsent, ErrConflict, rpctypes.ErrTooManyOps, rpctypes.ErrRequestTooLarge, rpctypes.ErrNoSpace, rpctypes.ErrDuplicateKey,
		rpctypes.ErrCompacted, rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrEmptyKey,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return status.Code(err) == codes.ResourceExhausted // larger than the wire takes
}

// teach turns a refusal of the cluster into words for who runs it.
func teach(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge), status.Code(err) == codes.ResourceExhausted:
		return fmt.Errorf("etcd takes smaller transactions than Skerry makes; %s: %w", needsLimits, err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("etcd's quota is used up; compact, defragment, then `etcdctl alarm disarm`: %w: %w", state.ErrFull, err)
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("etcd's access control refuses this coordinator; grant it read and write below the prefix: %w", err)
	}
	return err
}

// begin makes the session's key, and asks whether the cluster takes the largest commits.
func (s *Etcd) begin(ctx context.Context) error {
	err := s.again(ctx, func(ctx context.Context) error { // guarded like all moves, so that no echo of it comes later
		r, err := s.c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(s.session), "=", 0)).
			Then(clientv3.OpPut(s.session, nonce(kindOwn))).Else(clientv3.OpGet(s.session)).Commit()
		if err != nil {
			return err
		}
		if s.at = r.Header.Revision; !r.Succeeded {
			s.at, _ = first(r.Responses[0])
		}
		return nil
	})
	if err != nil {
		return teach(err)
	}
	never := clientv3.Compare(clientv3.ModRevision(s.session), "=", -1)
	many := make([]clientv3.Op, maxOps)
	for i := range many {
		many[i] = clientv3.OpGet(s.session, clientv3.WithCountOnly())
	}
	for _, then := range [][]clientv3.Op{many, {clientv3.OpPut(s.session, string(make([]byte, maxCommit)))}} {
		err := s.again(ctx, func(ctx context.Context) error {
			_, err := s.c.Txn(ctx).If(never).Then(then...).Commit()
			return err
		})
		if err != nil {
			return teach(err)
		}
	}
	_, err = s.revision(ctx)
	return err
}

// Commit implements Store. A change that was sent is followed to its end even when ctx ends meanwhile.
func (s *Etcd) Commit(ctx context.Context, c Commit) (uint64, error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	if _, err := s.settle(ctx); err != nil { // of one before this
		return 0, fmt.Errorf("cannot commit, nothing of it was sent: %w", err)
	}
	for {
		rev, err := s.try(ctx, c)
		if err != nil && s.pending != "" {
			lost := err
			if rev, err = s.settle(ctx); err != nil {
				return 0, fmt.Errorf("cannot tell whether the change was made: %w: %w", ErrUnknown, errors.Join(lost, err))
			}
			if rev == 0 {
				err = lost
			}
		}
		switch {
		case err == nil:
			s.moved(rev)
			return rev, nil
		case definite(err):
			return 0, fmt.Errorf("cannot commit: %w", teach(err))
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return 0, fmt.Errorf("cannot commit, nothing was written: %w", err)
		}
	}
}

// try sends c once. With an error s.pending tells whether the outcome is open.
func (s *Etcd) try(ctx context.Context, c Commit) (uint64, error) {
	mark := nonce(kindCommit)
	when := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(s.session), "=", s.at)}
	then := []clientv3.Op{clientv3.OpPut(s.session, mark), clientv3.OpPut(s.revKey(), "")}
	instead := []clientv3.Op{clientv3.OpGet(s.session)}
	for _, g := range c.If {
		when = append(when, clientv3.Compare(clientv3.ModRevision(s.key(g.Key)), "=", int64(g.Rev)))
		instead = append(instead, clientv3.OpGet(s.key(g.Key), clientv3.WithKeysOnly()))
	}
	for k, v := range c.Put {
		then = append(then, clientv3.OpPut(s.key(k), string(v)))
	}
	gone := map[string]bool{}
	for _, k := range c.Delete {
		if !gone[k] {
			then = append(then, clientv3.OpDelete(s.key(k)))
		}
		gone[k] = true
	}
	ctx, cancel := s.once(ctx)
	defer cancel()
	r, err := s.c.Txn(ctx).If(when...).Then(then...).Else(instead...).Commit()
	if err != nil {
		if !definite(err) && !errors.Is(err, rpctypes.ErrNoLeader) {
			s.pending = mark
		}
		return 0, err
	}
	if r.Succeeded {
		s.at = r.Header.Revision
		return uint64(r.Header.Revision), nil
	}
	return s.refused(r, c, mark)
}

// refused reads why a transaction did not go through: a guard, or an echo of itself.
func (s *Etcd) refused(r *clientv3.TxnResponse, c Commit, mark string) (uint64, error) {
	rev, value := first(r.Responses[0])
	if rev != s.at {
		s.at = rev
		switch {
		case value == mark: // sent twice below us, and the first one went through
			return uint64(rev), nil
		case rev == 0:
			return 0, fmt.Errorf("the key of this session was removed from etcd: %w", ErrConflict)
		default:
			return 0, errMoved
		}
	}
	for i, g := range c.If {
		if now, _ := first(r.Responses[i+1]); uint64(now) != g.Rev {
			return 0, fmt.Errorf("%s is at revision %d, expected %d: %w", g.Key, now, g.Rev, ErrConflict)
		}
	}
	return 0, ErrConflict
}

func first(r *etcdserverpb.ResponseOp) (rev int64, value string) {
	kvs := r.GetResponseRange().GetKvs()
	if len(kvs) == 0 {
		return 0, ""
	}
	return kvs[0].ModRevision, string(kvs[0].Value)
}

// settle finds out what became of the pending commit and makes sure that it stays so: its revision, or 0 when it can never
// happen any more. On an error it stays pending. Nothing pending: 0.
func (s *Etcd) settle(ctx context.Context) (uint64, error) {
	if s.pending == "" {
		return 0, nil
	}
	var rev uint64
	err := s.again(ctx, func(ctx context.Context) error {
		r, err := s.c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(s.session), "=", s.at)).
			Then(clientv3.OpPut(s.session, nonce(kindOwn))).Else(clientv3.OpGet(s.session)).Commit()
		if err != nil {
			return err
		}
		if r.Succeeded {
			s.at = r.Header.Revision
			return nil
		}
		at, value := first(r.Responses[0])
		if value == s.pending {
			rev = uint64(at)
		}
		s.at = at // else: an earlier try of this very move
		return nil
	})
	if err != nil {
		return 0, teach(err)
	}
	s.pending = ""
	return rev, nil
}
