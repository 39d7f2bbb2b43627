package intent

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// APIVersion is the only version of documents so far.
const APIVersion = "skerry/v1"

// Object is one document: what is wanted (Spec) and what was last seen (Status). Spec is a pointer to the kind's own struct
// (*SiteSpec, *MachineSpec, ...). Nothing writes both spec and status.
type Object struct {
	APIVersion string          `json:"apiVersion"`
	Kind       Kind            `json:"kind"`
	Metadata   Metadata        `json:"metadata"`
	Spec       Spec            `json:"spec"`
	Status     json.RawMessage `json:"status,omitempty"`
}

// Metadata names an object. Site is set for objects of one site, Project for users' kinds; see Scope.
type Metadata struct {
	Name    string            `json:"name"`
	Project string            `json:"project,omitempty"`
	Site    string            `json:"site,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	UID     string            `json:"uid,omitempty"`        // given once by whoever stores the object first; a re-created object has a new one
	Rev     uint64            `json:"generation,omitempty"` // rises by one with every change of spec or labels; If-Match compares it
	Created *time.Time        `json:"created,omitempty"`
	Origin  string            `json:"origin,omitempty"` // "override" while a site's own change is not acknowledged
}

// Spec is the wanted part of an object. validate adds what is wrong, with paths below "spec".
type Spec interface{ validate(c *checker) }

// Scope says which of project and site belong to a kind's key.
type Scope int

// The scopes.
const (
	ScopeGlobal  Scope = iota // neither: Site, MachineType, Image, Project, User, Group, Role, Asset
	ScopeSite                 // metadata.site: Machine, Agent, SubnetPool, Secret
	ScopeProject              // metadata.project: users' kinds, Quota
)

// KindInfo describes a kind for the API and the CLI.
type KindInfo struct {
	Kind     Kind
	Plural   string // path element and CLI name
	Short    string // CLI alias, may be empty
	Scope    Scope
	User     bool // a users' kind: may be overridden at a site
	NeedSite bool // metadata.site is required although it is no part of the key
	New      func() Spec
}

// Kinds lists every kind in the order in which documents are applied: nothing refers to a later one.
func Kinds() (out []KindInfo) {
	for _, k := range kinds() {
		info, _ := k.Info()
		out = append(out, info)
	}
	return out
}

// kinds is the order of Kinds.
func kinds() [18]Kind {
	return [...]Kind{
		KindSite, KindAgent, KindMachineType, KindSubnetPool, KindSecret, KindMachine, KindSwitch, KindAsset, KindImage, KindProject, KindRole, KindUser,
		KindGroup, KindQuota, KindSSHKey, KindNetwork, KindInfrastructure, KindInstanceArray,
	}
}

// Info returns what is known of k; ok is false for an unknown kind. It is asked for with each key of an object, and costs no allocation.
func (k Kind) Info() (info KindInfo, ok bool) {
	switch k {
	case KindSite:
		return KindInfo{k, "sites", "", ScopeGlobal, false, false, func() Spec { return &SiteSpec{} }}, true
	case KindAgent:
		return KindInfo{k, "agents", "", ScopeSite, false, true, func() Spec { return &AgentSpec{} }}, true
	case KindMachineType:
		return KindInfo{k, "machinetypes", "mt", ScopeGlobal, false, false, func() Spec { return &MachineTypeSpec{} }}, true
	case KindSubnetPool:
		return KindInfo{k, "subnetpools", "subnet", ScopeSite, false, true, func() Spec { return &SubnetPoolSpec{} }}, true
	case KindSecret:
		return KindInfo{k, "secrets", "", ScopeSite, false, true, func() Spec { return &SecretSpec{} }}, true
	case KindMachine:
		return KindInfo{k, "machines", "m", ScopeSite, false, true, func() Spec { return &MachineSpec{} }}, true
	case KindSwitch:
		return KindInfo{k, "switches", "sw", ScopeSite, false, true, func() Spec { return &SwitchSpec{} }}, true
	case KindAsset:
		return KindInfo{k, "assets", "", ScopeGlobal, false, false, func() Spec { return &AssetSpec{} }}, true
	case KindImage:
		return KindInfo{k, "images", "", ScopeGlobal, false, false, func() Spec { return &ImageSpec{} }}, true
	case KindProject:
		return KindInfo{k, "projects", "", ScopeGlobal, false, false, func() Spec { return &ProjectSpec{} }}, true
	case KindRole:
		return KindInfo{k, "roles", "", ScopeGlobal, false, false, func() Spec { return &RoleSpec{} }}, true
	case KindUser:
		return KindInfo{k, "users", "", ScopeGlobal, false, false, func() Spec { return &UserSpec{} }}, true
	case KindGroup:
		return KindInfo{k, "groups", "", ScopeGlobal, false, false, func() Spec { return &GroupSpec{} }}, true
	case KindQuota:
		return KindInfo{k, "quotas", "", ScopeProject, false, true, func() Spec { return &QuotaSpec{} }}, true
	case KindSSHKey:
		return KindInfo{k, "sshkeys", "", ScopeProject, true, false, func() Spec { return &SSHKeySpec{} }}, true
	case KindNetwork:
		return KindInfo{k, "networks", "net", ScopeProject, true, true, func() Spec { return &NetworkSpec{} }}, true
	case KindInfrastructure:
		return KindInfo{k, "infrastructures", "infra", ScopeProject, true, true, func() Spec { return &InfrastructureSpec{} }}, true
	case KindInstanceArray:
		return KindInfo{k, "instancearrays", "ia", ScopeProject, true, true, func() Spec { return &InstanceArraySpec{} }}, true
	}
	return KindInfo{}, false
}

// Selects tells whether o of this kind lies in the site and the project; "" is any. What has no site, or no project, lies in
// all of them: a default site must not hide the images.
func (i KindInfo) Selects(o *Object, site, project string) bool {
	return (site == "" || !i.NeedSite || o.Metadata.Site == site) &&
		(project == "" || i.Scope != ScopeProject || o.Metadata.Project == project)
}

// place is the kind's index in Kinds; behind all for an unknown one.
func (k Kind) place() int {
	all := kinds()
	if i := slices.Index(all[:], k); i >= 0 {
		return i
	}
	return len(all)
}

// Key identifies an object. Scope is the site, the project or empty, as the kind's Scope says.
type Key struct {
	Kind  Kind   `json:"kind"`
	Scope string `json:"scope,omitempty"`
	Name  string `json:"name"`
}

// String returns "Machine lon1/m1".
func (k Key) String() string {
	if k.Scope == "" {
		return string(k.Kind) + " " + k.Name
	}
	return string(k.Kind) + " " + k.Scope + "/" + k.Name
}

// Key returns the key of o. An object of an unknown kind has the global scope.
func (o *Object) Key() Key {
	info, _ := o.Kind.Info()
	k := Key{Kind: o.Kind, Name: o.Metadata.Name}
	switch info.Scope {
	case ScopeSite:
		k.Scope = o.Metadata.Site
	case ScopeProject:
		k.Scope = o.Metadata.Project
	}
	return k
}

// Clone returns a deep copy.
func (o *Object) Clone() *Object {
	b, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("intent: cannot encode own object: %v", err)) // every Spec is plain data
	}
	c := &Object{}
	if err := json.Unmarshal(b, c); err != nil {
		panic(fmt.Sprintf("intent: cannot decode own object: %v", err))
	}
	return c
}

// UnmarshalJSON decodes an object strictly: the kind chooses the type of spec. Errors: Problems.
func (o *Object) UnmarshalJSON(b []byte) error {
	var raw struct {
		APIVersion string          `json:"apiVersion"`
		Kind       Kind            `json:"kind"`
		Metadata   Metadata        `json:"metadata"`
		Spec       json.RawMessage `json:"spec"`
		Status     json.RawMessage `json:"status"`
	}
	if err := DecodeStrict(b, &raw); err != nil {
		return err
	}
	if raw.APIVersion != APIVersion {
		return Problems{{Path: "apiVersion", What: fmt.Sprintf("%q is not known", clip(raw.APIVersion, 40)), Fix: "use " + APIVersion}}
	}
	info, ok := raw.Kind.Info()
	if !ok {
		return Problems{{Path: "kind", What: fmt.Sprintf("%q is not known", clip(string(raw.Kind), 40)), Fix: "`skerry get kinds` lists them"}}
	}
	*o = Object{raw.APIVersion, raw.Kind, raw.Metadata, info.New(), raw.Status}
	if len(raw.Spec) == 0 {
		return nil
	}
	if err := DecodeStrict(raw.Spec, o.Spec); err != nil {
		ps, ok := err.(Problems)
		if !ok {
			return err
		}
		for i := range ps {
			ps[i].Path, ps[i].Line, ps[i].Column = join("spec", ps[i].Path), 0, 0
		}
		return ps
	}
	return nil
}

// DecodeObject decodes and validates one document of at most MaxObjectSize octets. Errors: Problems.
func DecodeObject(b []byte) (*Object, error) {
	if len(b) > MaxObjectSize {
		return nil, Problems{{What: fmt.Sprintf("the document has %d octets", len(b)), Fix: fmt.Sprintf("at most %d", MaxObjectSize)}}
	}
	o := &Object{}
	if err := o.UnmarshalJSON(b); err != nil {
		return nil, err
	}
	if err := o.Validate().Err(); err != nil {
		return nil, err
	}
	return o, nil
}
