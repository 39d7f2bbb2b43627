package coordinator

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/skerry-metal/skerry/coordinator/backup"
	"github.com/skerry-metal/skerry/coordinator/rebuild"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/pki/seal"
)

// Lock says for whom a backup is encrypted: for age recipients, or by the passphrase in a file.
type Lock struct {
	Recipients []string // age1…
	Passphrase string   // path
}

// Unlock opens what a Lock closed.
type Unlock struct {
	Identity   string // path of a file that age-keygen made
	Passphrase string // path
}

func readPassphrase(path string) (seal.Secret, error) {
	if path == "" {
		return seal.Secret{}, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return seal.Secret{}, fmt.Errorf("cannot read passphrase: %w", err)
	}
	return seal.NewSecret(bytes.TrimRight(b, "\r\n")), nil
}

// Backup writes the coordinator below data to w; see backup.Save.
func Backup(ctx context.Context, data string, etcd *Etcd, lock Lock, log *slog.Logger, w io.Writer) (*backup.Report, error) {
	pass, err := readPassphrase(lock.Passphrase)
	if err != nil {
		return nil, err
	}
	return backup.Save(ctx, place(data, etcd, log), seal.Lock{Recipients: lock.Recipients, Passphrase: pass}, w)
}

// Restore makes a coordinator below data from a backup; see backup.Restore.
func Restore(ctx context.Context, file, data string, etcd *Etcd, key Unlock, log *slog.Logger) (*backup.Report, error) {
	pass, err := readPassphrase(key.Passphrase)
	if err != nil {
		return nil, err
	}
	return backup.Restore(ctx, place(data, etcd, log), file, seal.Key{Identity: key.Identity, Passphrase: pass})
}

func place(data string, etcd *Etcd, log *slog.Logger) backup.Place {
	return backup.Place{Data: data, Open: func(ctx context.Context, master []byte) (store.Store, func() error, error) {
		st, db, err := openStore(ctx, data, etcd, master, log)
		if err != nil {
			return nil, nil, err
		}
		return st, func() error { return closeStore(st, db) }, nil
	}}
}

// Rebuild makes a coordinator from what the sites have; see rebuild.Run. Place, Master and Now of cfg are set here.
func Rebuild(ctx context.Context, data string, etcd *Etcd, cfg rebuild.Config, log *slog.Logger) (*rebuild.Result, error) {
	cfg.Place, cfg.Master, cfg.Now = place(data, etcd, log), makeMaster, time.Now
	return rebuild.Run(ctx, cfg)
}
