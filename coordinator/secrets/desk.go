package secrets

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// The values of a secret of type bmc.
const (
	User     = "username"
	Password = "password"
	// Previous is the password before, in the version of a change that not every BMC has taken. It is ours: no document has it.
	Previous = "previous-password"
)

// ours refuses documents that give a value which only a change of passwords makes.
func ours(docs []*intent.Object) error {
	for _, o := range docs {
		if s, ok := o.Spec.(*intent.SecretSpec); ok && s.Data[Previous] != "" {
			return api.Invalid([]intent.ObjectProblem{{Key: o.Key(), Problem: intent.Problem{
				Path: "spec.data." + Previous, What: "is not given by hand", Fix: "give " + Password + " alone, or change it at the BMCs with `skerry secret rotate --bmc " + o.Metadata.Name + "`",
			}}})
		}
	}
	return nil
}

// Desk makes secrets anew: data keys of agents, passwords of BMCs. Every field is set.
type Desk struct {
	*Secrets
	Audit   *auditlog.Log
	Now     func() time.Time
	Catalog func() *intent.Catalog
	Roster  func(ctx context.Context, site string) (*intent.RosterBody, error) // nil: a site without agents
	// Apply changes the catalog and commits more with it. Errors: *api.Error for what does not fit.
	Apply func(ctx context.Context, by api.Caller, b api.Batch, more store.Commit) ([]api.Result, error)
	// Publish brings a site's chain up to what is wanted.
	Publish func(ctx context.Context, site string) error
	// Reports returns what a site last said of its machines, and its agents of themselves.
	Reports func(site string) (map[string]intent.MachineStatus, map[string]*intent.KeyReport)
	Lock    func(site string) (unlock func()) // makes the caller the only one who tells a site anything
	Log     *slog.Logger
}

// change is the last one of a secret. While it is not done, some BMC may know the password before alone; then the version after Ver has
// the same password as Ver.
type change struct {
	Ver   uint64    `json:"ver"`
	Since time.Time `json:"since"`
	Done  bool      `json:"done,omitempty"`
}

// Check refuses documents with values of secrets that are not theirs to give: the password before of a change; and, unless they name the
// version that they replace as `skerry secret set` does, another password than one that was drawn here. A manifest from before the change,
// applied again, would shut the site out of its BMCs.
//
// The guards go into the commit of the documents: no change begins between.
func (d *Desk) Check(ctx context.Context, b api.Batch) (guards []store.Guard, err error) {
	if err := ours(b.Put); err != nil {
		return nil, err
	}
	for _, o := range b.Put {
		s, ok := o.Spec.(*intent.SecretSpec)
		if _, meant := b.IfMatch[o.Key()]; !ok || meant || len(s.Data) == 0 {
			continue
		}
		drawn, guard, err := d.drawn(ctx, o.Metadata.Site, o.Metadata.Name)
		if err != nil {
			return nil, err
		}
		guards = append(guards, guard)
		if drawn != "" && s.Data[Password] != drawn {
			return nil, api.Invalid([]intent.ObjectProblem{{Key: o.Key(), Problem: intent.Problem{
				Path: "spec.data", What: "is not what the BMCs have: their password was drawn here, and set there",
				Fix: "leave the secret out of what you apply; what was set by hand at the BMCs is told with `skerry secret set " + o.Metadata.Name + " --site " + o.Metadata.Site + "`",
			}}})
		}
	}
	return guards, nil
}

// drawn returns the password of a secret if it was drawn here, and not given by hand since, and the guard under which that holds.
func (d *Desk) drawn(ctx context.Context, site, name string) (string, store.Guard, error) {
	ch, rev, err := d.lastChange(ctx, site, name)
	guard := store.Guard{Key: changeKey(site, name), Rev: rev}
	o := d.Catalog().Get(intent.Key{Kind: intent.KindSecret, Scope: site, Name: name})
	if err != nil || o == nil || ch == nil {
		return "", guard, err
	}
	at := ch.Ver
	if ch.Done {
		at++ // without the one before
	}
	if o.Spec.(*intent.SecretSpec).Ver != at {
		return "", guard, nil
	}
	v, err := d.values(ctx, site, name)
	if errors.Is(err, api.ErrNotFound) {
		return "", guard, nil
	}
	return v[Password], guard, err
}

const changePrefix = "bmcchange/"

func changeKey(site, name string) string { return changePrefix + site + "/" + name }

// RotateSecrets implements api.Vault.
func (d *Desk) RotateSecrets(ctx context.Context, by api.Caller, site string, r api.SecretRotation) (*api.SecretStatus, error) {
	if r.BMC != "" && r.Agent != "" {
		return nil, api.Refuse("name an agent or a secret, not both")
	}
	if r.BMC != "" {
		if err := d.changePassword(ctx, by, site, r); err != nil {
			return nil, err
		}
		if !r.DryRun {
			d.Finish(ctx, site) // where no machine uses it, nobody is waited for
		}
		return d.SecretStatus(ctx, site)
	}
	roster, err := d.Roster(ctx, site)
	if err != nil {
		return nil, err
	}
	var agents []string
	from := map[string]uint64{}
	if roster != nil {
		for _, a := range roster.Agents {
			if r.Agent == "" || a.ID == r.Agent {
				agents = append(agents, a.ID)
			}
		}
	}
	if len(agents) == 0 {
		return nil, api.ErrNotFound
	}
	for _, id := range agents {
		if from[id], err = d.Number(ctx, site, id); err != nil {
			return nil, err
		}
	}
	if !r.DryRun {
		line := by.Audit("secret.rotate", "data keys of "+site+"/"+strings.Join(agents, " "), r.Reason)
		if err := d.renew(ctx, site, agents, line); err != nil {
			return nil, err
		}
		if err := d.Publish(ctx, site); err != nil {
			return nil, err
		}
	}
	st, err := d.SecretStatus(ctx, site)
	if err != nil {
		return nil, err
	}
	st.DataKeys = slices.DeleteFunc(st.DataKeys, func(k api.DataKeyStatus) bool { return !slices.Contains(agents, k.Agent) })
	for i := range st.DataKeys {
		k := &st.DataKeys[i]
		if k.From = from[k.Agent]; r.DryRun {
			k.DEK = k.From + 1
		}
	}
	st.BMCs = []api.BMCSecret{}
	return st, nil
}

// renew is one commit after which the agents get new data keys, with its audit line.
func (d *Desk) renew(ctx context.Context, site string, agents []string, line intent.AuditRecord) error {
	defer d.Lock(site)()
	c := store.Commit{Put: map[string][]byte{}}
	if err := d.resealAll(ctx, site, agents, &c); err != nil {
		return err
	}
	_, err := d.Audit.Commit(ctx, line, c)
	return err
}

// resealAll adds to a commit what gives agents new data keys.
func (d *Desk) resealAll(ctx context.Context, site string, agents []string, c *store.Commit) error {
	for _, id := range agents {
		r, err := d.Reseal(ctx, site, id)
		if err != nil {
			return err
		}
		maps.Copy(c.Put, r.Put)
		c.Delete = append(c.Delete, r.Delete...)
	}
	return nil
}

// RenewReaders gives the agents of a site new data keys once per cause: one of those that read the same secrets was revoked. done tells
// that this call did.
func (d *Desk) RenewReaders(ctx context.Context, site, cause string) (done bool, err error) {
	marker := "resealed/" + site + "/" + cause
	if _, err := d.Store.Get(ctx, marker); !errors.Is(err, store.ErrAbsent) {
		return false, err
	}
	defer d.Lock(site)()
	roster, err := d.Roster(ctx, site)
	if err != nil || roster == nil {
		return false, err
	}
	var agents []string
	for _, a := range roster.Agents {
		agents = append(agents, a.ID)
	}
	c := store.Commit{If: []store.Guard{{Key: marker}}, Put: map[string][]byte{marker: []byte("1")}}
	if err := d.resealAll(ctx, site, agents, &c); err != nil {
		return false, err
	}
	return once(d.Store.Commit(ctx, c))
}

// passwordLetters are what every BMC takes; passwordLength is what the oldest of them keep (IPMI 2.0, section 22.30: 16 or 20 octets).
const (
	passwordLetters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	passwordLength  = 16
)

// newPassword draws 16 letters and digits, of each class at least one: policies ask for it.
func newPassword() string {
	for {
		b := make([]byte, passwordLength)
		rand.Read(b) // never fails: crypto/rand, Go 1.24
		for i := range b {
			for int(b[i]) >= 256/len(passwordLetters)*len(passwordLetters) { // no letter likelier than another
				rand.Read(b[i : i+1])
			}
			b[i] = passwordLetters[int(b[i])%len(passwordLetters)]
		}
		s := string(b)
		if strings.ContainsAny(s, "23456789") && strings.ToUpper(s) != s && strings.ToLower(s) != s {
			return s
		}
	}
}

// values opens a secret's values.
func (d *Desk) values(ctx context.Context, site, name string) (map[string]string, error) {
	e, err := d.Store.Get(ctx, store.SecretKey(site, name))
	if errors.Is(err, store.ErrAbsent) {
		return nil, api.ErrNotFound
	}
	var rec intent.SealedRecord
	var v map[string]string
	if err == nil {
		err = json.Unmarshal(e.Value, &rec)
	}
	if err == nil {
		plain, oerr := d.Master.Open(d.Binding, rec)
		if err = oerr; err == nil {
			err = json.Unmarshal(plain.Reveal(), &v)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read secret %s/%s: %w", site, name, err)
	}
	return v, nil
}

// changePassword makes the next version of a bmc secret: a new password, and the one before it until every BMC took the new one.
// markers are written with it.
func (d *Desk) changePassword(ctx context.Context, by api.Caller, site string, r api.SecretRotation, markers ...string) error {
	key := intent.Key{Kind: intent.KindSecret, Scope: site, Name: r.BMC}
	o := d.Catalog().Get(key)
	if o == nil {
		return api.ErrNotFound
	}
	if spec := o.Spec.(*intent.SecretSpec); spec.Type != "bmc" {
		return api.Refuse(fmt.Sprintf("secret %s is of type %s: what it opens is not known here; `skerry secret set` gives it a value", r.BMC, spec.Type))
	}
	last, at, err := d.lastChange(ctx, site, r.BMC)
	if err != nil {
		return err
	}
	if last != nil && !last.Done {
		return api.Refuse(fmt.Sprintf("a change of secret %s is under way, and some BMC may know the password before it alone: `skerry secret status --site %s`", r.BMC, site))
	}
	v, err := d.values(ctx, site, r.BMC)
	if errors.Is(err, api.ErrNotFound) {
		return api.Refuse(fmt.Sprintf("the value of secret %s was lost with the store that made it, and only the site's agents have it: set another password at the BMCs, then tell it with `skerry secret set %s --site %s`", r.BMC, r.BMC, site))
	}
	if err != nil || r.DryRun {
		return err
	}
	v[Previous], v[Password] = v[Password], newPassword()
	mark, err := json.Marshal(change{Ver: o.Spec.(*intent.SecretSpec).Ver + 1, Since: d.Now().UTC()})
	if err != nil {
		return fmt.Errorf("cannot encode change: %w", err)
	}
	more := store.Commit{If: []store.Guard{{Key: changeKey(site, r.BMC), Rev: at}}, Put: map[string][]byte{changeKey(site, r.BMC): mark}}
	for _, m := range markers {
		more.Put[m] = []byte("1")
	}
	if err := d.put(ctx, by, o, v, strings.TrimSuffix("new BMC password: "+r.Reason, ": "), more); err != nil {
		return err
	}
	return d.Publish(ctx, site)
}

// ChangeExposed begins the change of every password that a revoked agent could read, and says how far all of them are: asked again, it
// goes on.
func (d *Desk) ChangeExposed(ctx context.Context, by api.Caller, site string, exposed []string, q api.RevokeRequest) ([]api.BMCSecret, error) {
	var names []string
	held := map[string]string{}
	for _, name := range exposed {
		o := d.Catalog().Get(intent.Key{Kind: intent.KindSecret, Scope: site, Name: name})
		if o == nil || o.Spec.(*intent.SecretSpec).Type != "bmc" {
			continue
		}
		names = append(names, name)
		marker := "exposed/" + site + "/" + name + "/" + q.ID
		if _, err := d.Store.Get(ctx, marker); err == nil || q.DryRun {
			continue // it was changed since this agent read it
		} else if !errors.Is(err, store.ErrAbsent) {
			return nil, err
		}
		err := d.changePassword(ctx, by, site, api.SecretRotation{BMC: name, Reason: "agent " + q.ID + " was revoked: " + q.Reason}, marker)
		if e, ok := errors.AsType[*api.Error](err); ok && e.Status < 500 {
			held[name] = e.Error()
		} else if err != nil {
			return nil, err
		}
	}
	st, err := d.SecretStatus(ctx, site)
	if err != nil {
		return nil, err
	}
	for i := range st.BMCs {
		st.BMCs[i].Held = held[st.BMCs[i].Name]
	}
	return slices.DeleteFunc(st.BMCs, func(b api.BMCSecret) bool { return !slices.Contains(names, b.Name) }), nil
}

func (d *Desk) put(ctx context.Context, by api.Caller, o *intent.Object, v map[string]string, reason string, more store.Commit) error {
	next := o.Clone()
	next.Spec.(*intent.SecretSpec).Data = v
	b := api.Batch{Put: []*intent.Object{next}, IfMatch: map[intent.Key]string{o.Key(): api.ETag(o)}, Reason: reason}
	_, err := d.Apply(ctx, by, b, more)
	return err
}

// Finish ends the changes of passwords that every BMC of a site took: the next version of the secret is without the one before. It
// is called when a site has reported; a coordinator that died half-way does it at the next report.
func (d *Desk) Finish(ctx context.Context, site string) {
	err := d.Store.Range(ctx, changeKey(site, ""), "", func(e store.Entry) error { return d.finish(ctx, site, e) })
	if err != nil && ctx.Err() == nil {
		d.Log.Error("change of a BMC password not ended", "site", site, "err", err)
	}
}

func (d *Desk) finish(ctx context.Context, site string, e store.Entry) error {
	name := strings.TrimPrefix(e.Key, changeKey(site, ""))
	var ch change
	if err := json.Unmarshal(e.Value, &ch); err != nil {
		return fmt.Errorf("cannot read %s: %w", e.Key, err)
	}
	if ch.Done {
		return nil
	}
	ch.Done = true
	b, err := json.Marshal(ch)
	if err != nil {
		return fmt.Errorf("cannot encode change: %w", err)
	}
	over := store.Commit{If: []store.Guard{{Key: e.Key, Rev: e.Rev}}, Put: map[string][]byte{e.Key: b}}
	o := d.Catalog().Get(intent.Key{Kind: intent.KindSecret, Scope: site, Name: name})
	if o == nil || o.Spec.(*intent.SecretSpec).Ver > ch.Ver { // deleted, or somebody gave it another value by hand
		_, err := d.Store.Commit(ctx, over)
		return err
	}
	if st := d.bmc(o, nil); st.Left() > 0 {
		return nil
	}
	v, err := d.values(ctx, site, name)
	if err != nil {
		return err
	}
	delete(v, Previous)
	by := api.Caller{User: "coordinator", Via: "secret.rotate"}
	if err := d.put(ctx, by, o, v, "every BMC took the new password", over); err != nil {
		return err
	}
	return d.Publish(ctx, site)
}

// lastChange returns the last change of a secret, nil for none, and the revision of its record.
func (d *Desk) lastChange(ctx context.Context, site, name string) (*change, uint64, error) {
	e, err := d.Store.Get(ctx, changeKey(site, name))
	if errors.Is(err, store.ErrAbsent) {
		return nil, 0, nil
	}
	ch := &change{}
	if err == nil {
		err = json.Unmarshal(e.Value, ch)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read change of secret %s/%s: %w", site, name, err)
	}
	return ch, e.Rev, nil
}

// bmc is how far the BMCs are that a secret opens, after its last change if there was one.
func (d *Desk) bmc(o *intent.Object, ch *change) api.BMCSecret {
	site := o.Metadata.Site
	st := api.BMCSecret{Name: o.Metadata.Name, Ver: o.Spec.(*intent.SecretSpec).Ver, Machines: []api.BMCMachine{}}
	from := st.Ver // the first version with this password
	switch {
	case ch != nil && !ch.Done && ch.Ver == st.Ver:
		st.Since = &ch.Since
	case ch != nil && ch.Done && ch.Ver+1 == st.Ver:
		from = ch.Ver
	}
	machines, _ := d.Reports(site)
	for _, m := range d.Catalog().List(intent.KindMachine) {
		spec := m.Spec.(*intent.MachineSpec)
		if m.Metadata.Site != site || spec.BMC == nil || spec.BMC.Secret != o.Metadata.Name {
			continue
		}
		ver := machines[m.Metadata.Name].BMCSecret
		st.Machines = append(st.Machines, api.BMCMachine{Machine: m.Metadata.Name, Ver: ver, Done: ver >= from})
	}
	return st
}

// SecretStatus implements api.Vault.
func (d *Desk) SecretStatus(ctx context.Context, site string) (*api.SecretStatus, error) {
	c := d.Catalog()
	if c.Get(intent.Key{Kind: intent.KindSite, Name: site}) == nil {
		return nil, api.ErrNotFound
	}
	st := &api.SecretStatus{Site: site, DataKeys: []api.DataKeyStatus{}, BMCs: []api.BMCSecret{}}
	for _, o := range c.List(intent.KindSecret) {
		if s := o.Spec.(*intent.SecretSpec); o.Metadata.Site == site && s.Type == "bmc" {
			ch, _, err := d.lastChange(ctx, site, o.Metadata.Name)
			if err != nil {
				return nil, err
			}
			st.BMCs = append(st.BMCs, d.bmc(o, ch))
		}
	}
	roster, err := d.Roster(ctx, site)
	if err != nil || roster == nil {
		return st, err
	}
	_, keys := d.Reports(site)
	for _, a := range roster.Agents {
		k := api.DataKeyStatus{Agent: a.ID}
		if k.DEK, err = d.Number(ctx, site, a.ID); err != nil {
			return nil, err
		}
		prefix := store.ToldKey(site, a.ID, "")
		if err := d.Store.Range(ctx, prefix, "", func(store.Entry) error { k.Records++; return nil }); err != nil {
			return nil, err
		}
		if r := keys[a.ID]; r != nil {
			k.Applied, k.Behind = r.DEK, r.Behind
		}
		st.DataKeys = append(st.DataKeys, k)
	}
	return st, nil
}
