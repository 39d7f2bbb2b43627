package doctor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/siteagent/doctor"
)

// Shell is what the verb needs of the command line that it hangs in.
type Shell interface {
	Print(v any, fill func(account.Table)) error
	ArgsUpTo(least int, names ...string) cobra.PositionalArgs
	Getenv(name string) string
	// Partial ends the command with the exit code of what works in part.
	Partial() error
}

// maxPassword bounds a password file, in octets.
const maxPassword = 1024

// options are the flags.
type options struct {
	user, file, protocol string
	write, yes           bool
	rate                 float64 // 0: the drivers' own; tests hurry
}

// Command returns `skerry doctor`.
func Command(s Shell) *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Examine what Skerry shall work with", Args: s.ArgsUpTo(0), RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(bmcCommand(s, options{}))
	return c
}

func bmcCommand(s Shell, o options) *cobra.Command {
	c := &cobra.Command{
		Use: "bmc ADDRESS", Short: "Examine a management controller: what will work, what will not", Args: s.ArgsUpTo(1, "ADDRESS"),
		Long: "Examine a management controller by Redfish and IPMI, and say what will work with it, what will not, and which quirks it has.\n" +
			"The password is asked for, or comes from --password-file or SKERRY_BMC_PASSWORD. Nothing is written without --write; with it the boot\n" +
			"override is set and put back, and a write that the controller must refuse is tried. A wrong password is tried once by each protocol.\n" +
			"Exit code 0: all works. 3: it can be used, and something does not work or should be known. 1: it cannot be used.",
		Example: "  skerry doctor bmc 10.88.1.1 --user root\n  skerry doctor bmc 10.88.1.1:6230 --protocol ipmi --user admin --write -o json",
		RunE: func(c *cobra.Command, given []string) error {
			cfg := doctor.Config{Redfish: given[0], IPMI: given[0], User: o.user, Write: o.write, Rate: o.rate}
			switch o.protocol {
			case "redfish":
				cfg.IPMI = ""
			case "ipmi":
				cfg.Redfish = ""
			case "":
				if strings.Count(given[0], ":") == 1 || strings.Contains(given[0], "]:") {
					return &account.UsageError{Err: errors.New("cannot tell whose port that is: say --protocol redfish or ipmi")}
				}
			default:
				return &account.UsageError{Err: fmt.Errorf("cannot speak %q: --protocol is redfish or ipmi", o.protocol)}
			}
			if o.user == "" {
				return &account.UsageError{Err: errors.New("cannot log in without a user: --user NAME")}
			}
			if err := confirm(o, given[0]); err != nil {
				return err
			}
			var err error
			if cfg.Password, err = password(s, o); err != nil {
				return err
			}
			return tell(s, given[0], doctor.Examine(c.Context(), cfg))
		},
	}
	c.Flags().StringVar(&o.user, "user", "", "account of the controller")
	c.Flags().StringVar(&o.file, "password-file", "", "file with its password; default: SKERRY_BMC_PASSWORD, else asked for")
	c.Flags().StringVar(&o.protocol, "protocol", "", "redfish or ipmi; default: both")
	c.Flags().BoolVar(&o.write, "write", false, "try changes too, and put them back")
	c.Flags().BoolVar(&o.yes, "yes", false, "do not ask before --write")
	return c
}

// confirm asks before anything is written: the controller may be that of a machine in use.
func confirm(o options, address string) error {
	if !o.write || o.yes {
		return nil
	}
	answer, err := account.Ask("The boot override of the machine behind " + address + " is changed for some seconds. Go on? [yes/no] ")
	if err != nil {
		return &account.HintError{Err: fmt.Errorf("cannot ask before writing: %w", err), Next: "the same with --yes"}
	}
	if answer != "yes" {
		return errors.New("cannot go on: the answer was not yes; nothing was written")
	}
	return nil
}

func password(s Shell, o options) (string, error) {
	if o.file != "" {
		f, err := os.Open(o.file)
		if err != nil {
			return "", fmt.Errorf("cannot read password: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxPassword+1)) // it may be a device without an end
		if err == nil && len(b) > maxPassword {
			err = fmt.Errorf("more than %d octets", maxPassword)
		}
		if err != nil {
			return "", fmt.Errorf("cannot read password: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	if p := s.Getenv("SKERRY_BMC_PASSWORD"); p != "" {
		return p, nil
	}
	b, err := account.AskSecret("Password of " + o.user + ": ")
	if err != nil {
		return "", &account.HintError{Err: fmt.Errorf("cannot ask for the password: %w", err), Next: "--password-file FILE, or SKERRY_BMC_PASSWORD"}
	}
	return string(b), nil
}

// tell prints the report. Exit code 3: it can be used, with limits.
func tell(s Shell, address string, r doctor.Report) error {
	err := s.Print(r, func(t account.Table) {
		t.Header("PROTOCOL", "CHECK", "RESULT", "SAYS")
		for _, c := range r.Checks {
			t.Row(c.Protocol, c.Name, string(c.Result), c.Says)
		}
	})
	switch {
	case err != nil:
		return err
	case r.Protocol == "":
		return fmt.Errorf("cannot use the controller at %s: neither protocol works", address)
	case r.Verdict == doctor.Limited:
		return s.Partial()
	}
	return nil
}
