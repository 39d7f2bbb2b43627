package cli

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/skerry-metal/skerry/coordinator"
	"github.com/spf13/cobra"
)

// coordinatorFile is the coordinator's configuration file; flags and SKERRY_* win over it.
type coordinatorFile struct {
	Data         string   `yaml:"data"`
	Listen       string   `yaml:"listen"`
	Metrics      string   `yaml:"metrics"`
	Spread       string   `yaml:"spread"`
	ReserveBytes uint64   `yaml:"reserveBytes"`
	LogLevel     string   `yaml:"logLevel"`
	URLAllow     []string `yaml:"urlAllow"`
	Store        string   `yaml:"store"`
	Etcd         struct {
		Endpoints []string `yaml:"endpoints"`
		Prefix    string   `yaml:"prefix"`
		CA        string   `yaml:"ca"`
		Cert      string   `yaml:"cert"`
		Key       string   `yaml:"key"`
	} `yaml:"etcd"`
}

// storeFlags say where a coordinator keeps its state; every command that opens it has them.
type storeFlags struct {
	file, kind string
	etcd       coordinator.Etcd
}

const (
	storeEmbedded = "embedded"
	storeEtcd     = "etcd"
)

func (s *storeFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.file, "config", "", "YAML file")
	f.StringVar(&s.kind, "store", storeEmbedded, "embedded, or etcd for several coordinators of one domain")
	f.StringSliceVar(&s.etcd.Endpoints, "etcd-endpoints", nil, "https://HOST:2379 of each member")
	f.StringVar(&s.etcd.Prefix, "etcd-prefix", coordinator.DefaultEtcdPrefix, "key below which this domain lies")
	f.StringVar(&s.etcd.CA, "etcd-ca", "", "PEM file that vouches for the members")
	f.StringVar(&s.etcd.Cert, "etcd-cert", "", "PEM file of the certificate that is shown to etcd")
	f.StringVar(&s.etcd.Key, "etcd-key", "", "PEM file of its key")
}

// coordinatorSettings reads the file, then SKERRY_*; flags that were given stay. It returns the log of the level that they say.
func (a *app) coordinatorSettings(c *cobra.Command, s *storeFlags, cfg *coordinator.Config, level string) (*slog.Logger, error) {
	if err := a.readSettings(c, s, cfg, &level); err != nil {
		return nil, err
	}
	return a.logger(level)
}

func (a *app) readSettings(c *cobra.Command, s *storeFlags, cfg *coordinator.Config, level *string) error {
	var cf coordinatorFile
	if s.file != "" {
		b, err := os.ReadFile(s.file)
		if err != nil {
			return fmt.Errorf("cannot read configuration: %w", err)
		}
		if err := yaml.UnmarshalWithOptions(b, &cf, yaml.Strict()); err != nil {
			return fmt.Errorf("cannot use configuration %s: %w", s.file, err)
		}
	}
	spread, reserve, endpoints, allow := "", "", "", ""
	if cf.ReserveBytes > 0 {
		reserve = strconv.FormatUint(cf.ReserveBytes, 10)
	}
	for _, v := range []struct {
		flag, env, file string
		to              *string
	}{
		{"data", "DATA", cf.Data, &cfg.Data},
		{"listen", "LISTEN", cf.Listen, &cfg.Listen},
		{"metrics", "METRICS", cf.Metrics, &cfg.Metrics},
		{"spread", "SPREAD", cf.Spread, &spread},
		{"reserve-bytes", "RESERVE_BYTES", reserve, &reserve},
		{"url-allow", "URL_ALLOW", strings.Join(cf.URLAllow, ","), &allow},
		{"log-level", "LOG_LEVEL", cf.LogLevel, level},
		{"store", "STORE", cf.Store, &s.kind},
		{"etcd-endpoints", "ETCD_ENDPOINTS", strings.Join(cf.Etcd.Endpoints, ","), &endpoints},
		{"etcd-prefix", "ETCD_PREFIX", cf.Etcd.Prefix, &s.etcd.Prefix},
		{"etcd-ca", "ETCD_CA", cf.Etcd.CA, &s.etcd.CA},
		{"etcd-cert", "ETCD_CERT", cf.Etcd.Cert, &s.etcd.Cert},
		{"etcd-key", "ETCD_KEY", cf.Etcd.Key, &s.etcd.Key},
	} {
		value := v.file
		if e := a.getenv("SKERRY_" + v.env); e != "" {
			value = e
		}
		if value != "" && !c.Flags().Changed(v.flag) {
			*v.to = value
		}
	}
	if spread != "" {
		d, err := time.ParseDuration(spread)
		if err != nil {
			return &usageError{fmt.Errorf("cannot use spread %q: %w", spread, err)}
		}
		cfg.Spread = d
	}
	if reserve != "" && !c.Flags().Changed("reserve-bytes") {
		n, err := strconv.ParseUint(reserve, 10, 64)
		if err != nil {
			return &usageError{fmt.Errorf("cannot use reserve-bytes %q: %w", reserve, err)}
		}
		cfg.Reserve = n
	}
	if allow != "" {
		if err := (prefixes{&cfg.URLAllow}).Set(allow); err != nil {
			return &usageError{fmt.Errorf("cannot use url-allow: %w", err)}
		}
	}
	if endpoints != "" {
		s.etcd.Endpoints = strings.Split(endpoints, ",")
	}
	switch s.kind {
	case storeEtcd:
		cfg.Etcd = &s.etcd
	case storeEmbedded:
		if len(s.etcd.Endpoints) > 0 {
			return hint(&usageError{fmt.Errorf("cannot use etcd endpoints with the embedded store")}, "give --store etcd, or leave --etcd-endpoints out")
		}
	default:
		return &usageError{fmt.Errorf("cannot use store %q: it is %s or %s", s.kind, storeEmbedded, storeEtcd)}
	}
	return nil
}

// prefixes is a flag that holds networks.
type prefixes struct{ to *[]netip.Prefix }

// Set implements pflag.Value: it adds one network, or several with commas between them.
func (p prefixes) Set(text string) error {
	for t := range strings.SplitSeq(text, ",") {
		n, err := netip.ParsePrefix(t)
		if err != nil {
			return fmt.Errorf("cannot read network %q: it is like 10.20.0.0/16", t)
		}
		*p.to = append(*p.to, n.Masked())
	}
	return nil
}

// String implements pflag.Value.
func (p prefixes) String() string {
	if p.to == nil || len(*p.to) == 0 {
		return ""
	}
	return fmt.Sprint(*p.to)
}

// Type implements pflag.Value.
func (p prefixes) Type() string { return "cidr" }
