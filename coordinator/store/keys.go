package store

// The layout of a coordinator's key space, as far as more than one room reads it. Chains, heads and what was published are
// coordinator/publish's.

// CatalogKey is written by every change of an object, so that one guard keeps two coordinators from changing the catalog at
// once: it is checked as a whole.
const CatalogKey = "catalog"

// The keys of an object; of an agent's roster entry, a site's roster; of a secret's value, its newest version, what of it an agent
// was told; of an agent's data key, the highest number of those that a lost store made; of decisions on overrides.
func ObjectKey(kind, scope, name string) string { return "object/" + kind + "/" + scope + "/" + name }
func AgentKey(site, id string) string           { return "agentkeys/" + site + "/" + id }
func RosterKey(site string) string              { return "roster/" + site }
func SecretKey(site, name string) string        { return "secret/" + site + "/" + name }
func VersionKey(site, name string) string       { return "secretver/" + site + "/" + name }
func ToldKey(site, agent, name string) string   { return "told/" + site + "/" + agent + "/" + name }
func DEKKey(site, agent string) string          { return "dek/" + site + "/" + agent }
func DEKNumberKey(site, agent string) string    { return "deknum/" + site + "/" + agent }
func OverrideKey(site, id string) string        { return "override/" + site + "/" + id }
func AckKey(site, id string) string             { return "ack/" + site + "/" + id }

// AssetGoneKey is the mark of a deleted asset, by the hex digits of its digest; it lets the octets go.
func AssetGoneKey(digest string) string { return "assetgone/" + digest }
