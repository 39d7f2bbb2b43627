package intent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ProjectSpec is a tenant.
type ProjectSpec struct {
	DisplayName string   `json:"displayName,omitempty"`
	Sites       []string `json:"sites"` // where it may ask for machines
}

func (s *ProjectSpec) validate(c *checker) {
	c.text("displayName", s.DisplayName, 128)
	if len(s.Sites) > 4096 {
		c.add("sites", "more than 4096", "make another project")
	}
	for i, n := range s.Sites {
		c.label(fmt.Sprintf("sites[%d]", i), n)
	}
}

// UserSpec is a person or a program. A bearer token sku1.<id>.<secret> is kept as id and SHA-256 of the secret, so that any
// agent verifies it offline; a client certificate counts when one of Keys signed it for itself (trust.md section 8).
type UserSpec struct {
	DisplayName string        `json:"displayName,omitempty"`
	Tokens      []UserToken   `json:"tokens,omitempty"`
	Keys        []UserKey     `json:"keys,omitempty"` // of client certificates; a key stands on one user only
	Bindings    []RoleBinding `json:"bindings"`
	BreakGlass  bool          `json:"breakGlass,omitempty"` // for emergencies: operator and security at one site, by key only; every use alarms
}

// UserKey is a public key with whose self-signed certificate a user authenticates. Nothing is issued.
type UserKey struct {
	Public  string     `json:"public"`            // SubjectPublicKeyInfo of an Ed25519 or P-256 key: PEM, or base64 of its DER
	Expires *time.Time `json:"expires,omitempty"` // nil: never; the certificate's own dates do not count
}

// maxUserKey bounds the text of one key, in octets: PEM of a P-256 key has 178.
const maxUserKey = 1024

// SPKI returns the SHA-256 of the key's SubjectPublicKeyInfo: what names it in certificates and in revocations.
func (k UserKey) SPKI() (Digest, error) {
	if len(k.Public) > maxUserKey {
		return Digest{}, errors.New("is too long for a public key")
	}
	var der []byte
	if block, rest := pem.Decode([]byte(k.Public)); block != nil {
		if block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
			return Digest{}, errors.New("is not one PEM block of type PUBLIC KEY")
		}
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(strings.TrimSpace(k.Public)); err != nil {
			return Digest{}, errors.New("is neither PEM nor base64")
		}
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Digest{}, errors.New("is no public key")
	}
	switch p := pub.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return Digest{}, errors.New("is on another curve than P-256")
		}
	default:
		return Digest{}, errors.New("is neither Ed25519 nor P-256")
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, der) {
		return Digest{}, errors.New("is not in the form that certificates carry") // its hash would match no certificate
	}
	return DigestOf(der), nil
}

// UserToken is the verifiable half of a bearer token.
type UserToken struct {
	ID      string     `json:"id"`
	SHA256  Digest     `json:"sha256"`
	Expires *time.Time `json:"expires,omitempty"` // nil: never
}

// RoleBinding gives a role, in one project or site or everywhere.
type RoleBinding struct {
	Role    string `json:"role"`
	Project string `json:"project,omitempty"` // "": every project
	Site    string `json:"site,omitempty"`    // "": every site
}

func (s *UserSpec) validate(c *checker) {
	c.text("displayName", s.DisplayName, 128)
	if len(s.Tokens) > 64 || len(s.Keys) > 16 {
		c.add("", "more than 64 tokens or 16 keys", "remove some, or make another user")
	}
	for i, k := range s.Keys {
		if _, err := k.SPKI(); err != nil {
			c.add(fmt.Sprintf("keys[%d].public", i), err.Error(), "`skerry user key create FILE` makes a key and prints its public half")
		}
	}
	if s.BreakGlass {
		s.validateBreakGlass(c)
	}
	for i, t := range s.Tokens {
		c.label(fmt.Sprintf("tokens[%d].id", i), t.ID)
		if t.SHA256.IsZero() {
			c.add(fmt.Sprintf("tokens[%d].sha256", i), "is missing", "`skerry token user NAME` makes a token")
		}
	}
	validateBindings(c, s.Bindings)
}

// validateBreakGlass holds what an emergency user is: two roles at one site, and a key.
func (s *UserSpec) validateBreakGlass(c *checker) {
	if len(s.Tokens) > 0 || len(s.Keys) == 0 {
		c.add("breakGlass", "wants a key and no token", "`skerry user break-glass create --site SITE --out FILE` makes one")
	}
	roles := map[string]bool{}
	for _, b := range s.Bindings {
		if b.Site == "" || b.Project != "" || b.Site != s.Bindings[0].Site || (b.Role != "operator" && b.Role != "security") {
			roles = nil
			break
		}
		roles[b.Role] = true
	}
	if len(roles) != 2 || len(s.Bindings) != 2 {
		c.add("bindings", "a break-glass user is operator and security at one site", "make it with `skerry user break-glass create --site SITE --out FILE`")
	}
}

func validateBindings(c *checker, bindings []RoleBinding) {
	if len(bindings) > 256 {
		c.add("bindings", "more than 256", "bind by project, or make another group")
	}
	for i, b := range bindings {
		c.label(fmt.Sprintf("bindings[%d].role", i), b.Role)
		c.optionalLabel(fmt.Sprintf("bindings[%d].project", i), b.Project)
		c.optionalLabel(fmt.Sprintf("bindings[%d].site", i), b.Site)
	}
}

// GroupSpec gives its members its bindings, beside their own.
type GroupSpec struct {
	DisplayName string        `json:"displayName,omitempty"`
	Members     []string      `json:"members"` // users; at most 4096
	Bindings    []RoleBinding `json:"bindings"`
}

func (s *GroupSpec) validate(c *checker) {
	c.text("displayName", s.DisplayName, 128)
	if len(s.Members) > 4096 {
		c.add("members", "more than 4096", "make another group")
	}
	seen := map[string]bool{}
	for i, m := range s.Members {
		c.label(fmt.Sprintf("members[%d]", i), m)
		if seen[m] {
			c.add(fmt.Sprintf("members[%d]", i), clip(m, 63)+" is there twice", "remove one")
		}
		seen[m] = true
	}
	validateBindings(c, s.Bindings)
}

// RoleSpec is a role beside the built-in ones: a list of rows of the authorisation table.
type RoleSpec struct {
	Rules []Rule `json:"rules"`
}

// Rule allows each of its verbs on each of its kinds; both are listed by name.
type Rule struct {
	Verbs []Verb `json:"verbs"`
	Kinds []Kind `json:"kinds"`
}

func (s *RoleSpec) validate(c *checker) {
	if len(s.Rules) == 0 || len(s.Rules) > 64 {
		c.add("rules", fmt.Sprintf("%d rules", len(s.Rules)), "give 1 to 64")
	}
	for i, r := range s.Rules {
		for j, v := range r.Verbs {
			c.oneOf(fmt.Sprintf("rules[%d].verbs[%d]", i, j), string(v), verbNames()...)
		}
		for j, k := range r.Kinds {
			if info, ok := k.Info(); !ok || !info.User {
				c.add(fmt.Sprintf("rules[%d].kinds[%d]", i, j), fmt.Sprintf("%q is not a users' kind", clip(string(k), 40)), "own roles reach users' kinds only; use a built-in role for the rest")
			}
		}
	}
}

// QuotaSpec bounds a project at one site; Offline is what it may add while the site is cut off.
type QuotaSpec struct {
	Machines map[string]int `json:"machines,omitempty"` // by machine type; a type that is not named has 0
	Offline  OfflineQuota   `json:"offline"`
}

// OfflineQuota is charged by overrides.
type OfflineQuota struct {
	Machines map[string]int `json:"machines,omitempty"`
}

func (s *QuotaSpec) validate(c *checker) {
	counts := func(path string, m map[string]int) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			c.label(path, k)
			c.count(path+"."+clip(k, 63), m[k], 0, 1<<20)
		}
	}
	counts("machines", s.Machines)
	counts("offline.machines", s.Offline.Machines)
}

// SSHKeySpec is one public key in the authorized_keys format, without options.
type SSHKeySpec struct {
	PublicKey string `json:"publicKey"`
}

func (s *SSHKeySpec) validate(c *checker) {
	f := strings.Fields(s.PublicKey)
	ok := len(f) >= 2 && len(s.PublicKey) <= 16384 && printable(s.PublicKey) &&
		(strings.HasPrefix(f[0], "ssh-") || strings.HasPrefix(f[0], "ecdsa-") || strings.HasPrefix(f[0], "sk-"))
	if !ok {
		c.add("publicKey", "is no public key", "give one line like `ssh-ed25519 AAAA... name`")
	}
}

// NetworkSpec is a users' network: addresses come out of a subnet pool of the site.
type NetworkSpec struct {
	SubnetPool string `json:"subnetPool"`
}

func (s *NetworkSpec) validate(c *checker) { c.label("subnetPool", s.SubnetPool) }

// InfrastructureSpec is a project's named group at one site.
type InfrastructureSpec struct {
	Description string `json:"description,omitempty"`
}

func (s *InfrastructureSpec) validate(c *checker) { c.text("description", s.Description, 256) }

// InstanceArraySpec is N instances alike.
type InstanceArraySpec struct {
	Infrastructure string   `json:"infrastructure"`
	Count          int      `json:"count"`
	MachineType    string   `json:"machineType"`
	Image          string   `json:"image"`
	Networks       []string `json:"networks,omitempty"`
	SSHKeys        []string `json:"sshKeys,omitempty"`
	UserData       string   `json:"userData,omitempty"` // cloud-init user-data, at most 64 KiB; not for secrets: it lies on the machine's seed partition
}

// MaxInstances bounds one instance array.
const MaxInstances = 4096

func (s *InstanceArraySpec) validate(c *checker) {
	c.label("infrastructure", s.Infrastructure)
	c.count("count", s.Count, 0, MaxInstances)
	c.label("machineType", s.MachineType)
	c.label("image", s.Image)
	for i, n := range s.Networks {
		c.label(fmt.Sprintf("networks[%d]", i), n)
	}
	if len(s.Networks) > 8 {
		c.add("networks", "more than 8", "a machine gets at most 8 networks: remove some")
	}
	for i, n := range s.SSHKeys {
		c.label(fmt.Sprintf("sshKeys[%d]", i), n)
	}
	if len(s.UserData) > 64<<10 {
		c.add("userData", "longer than 64 KiB", "put large files elsewhere and fetch them")
	}
}
