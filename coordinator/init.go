package coordinator

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/skerry-metal/skerry/coordinator/backup"
	"github.com/skerry-metal/skerry/coordinator/founding"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/coordinator/succession"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

// InitConfig says what domain is founded.
type InitConfig struct {
	Data   string            // directory, made 0700; must not hold a coordinator yet
	Domain string            // DNS name below which every site lies
	ID     string            // of this coordinator, a DNS label
	Addr   []string          // host:port at which agents and users reach it
	Admin  string            // name of the first administrator
	Roots  string            // file of the roots that holders made; empty: the roots are made here, and this host is the one holder
	Signed string            // the offer that holders signed; empty: the one below Data
	Etcd   *store.EtcdConfig // as Config.Etcd
	Logger *slog.Logger
}

// InitResult is shown once.
type InitResult struct {
	Pin   intent.Digest // of trust document 1
	Token string        // bearer token of the administrator
	CA    string        // file with R, for clients

	// Offer, when set, is the file that holders are to sign before the domain is founded; Have of Of signatures are there.
	Offer    string
	Have, Of int
}

// The files below DATA/keys.
const (
	fileRootSign = founding.FileRootSign
	fileWriter   = founding.FileWriter
	fileMaster   = backup.MasterFile // 32 octets: secrets at rest
	nameCA       = founding.NameCA
)

// fileOffer is trust document 1 on its way round the holders, below DATA; it is there until the domain is founded.
const fileOffer = "trust1.json"

// Init founds a domain: roots, coordinator CA, writer, trust document 1, and the first administrator. With cfg.Roots holders elsewhere
// sign: the first call makes the keys and writes the offer, and one with enough signatures founds the domain. Everything is on disk
// when it returns; after a crash the same call goes on; where a domain was founded it is refused.
func Init(ctx context.Context, cfg InitConfig) (res *InitResult, err error) {
	if err := checkInit(cfg); err != nil {
		return nil, err
	}
	keys := founding.Keys{Dir: filepath.Join(cfg.Data, "keys"), Domain: cfg.Domain, ID: cfg.ID, Addr: cfg.Addr}
	offer := filepath.Join(cfg.Data, fileOffer)
	_, merr := os.Stat(filepath.Join(keys.Dir, fileMaster))
	_, oerr := os.Stat(offer)
	if !errors.Is(merr, fs.ErrNotExist) && errors.Is(oerr, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot init: %s holds a coordinator already", cfg.Data)
	}
	if err := os.MkdirAll(keys.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot init: %w", err)
	}
	now := time.Now()
	first, err := keys.First(offer, cfg.Roots, cfg.Signed, now)
	if err != nil {
		return nil, err
	}
	env := first.Envelope
	if env == nil {
		return &InitResult{Offer: offer, Have: first.Have, Of: first.Of}, nil
	}
	master, err := makeMaster(filepath.Join(keys.Dir, fileMaster))
	if err != nil {
		return nil, err
	}
	st, db, err := openStore(ctx, cfg.Data, cfg.Etcd, master, cfg.Logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore(st, db)) }()
	res = &InitResult{Pin: env.Digest(), CA: filepath.Join(keys.Dir, founding.NameRoot+".crt")}
	token, half := api.NewUserToken(0, now)
	res.Token = token
	if err := found(ctx, st, cfg, env, first.Next, half, now); err != nil {
		return nil, err
	}
	return res, os.Remove(offer)
}

func makeMaster(path string) ([]byte, error) {
	master, err := os.ReadFile(path)
	if err == nil && len(master) == 32 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return master, err
	}
	master = make([]byte, 32)
	rand.Read(master) // never fails: crypto/rand, Go 1.24
	return master, state.WriteFile(path, master)
}

func checkInit(cfg InitConfig) error {
	switch {
	case !intent.IsLabel(cfg.ID) || !intent.IsLabel(cfg.Admin):
		return errors.New("cannot init: --id and --admin are names of a-z, 0-9 and -")
	case cfg.Domain == "" || len(cfg.Domain) > 200:
		return errors.New("cannot init: give --domain, like edge.example")
	case len(cfg.Addr) == 0:
		return errors.New("cannot init: give --addr HOST:PORT at which agents reach the coordinator")
	}
	return nil
}

// found writes the first objects and the trust chain in one commit.
func found(ctx context.Context, st store.Store, cfg InitConfig, env *intent.Envelope, next *intent.RootSet, half intent.UserToken, now time.Time) error {
	created := now.UTC().Truncate(time.Second)
	admin := &intent.Object{
		APIVersion: intent.APIVersion, Kind: intent.KindUser,
		Metadata: intent.Metadata{Name: cfg.Admin, UID: newUID(), Rev: 1, Created: &created},
		Spec: &intent.UserSpec{DisplayName: "first administrator", Tokens: []intent.UserToken{half}, Bindings: []intent.RoleBinding{
			{Role: "operator"}, {Role: "security"}, {Role: "owner"},
		}},
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	user, err := json.Marshal(admin)
	if err != nil {
		return fmt.Errorf("cannot encode administrator: %w", err)
	}
	set, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("cannot encode next roots: %w", err)
	}
	self, err := json.Marshal(cfg.ID)
	if err != nil {
		return fmt.Errorf("cannot encode id: %w", err)
	}
	_, err = st.Commit(ctx, store.Commit{
		If:  []store.Guard{{Key: "self"}},
		Put: map[string][]byte{"self": self, publish.TrustKey(1): wire, succession.SetKey(next.Digest()): set, objectKey(admin.Key()): user},
	})
	if errors.Is(err, store.ErrConflict) {
		if e, gerr := st.Get(ctx, publish.TrustKey(1)); gerr == nil && bytes.Equal(e.Value, wire) { // a crash came before the token was shown
			_, err = st.Commit(ctx, store.Commit{Put: map[string][]byte{objectKey(admin.Key()): user}})
			return err
		}
		return errors.New("cannot init: this prefix of etcd holds a domain already; a second coordinator of it gets a copy of DATA/keys and no init")
	}
	return err
}

// openStore opens DATA/state, and the store of a coordinator: the same, or etcd.
func openStore(ctx context.Context, data string, shared *store.EtcdConfig, master []byte, log *slog.Logger) (store.Store, *state.DB, error) {
	key := intent.DigestOf(append([]byte("skerry/records/v1|"), master...))
	db, err := state.Open(state.Config{Dir: filepath.Join(data, "state"), Key: key[:], Logger: log})
	if err != nil {
		return nil, nil, err
	}
	var st store.Store
	if shared != nil {
		st, err = store.OpenEtcd(ctx, *shared)
	} else {
		st, err = store.OpenBadger(db)
	}
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return st, db, nil
}

func closeStore(st store.Store, db *state.DB) error {
	err := st.Close()
	if _, own := st.(*store.Badger); !own {
		err = errors.Join(err, db.Close())
	}
	return err
}
