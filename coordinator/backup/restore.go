package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/storage/state"
)

// Place is where a coordinator lives: DATA, and how its store is opened with the master key of DATA/keys.
type Place struct {
	Data string
	Open func(ctx context.Context, master []byte) (st store.Store, closed func() error, err error)
}

// MasterFile is the name of the file, in DATA/keys, of the key to secrets and records at rest.
const MasterFile = "master.key"

func (p Place) keys() string { return filepath.Join(p.Data, "keys") }

// Report says what a backup holds; Assets are to be copied by other means.
type Report struct {
	Domain  string        `json:"domain"`
	Made    time.Time     `json:"made"`
	Files   int           `json:"files"`
	Records int           `json:"records"`
	SHA256  intent.Digest `json:"sha256"` // of the plain lines
	Assets  []Asset       `json:"assets"`
	Held    []string      `json:"held,omitempty"` // sites that are not published to until they were heard; after a restore
}

// fileSocket is where a running coordinator hands out a backup: its embedded store cannot be opened twice. DATA is 0700.
const fileSocket = "backup.sock"

// Save writes the coordinator at p to w, encrypted. One that runs is asked over its socket and goes on running.
func Save(ctx context.Context, p Place, lock seal.Lock, w io.Writer) (*Report, error) {
	out, err := lock.Encrypt(w)
	if err != nil {
		return nil, err
	}
	plain, pw := io.Pipe()
	done := make(chan error, 1)
	go func() { // ends when plain is read to its end, or closed below
		err := p.lines(ctx, pw)
		pw.CloseWithError(err)
		done <- err
	}()
	// What goes out is read again on the way: a backup that could not be restored is no backup.
	c, err := Read(io.TeeReader(plain, out), func(Record) error { return nil })
	plain.CloseWithError(err)
	if werr := <-done; werr != nil {
		err = werr
	}
	if err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, fmt.Errorf("cannot write backup: %w", err)
	}
	return report(c), nil
}

func report(c *Content) *Report {
	return &Report{Domain: c.Domain, Made: c.Time, Files: c.Total.Files, Records: c.Total.Records, SHA256: c.Total.SHA256, Assets: c.Assets}
}

// lines writes the plain backup: of the process that runs, or of the directory.
func (p Place) lines(ctx context.Context, w io.Writer) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.Data, fileSocket))
	if err == nil {
		defer conn.Close()
		if _, err := io.Copy(w, conn); err != nil {
			return fmt.Errorf("cannot read backup from the running coordinator: %w", err)
		}
		return nil
	}
	master, err := os.ReadFile(filepath.Join(p.keys(), MasterFile))
	if err != nil {
		return fmt.Errorf("cannot back up: %w", err)
	}
	st, closed, err := p.Open(ctx, master)
	if err != nil {
		return err
	}
	return errors.Join(stream(ctx, st, p.keys(), w), closed())
}

func stream(ctx context.Context, st store.Store, keys string, w io.Writer) error {
	h := Header{Time: time.Now().UTC().Truncate(time.Second)}
	e, err := st.Get(ctx, "self")
	if err != nil {
		return err
	}
	h.Coordinator = strings.Trim(string(e.Value), `"`)
	var env *intent.Envelope
	err = st.Range(ctx, "trust/", "", func(e store.Entry) (err error) {
		if env, err = document.Decode(e.Value); err != nil {
			return err
		}
		return store.ErrStop // the first one
	})
	if err == nil && env == nil {
		err = fmt.Errorf("cannot back up: no trust document: %w", ErrBackup)
	}
	if err != nil {
		return err
	}
	chain := document.TrustChain{Pin: env.Digest()}
	body, err := chain.Accept(env)
	if err != nil {
		return err
	}
	h.Domain = body.Domain
	_, err = Write(ctx, w, h, keys, st)
	return err
}

// Serve hands a backup of st to whoever may connect to the socket, who can read DATA, until ctx ends.
func Serve(ctx context.Context, data string, st store.Store, log *slog.Logger) error {
	path := filepath.Join(data, fileSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that was killed: the store's lock is ours
		return fmt.Errorf("cannot serve backups: %w", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		log.Warn("no backups while this runs; stop it for one", "err", err) // a path of more than 107 octets
		<-ctx.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	if err := os.Chmod(path, 0o600); err != nil && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("cannot serve backups: %w", err), ln.Close())
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return nil // closed above
		}
		log.Info("backup asked for")
		cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
		err = errors.Join(stream(ctx, st, Place{Data: data}.keys(), conn), conn.Close()) // one at a time
		cut()
		if err != nil && ctx.Err() == nil {
			log.Warn("backup not written", "err", err)
		}
	}
}

// RestoringKey is there while a restore writes; a store that has it is not used.
const RestoringKey = "restoring"

const (
	restoreBytes = 1 << 20 // of one commit; below the store's 2 MiB with the largest record
	restoreKeys  = 1000
)

// Restore makes a coordinator at p, where none may be, from a backup. The whole file is verified before anything is written.
// Every site is held until all of its agents were heard: the copy may be old.
func Restore(ctx context.Context, p Place, file string, key seal.Key) (rep *Report, err error) {
	keys := p.keys()
	for _, there := range []string{keys, filepath.Join(p.Data, "state")} {
		if _, err := os.Stat(there); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot restore: %s is there already; a backup goes into an empty directory", there)
		}
	}
	v := verifier{heads: map[string]intent.Head{}}
	c, err := readFile(file, key, v.record)
	if err != nil {
		return nil, err
	}
	if err := v.end(); err != nil {
		return nil, err
	}
	master := []byte(nil)
	for _, f := range c.Files {
		if f.Name == MasterFile {
			master = f.Data
		}
	}
	if len(master) == 0 {
		return nil, fmt.Errorf("cannot restore: the backup holds no %s: %w", MasterFile, ErrBackup)
	}
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	st, closed, err := p.Open(ctx, master)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closed()) }()
	rep = report(c)
	if rep.Held, err = fill(ctx, st, file, key, c.SHA256, v.sites); err != nil {
		return nil, err
	}
	for _, f := range c.Files { // last: without its keys a half restored directory does not start
		if err := state.WriteFile(filepath.Join(keys, f.Name), f.Data); err != nil {
			return nil, err
		}
	}
	return rep, nil
}

func readFile(file string, key seal.Key, fn func(Record) error) (*Content, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	defer f.Close()
	plain, err := key.Decrypt(f)
	if err != nil {
		return nil, err
	}
	return Read(plain, fn)
}

// fill writes all records, then the holds, and compares what it wrote.
func fill(ctx context.Context, st store.Store, file string, key seal.Key, want intent.Digest, sites []string) ([]string, error) {
	err := st.Range(ctx, "", "", func(e store.Entry) error {
		return fmt.Errorf("cannot restore: the store holds %s already; take an empty --etcd-prefix", e.Key)
	})
	if err != nil {
		return nil, err
	}
	if _, err := st.Commit(ctx, store.Commit{Put: map[string][]byte{RestoringKey: nil}}); err != nil {
		return nil, err
	}
	part, size := map[string][]byte{}, 0
	flush := func() error {
		_, err := st.Commit(ctx, store.Commit{Put: part})
		part, size = map[string][]byte{}, 0
		return err
	}
	c, err := readFile(file, key, func(r Record) error {
		if size += len(r.Key) + len(r.Value); size > restoreBytes || len(part) >= restoreKeys {
			if err := flush(); err != nil {
				return err
			}
			size = len(r.Key) + len(r.Value)
		}
		part[r.Key] = r.Value
		return nil
	})
	if err != nil {
		return nil, err
	}
	if c.SHA256 != want {
		return nil, errors.New("cannot restore: the file changed while it was read")
	}
	now := time.Now().UTC().Truncate(time.Second)
	for _, s := range sites {
		v, err := recovery.Mark(now, "restored from a backup of "+c.Time.Format(time.RFC3339))
		if err != nil {
			return nil, fmt.Errorf("cannot encode hold of %s: %w", s, err)
		}
		if part[publish.HeldKey(s)] = v; len(part) >= restoreKeys {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	part[publish.PendingKey] = []byte(now.Format(time.RFC3339))
	if err := flush(); err != nil {
		return nil, err
	}
	n := 0
	if err := st.Range(ctx, "", "", func(store.Entry) error { n++; return nil }); err != nil {
		return nil, err
	}
	// Beside the records: restoring, recovering, a hold for each site; those of the backup's own time are among its records.
	if n < c.Total.Records+1 || n > c.Total.Records+2+len(sites) {
		return nil, fmt.Errorf("cannot restore: %d records were written and %d are there", c.Total.Records, n)
	}
	_, err = st.Commit(ctx, store.Commit{Delete: []string{RestoringKey}})
	return sites, err
}

// verifier checks what is signed in a backup: the trust chain, and every site's chain up to its head.
type verifier struct {
	trust document.TrustChain
	heads map[string]intent.Head
	sites []string
	waits []Record // chains come before trust in the order of keys
}

func (v *verifier) record(r Record) error {
	dir, rest, _ := strings.Cut(r.Key, "/")
	switch dir {
	case "accepted": // before the stream, in the order of keys
		d, err := publish.DecodeAcceptance(r.Value)
		v.trust.Accepted = append(v.trust.Accepted, d)
		return err
	case "trust":
		env, err := document.Decode(r.Value)
		if err != nil {
			return err
		}
		if v.trust.Body == nil {
			v.trust.Pin = env.Digest()
		}
		_, err = v.trust.Accept(env)
		return err
	case "chain":
		v.waits = append(v.waits, r)
	case "head":
		h := intent.Head{}
		if err := json.Unmarshal(r.Value, &h); err != nil {
			return fmt.Errorf("cannot restore: head of %s: %w", rest, err)
		}
		v.heads[rest] = h
	case "object":
		if name, ok := strings.CutPrefix(rest, string(intent.KindSite)+"//"); ok {
			v.sites = append(v.sites, name)
		}
	}
	return nil
}

// end verifies the chains.
func (v *verifier) end() error {
	if v.trust.Body == nil {
		return fmt.Errorf("cannot restore: no trust document: %w", ErrBackup)
	}
	runs := map[string][]*intent.Envelope{}
	for _, r := range v.waits {
		site, _, _ := strings.Cut(strings.TrimPrefix(r.Key, "chain/"), "/")
		env, err := document.Decode(r.Value)
		if err != nil {
			return err
		}
		runs[site] = append(runs[site], env)
	}
	for site, head := range v.heads {
		chain := document.IntentChain{Site: site, Writers: v.trust.Body.Writers}
		if _, err := chain.AcceptRun(runs[site]); err != nil {
			return fmt.Errorf("cannot restore: chain of %s: %w", site, err)
		}
		if chain.Head != head {
			return fmt.Errorf("cannot restore: the chain of %s ends at %d.%d, its head says %d.%d: %w", site, chain.Head.Epoch, chain.Head.Seq, head.Epoch, head.Seq, ErrBackup)
		}
	}
	return nil
}
