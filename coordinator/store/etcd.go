package store

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// EtcdConfig says which etcd, and below which key.
type EtcdConfig struct {
	Endpoints []string // https://HOST:2379 of each member; http:// only on loopback
	Prefix    string   // every key of ours lies below it; one prefix is one domain; default /skerry/
	CA        string   // PEM file that vouches for the members; required with https
	Cert, Key string   // PEM files with which this coordinator says who it is; required with https
	Log       *slog.Logger
}

// DefaultPrefix is the default of EtcdConfig.Prefix.
const DefaultPrefix = "/skerry/"

const (
	// tryLimit is above what a healthy cluster needs (milliseconds) and what an election takes (1 to 2 s), and below etcd's
	// own limit of 7 s for one request: the next try goes to another member.
	tryLimit = 4 * time.Second
	// settleLimit is how long a commit or a read goes on trying: several elections and every member once.
	settleLimit = 20 * time.Second
	// retryPause lets a member that refuses at once breathe.
	retryPause = 100 * time.Millisecond
	// keepAlive finds a dead link to a member within 15 s; etcd tolerates pings every 5 s.
	keepAlive, keepAliveLimit = 10 * time.Second, 5 * time.Second
	// pageKeys bounds one answer: at most 64 MiB, with values of the largest size.
	pageKeys = 64
	// wireLimit is above a commit of the largest size with its framing, and what members must be told to take.
	wireLimit = 4 << 20
)

// needsLimits is what an operator has to say to each member.
const needsLimits = "start every member of etcd with --max-txn-ops=4096 --max-request-bytes=4194304"

// Etcd is the shared backend: several coordinators over one etcd. Every promise of Store rests on etcd's: a transaction is
// atomic, durable on a majority when it is answered, and reads are linearizable.
//
// A commit whose answer got lost may have happened, may happen later, or never. So each commit also moves the key of this
// session, under the condition that it stands where this session left it. To settle what became of a commit, the session
// moves its own key under the same condition: when that succeeds, the lost commit can never happen any more; when it does
// not, the key's value tells that it did.
type Etcd struct {
	c      *clientv3.Client
	prefix string
	log    *slog.Logger
	limit  time.Duration // of one try
	stop   context.CancelFunc
	done   chan struct{}

	turn    chan struct{} // capacity 1: one commit at a time; guards what follows
	session string        // key
	at      int64         // its revision
	pending string        // value under which a commit of unknown outcome would have moved it; "" = none

	mu   sync.Mutex // guards what follows
	rev  uint64
	wake chan struct{}
}

// OpenEtcd connects, checks that the cluster takes commits of the largest size, and watches. Errors say what to do.
func OpenEtcd(ctx context.Context, cfg EtcdConfig) (*Etcd, error) {
	conf, err := cfg.client()
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("cannot use etcd: %w", err)
	}
	s := &Etcd{
		c: c, prefix: cfg.Prefix, log: cfg.Log, session: cfg.Prefix + "session/" + nonce(""), wake: make(chan struct{}),
		limit: tryLimit, turn: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot use etcd at %s: %w", strings.Join(cfg.Endpoints, " "), err), c.Close())
	}
	watch, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.watch(watch) // Close waits for it
	return s, nil
}

// client checks the configuration and turns it into the library's.
func (cfg *EtcdConfig) client() (clientv3.Config, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Prefix = strings.TrimSuffix(cfg.Prefix, "/") + "/"
	if len(cfg.Prefix) < 2 || len(cfg.Prefix) > 100 || strings.ContainsAny(cfg.Prefix, " \t\n") {
		return clientv3.Config{}, fmt.Errorf("cannot use etcd prefix %q: 1 to 100 octets without blanks, like %s", cfg.Prefix, DefaultPrefix)
	}
	if len(cfg.Endpoints) == 0 {
		return clientv3.Config{}, errors.New("cannot use etcd: name its members, like --etcd-endpoints https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379")
	}
	secure := false
	for _, e := range cfg.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			return clientv3.Config{}, fmt.Errorf("cannot use etcd endpoint %q: it is https://HOST:PORT", e)
		}
		if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && (err != nil || !ip.IsLoopback()) {
			return clientv3.Config{}, fmt.Errorf("cannot use etcd endpoint %s: plain http is for loopback only, for whoever reads the line reads the catalog; give https:// with --etcd-ca, --etcd-cert and --etcd-key", e)
		}
		secure = secure || u.Scheme == "https"
	}
	conf := clientv3.Config{
		Endpoints: cfg.Endpoints, DialTimeout: tryLimit, DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveLimit,
		MaxCallSendMsgSize: wireLimit, Logger: zap.NewNop(), // errors come back to us; the library would write them to stderr
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: retryPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: tryLimit}, MinConnectTimeout: tryLimit,
		})},
	}
	if !secure {
		return conf, nil
	}
	t, err := cfg.tls()
	conf.TLS = t
	return conf, err
}

func (cfg *EtcdConfig) tls() (*tls.Config, error) {
	if cfg.CA == "" || cfg.Cert == "" || cfg.Key == "" {
		return nil, errors.New("cannot use etcd over https: give the three PEM files --etcd-ca, --etcd-cert and --etcd-key")
	}
	pem, err := os.ReadFile(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("cannot read CA of etcd: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("cannot use CA of etcd: %s holds no PEM certificate", cfg.CA)
	}
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot use certificate for etcd: %w", err)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func nonce(kind string) string {
	b := make([]byte, 12)
	rand.Read(b) // never fails: crypto/rand, Go 1.24
	return kind + hex.EncodeToString(b)
}

// A key of the store lies below k/, so that what is ours beside it is in no Range.
func (s *Etcd) key(k string) string { return s.prefix + "k/" + k }
func (s *Etcd) revKey() string      { return s.prefix + "rev" }

// again calls fn with tryLimit each until it returns nil or a definite error, ctx ends, or settleLimit is over.
func (s *Etcd) again(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		try, end := s.once(ctx)
		err := fn(try)
		end()
		if err == nil || definite(err) {
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("no answer from a majority of etcd: %w", err)
		}
	}
}

// once is the context of one try. A member that has no leader refuses at once, so that the next try goes to another one.
func (s *Etcd) once(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(clientv3.WithRequireLeader(ctx), s.limit)
}

// Get implements Store.
func (s *Etcd) Get(ctx context.Context, key string) (e Entry, err error) {
	err = s.again(ctx, func(ctx context.Context) error {
		r, err := s.c.Get(ctx, s.key(key))
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 {
			return ErrAbsent
		}
		e = Entry{Key: key, Value: r.Kvs[0].Value, Rev: uint64(r.Kvs[0].ModRevision)}
		return nil
	})
	if err != nil {
		return Entry{}, fmt.Errorf("cannot get %s: %w", key, err)
	}
	return e, nil
}

// Range implements Store: all pages are of one revision.
func (s *Etcd) Range(ctx context.Context, prefix, from string, fn func(Entry) error) error {
	return s.pages(ctx, prefix, max(from, prefix), 0, fn)
}

// Changes implements Shared.
func (s *Etcd) Changes(ctx context.Context, prefix string, since uint64, fn func(Entry) error) error {
	return s.pages(ctx, prefix, prefix, since, fn)
}

func (s *Etcd) pages(ctx context.Context, prefix, from string, since uint64, fn func(Entry) error) error {
	end := clientv3.GetPrefixRangeEnd(s.key(prefix))
	start, rev := s.key(from), int64(0)
	if start >= end {
		return ctx.Err()
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var page *clientv3.GetResponse
		err := s.again(ctx, func(ctx context.Context) (err error) {
			opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageKeys), clientv3.WithRev(rev)}
			if since > 0 {
				opts = append(opts, clientv3.WithMinModRev(int64(since)+1))
			}
			page, err = s.c.Get(ctx, start, opts...)
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot read range %s: %w", prefix, err)
		}
		rev = page.Header.Revision
		for _, kv := range page.Kvs {
			e := Entry{Key: string(kv.Key)[len(s.key("")):], Value: kv.Value, Rev: uint64(kv.ModRevision)}
			if err := fn(e); errors.Is(err, ErrStop) {
				return nil
			} else if err != nil {
				return err
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		start = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// Wait implements Store.
func (s *Etcd) Wait(ctx context.Context, since uint64) (uint64, error) {
	for {
		s.mu.Lock()
		rev, wake := s.rev, s.wake
		s.mu.Unlock()
		if rev > since {
			return rev, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// moved notes a revision and wakes who waits.
func (s *Etcd) moved(rev uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.rev {
		return
	}
	s.rev = rev
	close(s.wake)
	s.wake = make(chan struct{})
}

// watch follows the one key that every commit writes, until ctx ends. A watch may be lost to a compaction, or to a member
// that lost its leader: then the key is read, and the watch begins anew from there.
func (s *Etcd) watch(ctx context.Context) {
	defer close(s.done)
	for ctx.Err() == nil {
		rev, err := s.revision(ctx)
		if err == nil {
			err = s.follow(ctx, rev+1)
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("watch of etcd begins anew", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
	}
}

// revision reads the store's revision and returns that of the cluster.
func (s *Etcd) revision(ctx context.Context) (cluster int64, err error) {
	err = s.again(ctx, func(ctx context.Context) error {
		r, err := s.c.Get(ctx, s.revKey())
		if err != nil {
			return err
		}
		cluster = r.Header.Revision
		if len(r.Kvs) > 0 {
			s.moved(uint64(r.Kvs[0].ModRevision))
		}
		return nil
	})
	return cluster, err
}

func (s *Etcd) follow(ctx context.Context, from int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // a member that is cut off says so instead of silence
	defer cancel()
	for r := range s.c.Watch(ctx, s.revKey(), clientv3.WithRev(from)) {
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			s.moved(uint64(e.Kv.ModRevision))
		}
	}
	return errors.New("watch ended")
}

// Close implements Store. A commit that is under way ends first.
func (s *Etcd) Close() error {
	s.turn <- struct{}{}
	s.stop()
	<-s.done
	ctx, cancel := context.WithTimeout(context.Background(), tryLimit)
	defer cancel()
	if _, err := s.c.Delete(ctx, s.session); err != nil {
		s.log.Debug("session key left in etcd", "err", err) // some 60 octets; nobody reads it
	}
	if err := s.c.Close(); err != nil {
		return fmt.Errorf("cannot close etcd: %w", err)
	}
	return nil
}

var (
	_ Store  = (*Etcd)(nil)
	_ Shared = (*Etcd)(nil)
)
