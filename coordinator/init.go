package coordinator

import (
	"context"
	"crypto/ed25519"
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
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

// InitConfig says what domain is founded.
type InitConfig struct {
	Data   string            // directory, made 0700; must not hold a coordinator yet
	Domain string            // DNS name below which every site lies
	ID     string            // of this coordinator, a DNS label
	Addr   []string          // host:port at which agents and users reach it
	Admin  string            // name of the first administrator
	Etcd   *store.EtcdConfig // as Config.Etcd
	Logger *slog.Logger
}

// InitResult is shown once.
type InitResult struct {
	Pin   intent.Digest // of trust document 1
	Token string        // bearer token of the administrator
	CA    string        // file with R, for clients
}

// The files below DATA/keys.
const (
	fileRootSign = "root-sign.key"   // Ed25519, PKCS #8: signs trust documents
	fileNextSign = "next-sign.key"   // the announced next root
	fileWriter   = "writer.key"      // Ed25519: signs intent
	fileMaster   = backup.MasterFile // 32 octets: secrets at rest
	nameRoot     = "root"
	nameCA       = "ca"
)

// Init founds a domain: root, next root, coordinator CA, writer, trust document 1, and the first administrator. Everything
// is on disk when it returns; a second Init in the same directory is refused.
func Init(ctx context.Context, cfg InitConfig) (res *InitResult, err error) {
	if err := checkInit(cfg); err != nil {
		return nil, err
	}
	keys := filepath.Join(cfg.Data, "keys")
	if _, err := os.Stat(filepath.Join(keys, fileMaster)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot init: %s holds a coordinator already", cfg.Data)
	}
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, fmt.Errorf("cannot init: %w", err)
	}
	now := time.Now()
	env, err := makeTrust(cfg, keys, now)
	if err != nil {
		return nil, err
	}
	master := make([]byte, 32)
	rand.Read(master) // never fails: crypto/rand, Go 1.24
	if err := state.WriteFile(filepath.Join(keys, fileMaster), master); err != nil {
		return nil, err
	}
	st, db, err := openStore(ctx, cfg.Data, cfg.Etcd, master, cfg.Logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore(st, db)) }()
	res = &InitResult{Pin: env.Digest(), CA: filepath.Join(keys, nameRoot+".crt")}
	token, half := api.NewUserToken(0, now)
	res.Token = token
	return res, found(ctx, st, cfg, env, half, now)
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

// makeTrust makes every key of the domain and the signed trust document 1.
func makeTrust(cfg InitConfig, keys string, now time.Time) (*intent.Envelope, error) {
	root, err := ca.NewRoot(cfg.Domain, now)
	if err != nil {
		return nil, err
	}
	sub, err := root.Sub("C1", now)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(root.Save(keys, nameRoot), sub.Save(keys, nameCA)); err != nil {
		return nil, err
	}
	var signers [3]ed25519.PrivateKey
	for i, name := range []string{fileRootSign, fileNextSign, fileWriter} {
		if signers[i], err = publish.MakeSigner(filepath.Join(keys, name)); err != nil {
			return nil, err
		}
	}
	public := func(i int) []byte { return document.MarshalKey(signers[i].Public().(ed25519.PublicKey)) }
	next := intent.RootSet{Threshold: 1, Keys: [][]byte{public(1)}}
	body := intent.TrustBody{
		Header:       document.Follow(intent.Head{}, intent.StreamTrust, 0, now),
		Domain:       cfg.Domain,
		Roots:        intent.RootSet{Threshold: 1, Keys: [][]byte{public(0)}},
		Next:         next.Digest(),
		CAs:          []intent.CACert{{Cert: sub.Cert.Raw, Root: root.Cert.Raw, State: intent.KeyUse}},
		Coordinators: []intent.Coordinator{{ID: cfg.ID, Addr: cfg.Addr}},
		Writers:      []intent.Writer{{Key: public(2), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("cannot encode trust document: %w", err)
	}
	env, err := document.Sign(intent.PayloadTrust, payload, signers[0])
	if err != nil {
		return nil, err
	}
	check := document.TrustChain{Pin: env.Digest()}
	if _, err := check.Accept(env); err != nil {
		return nil, fmt.Errorf("cannot init: own trust document is refused: %w", err)
	}
	own, err := seal.LoadOrGenerate(keys)
	if err != nil {
		return nil, err
	}
	return env, certifyCoordinator(sub, own, cfg, keys, now)
}

// certifyCoordinator writes leaf.der and web.der beside the keys.
func certifyCoordinator(c *ca.CA, own *seal.Keys, cfg InitConfig, keys string, now time.Time) error {
	csr, err := ca.NewRequest(own.TLS)
	if err != nil {
		return err
	}
	leaf, err := c.Issue(csr, trust.Identity{Kind: trust.Coordinator, ID: cfg.ID}, now)
	if err != nil {
		return err
	}
	names, ips := hostsOf(cfg.Addr)
	web, err := c.IssueWeb(csr, append(names, cfg.ID+"."+cfg.Domain), ips, now)
	if err != nil {
		return err
	}
	return errors.Join(state.WriteFile(filepath.Join(keys, "leaf.der"), leaf.Raw), state.WriteFile(filepath.Join(keys, "web.der"), web.Raw))
}

// found writes the first objects and the trust chain in one commit.
func found(ctx context.Context, st store.Store, cfg InitConfig, env *intent.Envelope, half intent.UserToken, now time.Time) error {
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
	self, err := json.Marshal(cfg.ID)
	if err != nil {
		return fmt.Errorf("cannot encode id: %w", err)
	}
	_, err = st.Commit(ctx, store.Commit{
		If:  []store.Guard{{Key: "self"}},
		Put: map[string][]byte{"self": self, publish.TrustKey(1): wire, objectKey(admin.Key()): user},
	})
	if errors.Is(err, store.ErrConflict) {
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
