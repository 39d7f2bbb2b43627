package cli

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/security"
	"github.com/skerry-metal/skerry/coordinator"
	"github.com/skerry-metal/skerry/siteagent"
	"github.com/spf13/cobra"
)

// logger writes text on a terminal, JSON elsewhere.
func (a *app) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &usageError{fmt.Errorf("cannot log at level %q: use debug, info, warn or error", level)}
	}
	o := &slog.HandlerOptions{Level: l}
	if isTerminal(a.Err) {
		return slog.New(slog.NewTextHandler(a.Err, o)), nil
	}
	return slog.New(slog.NewJSONHandler(a.Err, o)), nil
}

func (a *app) coordinatorCmd() *cobra.Command {
	cfg, level, where := coordinator.Default(), "info", storeFlags{}
	c := &cobra.Command{
		Use: "coordinator", Short: "Run the coordinator", Args: args(),
		Long: "Run the coordinator: it signs certificates and publishes signed intent, and may be gone for ever.\n`skerry coordinator init` founds a domain first.",
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := a.coordinatorSettings(c, &where, &cfg, level)
			if err != nil {
				return err
			}
			cfg.Logger, cfg.Version = log, Version
			return coordinator.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "directory of keys, state and assets")
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "address for API, joins and sessions, TCP and UDP")
	f.StringVar(&cfg.Metrics, "metrics", cfg.Metrics, "address of /metrics, plain HTTP on the management network; empty for none")
	f.DurationVar(&cfg.Spread, "spread", cfg.Spread, "agents of a lost coordinator return within this time")
	f.Uint64Var(&cfg.Reserve, "reserve-bytes", 0, "octets that uploads leave free on the disk; 0 = 3 GiB, or 5 % and 1 GiB of a larger disk")
	f.Var(prefixes{&cfg.URLAllow}, "url-allow", "CIDR that an asset's URL may lead to although it is loopback, link-local, private or managed; repeat for more")
	f.StringVar(&level, "log-level", level, "debug, info, warn or error")
	f.StringSliceVar(&cfg.Without, "recover-without", nil, "SITE/AGENT that is gone for good: its site, if held, does not wait for it")
	f.BoolVar(&cfg.Recovered, "recovered", false, "after a restore, when no site is missing any more: admit agents of known sites only")
	f.BoolVar(&cfg.ClockOK, "clock-ok", false, "the clock of this machine is right, although it leads by more than 30 days what is known to have passed")
	where.add(c)
	c.AddCommand(a.coordinatorInitCmd(), a.coordinatorBackupCmd(), a.coordinatorRestoreCmd(), a.coordinatorRebuildCmd())
	return c
}

func (a *app) coordinatorInitCmd() *cobra.Command {
	cfg := coordinator.InitConfig{Data: coordinator.Default().Data, ID: "c1", Admin: "admin"}
	var save string
	var where storeFlags
	c := &cobra.Command{
		Use: "init --domain DOMAIN --addr HOST:PORT", Short: "Make root, CA, writer and the first administrator", Args: args(),
		Long: "Found a domain. With --roots FILE (from `skerry pki init`) this makes the coordinator's keys and a file that holders sign with\n" +
			"`skerry pki sign`; the same command then goes on. Without --roots the keys of the roots are made here too: whoever gets this host\n" +
			"then has the whole domain, and nothing gets it back. That is for trying things out.",
		Example: "  skerry coordinator init --domain edge.example --addr 10.99.0.1:7443 --save-context edge\n" +
			"  skerry coordinator init --domain edge.example --addr 10.99.0.1:7443 --roots roots.json --signed trust1.json",
		RunE: func(c *cobra.Command, _ []string) error {
			run, level := coordinator.Config{Data: cfg.Data}, "warn"
			log, err := a.coordinatorSettings(c, &where, &run, level)
			if err != nil {
				return err
			}
			cfg.Data, cfg.Etcd = run.Data, run.Etcd
			cfg.Logger = log
			res, err := coordinator.Init(c.Context(), cfg)
			if err != nil {
				return err
			}
			if res.Offer != "" {
				return a.offerFirst(res.Offer, res.Have, res.Of)
			}
			if save != "" {
				ca, err := filepath.Abs(res.CA) // the context is used from other directories too
				if err != nil {
					return fmt.Errorf("cannot save context: %w", err)
				}
				if err := a.saveContext(serverSpec{Name: save, Server: "https://" + cfg.Addr[0], Token: res.Token, CA: ca}); err != nil {
					return err
				}
			}
			return a.print(map[string]string{"pin": res.Pin.String(), "token": res.Token, "ca": res.CA}, func(t *table) {
				t.row("trust pin", res.Pin.String())
				t.row("root certificate", res.CA)
				t.row("token of "+cfg.Admin, res.Token)
				t.row("next", "skerry coordinator --data "+cfg.Data)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", cfg.Data, "directory that is made")
	f.StringVar(&cfg.Domain, "domain", "", "DNS name below which every site lies")
	f.StringVar(&cfg.ID, "id", cfg.ID, "id of this coordinator")
	f.StringVar(&cfg.Admin, "admin", cfg.Admin, "name of the first administrator")
	f.StringVar(&cfg.Roots, "roots", "", "roots.json that \"skerry pki init\" made: holders elsewhere sign")
	f.StringVar(&cfg.Signed, "signed", "", "the file that they signed; default: the one in --data")
	f.StringSliceVar(&cfg.Addr, "addr", nil, "HOST:PORT at which agents and users reach it; repeat for more")
	f.StringVar(&save, "save-context", "", "save the administrator's token as a context of this name")
	where.add(c)
	return c
}

// offerFirst says who is to sign what before the coordinator is made.
func (a *app) offerFirst(offer string, have, of int) error {
	err := a.print(map[string]any{"offer": offer, "have": have, "of": of}, func(t *table) {
		t.row("offer", offer)
		t.row("signatures", fmt.Sprintf("%d of %d", have, of))
		t.row("next", "holders run skerry pki sign "+filepath.Base(offer)+"; then run this command again, with --signed FILE if it lies elsewhere")
	})
	if err != nil {
		return err
	}
	return exitCode(exitPartial)
}

func (a *app) saveContext(spec serverSpec) error {
	s, err := a.loadSettings()
	if err != nil {
		return err
	}
	for i := range s.Contexts {
		if s.Contexts[i].Name == spec.Name {
			s.Contexts[i] = spec
			return a.saveSettings(s)
		}
	}
	s.Contexts = append(s.Contexts, spec)
	if s.Current == "" {
		s.Current = spec.Name
	}
	return a.saveSettings(s)
}

// agentFile is the agent's configuration file; flags and SKERRY_* win over it.
type agentFile struct {
	Data   string `yaml:"data"`
	Listen struct {
		Management string   `yaml:"management"`
		Boot       []string `yaml:"boot"`
		Metrics    string   `yaml:"metrics"`
		SFlow      string   `yaml:"sflow"`
		SSH        string   `yaml:"ssh"`
	} `yaml:"listen"`
	Boot struct {
		IPXEDir string `yaml:"ipxeDir"`
	} `yaml:"boot"`
	Uplink struct {
		Spread     string `yaml:"spread"`
		MaxBackoff string `yaml:"maxBackoff"`
	} `yaml:"uplink"`
	Probe struct {
		Interfaces []string `yaml:"interfaces"`
		Method     string   `yaml:"method"`
	} `yaml:"probe"`
	ReserveBytes uint64   `yaml:"reserveBytes"`
	Bulk         string   `yaml:"bulk"`
	URLAllow     []string `yaml:"urlAllow"`
	LogLevel     string   `yaml:"logLevel"`
}

// agentSettings reads the file, then SKERRY_*; flags that were given stay.
func (a *app) agentSettings(c *cobra.Command, file string, cfg *siteagent.Config, level *string) error {
	var af agentFile
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot read configuration: %w", err)
		}
		if err := yaml.UnmarshalWithOptions(b, &af, yaml.Strict()); err != nil {
			return fmt.Errorf("cannot use configuration %s: %w", file, err)
		}
	}
	env := func(name, fromFile string) string {
		if v := a.getenv("SKERRY_" + name); v != "" {
			return v
		}
		return fromFile
	}
	for _, s := range []struct {
		flag, value string
		to          *string
	}{
		{"data", env("DATA", af.Data), &cfg.Data},
		{"management", env("LISTEN_MANAGEMENT", af.Listen.Management), &cfg.Management},
		{"metrics", env("LISTEN_METRICS", af.Listen.Metrics), &cfg.Metrics},
		{"sflow", env("LISTEN_SFLOW", af.Listen.SFlow), &cfg.SFlow},
		{"ssh", env("LISTEN_SSH", af.Listen.SSH), &cfg.SSH},
		{"probe-method", env("PROBE_METHOD", af.Probe.Method), &cfg.Probe.Method},
		{"ipxe-dir", env("BOOT_IPXEDIR", af.Boot.IPXEDir), &cfg.IPXEDir},
		{"join", env("JOIN", ""), &cfg.Join},
		{"bulk", env("BULK", af.Bulk), &cfg.Bulk},
		{"log-level", env("LOG_LEVEL", af.LogLevel), level},
	} {
		if s.value != "" && !c.Flags().Changed(s.flag) {
			*s.to = s.value
		}
	}
	if boot := env("LISTEN_BOOT", strings.Join(af.Listen.Boot, ",")); boot != "" && !c.Flags().Changed("boot") {
		cfg.Boot = strings.Split(boot, ",")
	}
	if ifs := env("PROBE_INTERFACES", strings.Join(af.Probe.Interfaces, ",")); ifs != "" && !c.Flags().Changed("probe") {
		cfg.Probe.Interfaces = strings.Split(ifs, ",")
	}
	if allow := env("URL_ALLOW", strings.Join(af.URLAllow, ",")); allow != "" && !c.Flags().Changed("url-allow") {
		if err := (prefixes{&cfg.URLAllow}).Set(allow); err != nil {
			return &usageError{fmt.Errorf("cannot use url-allow: %w", err)}
		}
	}
	if af.ReserveBytes > 0 && !c.Flags().Changed("reserve-bytes") {
		cfg.Reserve = af.ReserveBytes
	}
	for _, d := range []struct {
		flag, value string
		to          *time.Duration
	}{{"spread", af.Uplink.Spread, &cfg.Spread}, {"max-backoff", af.Uplink.MaxBackoff, &cfg.MaxBackoff}} {
		if d.value == "" || c.Flags().Changed(d.flag) {
			continue
		}
		v, err := time.ParseDuration(d.value)
		if err != nil {
			return fmt.Errorf("cannot use configuration %s: uplink.%s: %w", file, d.flag, err)
		}
		*d.to = v
	}
	return nil
}

func (a *app) agentCmd() *cobra.Command {
	cfg, level, file := siteagent.Default(), "info", ""
	prepare := func(c *cobra.Command) error {
		if err := a.agentSettings(c, file, &cfg, &level); err != nil {
			return err
		}
		if cfg.Management == "" {
			return hint(&usageError{errors.New("cannot start an agent without its management address")}, "give --management HOST:7444, or listen.management in the configuration")
		}
		switch cfg.Bulk {
		case "auto", "quic", "tcp":
		default:
			return hint(&usageError{fmt.Errorf("cannot carry assets by %q", cfg.Bulk)}, "--bulk auto, quic or tcp")
		}
		log, err := a.logger(level)
		cfg.Logger, cfg.Version = log, Version
		return err
	}
	c := &cobra.Command{
		Use: "agent", Short: "Run a site agent; list, revoke and quarantine agents", Args: args(),
		Long: "Run a site agent. The first time it joins with --join TOKEN@HOST:PORT; after that it starts without anybody above it.\nConfiguration: one YAML file, then SKERRY_*, then flags.",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := prepare(c); err != nil {
				return err
			}
			if err := readJoin(&cfg.Join); err != nil {
				return err
			}
			if cfg.Import != "" && cfg.Spare == "" {
				return hint(&usageError{errors.New("cannot use --import without --spare KIT --replaces ID")}, "an agent that runs takes a stick by `skerry intent import FILE`")
			}
			return siteagent.Run(c.Context(), cfg)
		},
	}
	flags := func(c *cobra.Command) {
		f := c.Flags()
		f.StringVar(&file, "config", "", "YAML file")
		f.StringVar(&cfg.Data, "data", cfg.Data, "directory of keys, state and assets")
		f.StringVar(&cfg.Join, "join", "", "TOKEN@HOST:PORT, or @FILE that holds it; used once")
		f.StringVar(&cfg.Spare, "spare", "", "kit of a spare (`skerry agent kit`): this box takes the place of --replaces; used once")
		f.StringVar(&cfg.Replaces, "replaces", "", "agent whose place the spare takes")
		f.StringVar(&cfg.Import, "import", "", "stick of \"skerry intent export\" that the spare begins with, when no peer is there to ask")
		f.StringVar(&cfg.KitIdentity, "identity", "", "file of the age identity that opens the kit")
		f.StringVar(&cfg.KitPassphrase, "passphrase-file", "", "file with the passphrase that opens the kit; remove it afterwards")
		f.StringVar(&cfg.Management, "management", "", "HOST:PORT of site API and mesh, TCP and UDP")
		f.StringSliceVar(&cfg.Boot, "boot", nil, "addresses of this host on boot networks")
		f.StringVar(&cfg.IPXEDir, "ipxe-dir", cfg.IPXEDir, "directory of the loaders (Debian: package ipxe)")
		f.StringVar(&cfg.Metrics, "metrics", "", "address of /metrics, plain HTTP on the management network; empty for none")
		f.StringVar(&cfg.SFlow, "sflow", "", "address to which switches send sFlow, UDP, like :6343; empty: this agent hears none")
		f.StringVar(&cfg.SSH, "ssh", "", "address at which SSH clients reach machines' consoles, like 10.0.0.11:2222; empty: by the API only")
		f.StringSliceVar(&cfg.Probe.Interfaces, "probe", nil, "interfaces of this host at which machines' traffic is counted; none: it counts nothing by itself")
		f.StringVar(&cfg.Probe.Method, "probe-method", "", "how --probe counts: tcx, clsact, xdp, cgroup, packet or counters; off; empty for auto, the best that this kernel has")
		f.DurationVar(&cfg.Spread, "spread", cfg.Spread, "the first dial to a coordinator waits up to this time")
		f.DurationVar(&cfg.MaxBackoff, "max-backoff", cfg.MaxBackoff, "longest pause between dials to a coordinator")
		f.Uint64Var(&cfg.Reserve, "reserve-bytes", 0, "octets that assets leave free on the disk; 0 = 3 GiB, or 5 % and 1 GiB of a larger disk")
		f.Uint64Var(&cfg.Ballast, "ballast-bytes", cfg.Ballast, "octets that \"skerry agent recover\" frees on a full disk; 0 = none")
		f.StringVar(&cfg.Bulk, "bulk", "auto", "what carries assets between agents: auto, quic or tcp; auto = QUIC, and TCP where UDP is blocked")
		f.Var(prefixes{&cfg.URLAllow}, "url-allow", "CIDR that an asset's URL may lead this agent to although it is loopback, link-local, private or managed; repeat for more")
		f.StringVar(&level, "log-level", level, "debug, info, warn or error")
	}
	flags(c)
	conf := &cobra.Command{Use: "config", Short: "Look at the agent's configuration"}
	check := &cobra.Command{Use: "check", Short: "Check the configuration and print what it comes to", Args: args(), RunE: func(c *cobra.Command, _ []string) error {
		if err := prepare(c); err != nil {
			return err
		}
		return a.print(map[string]any{"data": cfg.Data, "management": cfg.Management, "boot": cfg.Boot, "ipxeDir": cfg.IPXEDir, "metrics": cfg.Metrics, "sflow": cfg.SFlow, "ssh": cfg.SSH, "probe": cfg.Probe.Interfaces, "probeMethod": cmp.Or(cfg.Probe.Method, "auto")}, func(t *table) {
			t.row("data", cfg.Data)
			t.row("listen.management", cfg.Management)
			t.row("listen.boot", strings.Join(cfg.Boot, " "))
			t.row("listen.metrics", cfg.Metrics)
			t.row("listen.sflow", cfg.SFlow)
			t.row("listen.ssh", cfg.SSH)
			t.row("probe.interfaces", strings.Join(cfg.Probe.Interfaces, " "))
			t.row("probe.method", cmp.Or(cfg.Probe.Method, "auto"))
			t.row("boot.ipxeDir", cfg.IPXEDir)
		})
	}}
	flags(check)
	conf.AddCommand(check)
	c.AddCommand(conf, a.agentKitCmd())
	c.AddCommand(security.AgentCommands(shell{a})...)
	c.AddCommand(a.upkeepCmds()...)
	return c
}

// readJoin replaces @FILE by what the file holds, so that a token need not stand in the process list.
func readJoin(join *string) error {
	file, ok := strings.CutPrefix(*join, "@")
	if !ok {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read join token: %w", err)
	}
	*join = strings.TrimSpace(string(b))
	return nil
}
