package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/spf13/cobra"
)

// settings is the user's configuration file.
type settings struct {
	Current  string       `yaml:"current"`
	Contexts []serverSpec `yaml:"contexts"`
}

// serverSpec is one context: a server, a token or a key, and the certificate that vouches for the server.
type serverSpec struct {
	Name   string `yaml:"name" json:"name"`
	Server string `yaml:"server" json:"server"`
	Token  string `yaml:"token,omitempty" json:"-"`
	Key    string `yaml:"key,omitempty" json:"key,omitempty"` // file of `skerry user key create`
	CA     string `yaml:"ca,omitempty" json:"ca,omitempty"`   // file with PEM certificates
	Site   string `yaml:"site,omitempty" json:"site,omitempty"`
}

func (a *app) settingsPath() (string, error) {
	if p := a.getenv("SKERRY_CONFIG"); p != "" {
		return p, nil
	}
	home := a.getenv("HOME")
	if home == "" {
		return "", errors.New("cannot find the configuration: neither SKERRY_CONFIG nor HOME is set")
	}
	return filepath.Join(home, ".config", "skerry", "config.yaml"), nil
}

func (a *app) loadSettings() (*settings, error) {
	path, err := a.settingsPath()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return &settings{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	s := &settings{}
	if err := yaml.UnmarshalWithOptions(b, s, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("cannot read configuration %s: %w", path, err)
	}
	return s, nil
}

func (a *app) saveSettings(s *settings) error {
	path, err := a.settingsPath()
	if err != nil {
		return err
	}
	b, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot encode configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot save configuration: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil { // it holds tokens
		return fmt.Errorf("cannot save configuration: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("cannot save configuration: %w", err)
	}
	return nil
}

// server returns the chosen context.
func (a *app) server() (serverSpec, error) {
	s, err := a.loadSettings()
	if err != nil {
		return serverSpec{}, err
	}
	name := a.context
	if name == "" {
		name = s.Current
	}
	for _, c := range s.Contexts {
		if c.Name == name {
			return c, nil
		}
	}
	if name == "" {
		return serverSpec{}, hint(errors.New("cannot choose a server: no context is set"), "`skerry context set NAME --server https://HOST:7443 --token TOKEN --ca FILE`")
	}
	return serverSpec{}, hint(fmt.Errorf("cannot find context %q", name), "`skerry context list`")
}

const dialTimeout = 10 * time.Second // a site that answers slower is better asked again

// client returns a client of the chosen context.
func (a *app) client() (*client.Client, error) {
	c, err := a.server()
	if err != nil {
		return nil, err
	}
	if a.site == "" {
		a.site = c.Site
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("cannot read certificate of context %s: %w", c.Name, err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use certificate %s: no PEM certificate in it", c.CA)
		}
	}
	if c.Key != "" {
		cert, err := account.Certificate(c.Key, a.getenv)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	rt := &http.Transport{TLSClientConfig: conf, TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext}
	if c.Key != "" {
		return client.New(c.Server, c.Token, account.KeyTripper{RoundTripper: rt}), nil
	}
	return client.New(c.Server, c.Token, rt), nil
}

func (a *app) contextCmd() *cobra.Command {
	c := &cobra.Command{Use: "context", Short: "Choose which server to ask, and as whom"}
	var spec serverSpec
	set := &cobra.Command{Use: "set NAME", Short: "Add or change a context", Args: args("NAME"), RunE: func(cmd *cobra.Command, given []string) error {
		s, err := a.loadSettings()
		if err != nil {
			return err
		}
		i := -1
		for j := range s.Contexts {
			if s.Contexts[j].Name == given[0] {
				i = j
			}
		}
		if i < 0 {
			s.Contexts = append(s.Contexts, serverSpec{Name: given[0]})
			i = len(s.Contexts) - 1
		}
		cur := &s.Contexts[i]
		if spec.Server == "" && cur.Server == "" {
			return &usageError{errors.New("cannot add a context without its server: give --server https://HOST:7443")}
		}
		for _, v := range []struct {
			flag     string
			to, from *string
		}{{"server", &cur.Server, &spec.Server}, {"token", &cur.Token, &spec.Token}, {"key", &cur.Key, &spec.Key}, {"ca", &cur.CA, &spec.CA}, {"site", &cur.Site, &spec.Site}} {
			if cmd.Flags().Changed(v.flag) {
				*v.to = *v.from
			}
		}
		for _, path := range []*string{&cur.CA, &cur.Key} { // the context is used from other directories too
			if *path == "" {
				continue
			}
			if *path, err = filepath.Abs(*path); err != nil {
				return fmt.Errorf("cannot save context: %w", err)
			}
		}
		if s.Current == "" {
			s.Current = given[0]
		}
		return a.saveSettings(s)
	}}
	set.Flags().StringVar(&spec.Server, "server", "", "https://HOST:PORT of a coordinator or an agent")
	set.Flags().StringVar(&spec.Token, "token", "", "bearer token")
	set.Flags().StringVar(&spec.Key, "key", "", "file of skerry user key create: the key and certificate to show instead of a token")
	set.Flags().StringVar(&spec.CA, "ca", "", "file with the root certificate of the domain")
	set.Flags().StringVar(&spec.Site, "site", "", "site that --site defaults to")
	use := &cobra.Command{Use: "use NAME", Short: "Make a context the default", Args: args("NAME"), RunE: func(_ *cobra.Command, given []string) error {
		s, err := a.loadSettings()
		if err != nil {
			return err
		}
		for _, c := range s.Contexts {
			if c.Name == given[0] {
				s.Current = c.Name
				return a.saveSettings(s)
			}
		}
		return hint(fmt.Errorf("cannot find context %q", given[0]), "`skerry context list`")
	}}
	list := &cobra.Command{Use: "list", Short: "List contexts", Args: args(), RunE: func(*cobra.Command, []string) error {
		s, err := a.loadSettings()
		if err != nil {
			return err
		}
		return a.print(s.Contexts, func(t *table) {
			t.header("CURRENT", "NAME", "SERVER", "SITE")
			for _, c := range s.Contexts {
				mark := ""
				if c.Name == s.Current {
					mark = "*"
				}
				t.row(mark, c.Name, c.Server, c.Site)
			}
		})
	}}
	c.AddCommand(set, use, list)
	return c
}
