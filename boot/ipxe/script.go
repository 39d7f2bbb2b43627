package ipxe

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Act says what the machine shall do.
type Act string

// The acts.
const (
	// ActInstaller boots the ramdisk with a token: install, inventory, wait, whatever the agent answers to its hello.
	ActInstaller Act = "installer"
	// ActDiscover boots the ramdisk of a stranger: inventory only, no token, no destructive path.
	ActDiscover Act = "discover"
	// ActLocal leaves the machine to its own disk: running, external and quarantined machines.
	ActLocal Act = "local"
	// ActWait asks again after ten seconds: boot slots are taken, or the assets are not complete yet.
	ActWait Act = "wait"
)

// Input is all that a script depends on.
type Input struct {
	Act      Act
	UEFI     bool     // how the machine booted: by option 93 of its DHCP packet
	Machine  string   // name, for the person at the screen; "" for a stranger
	Reason   string   // one line for that person
	MAC      string   // hyphens, lower case: the NIC that boots
	HTTP     []string // host:port of boot HTTP, in the order to try: rendezvous order of the machine
	Kernel   intent.Digest
	Ramdisk  intent.Digest
	Agents   []string // host:port of the install protocol, in the order to try
	Token    string   // ActInstaller: single-use
	Pin      string   // hex SHA-256 of the install server's key
	Addr     netip.Prefix
	Gateway  netip.Addr // may be zero
	DNS      netip.Addr // may be zero
	Console  string     // serial console as the kernel names it, such as ttyS0; "" takes ttyS0
	ExtraArg []string   // further kernel arguments
}

// ErrInput says that an input would break out of its place in the script.
var ErrInput = errors.New("unusable script input")

// MaxScript bounds a script: iPXE keeps it in low memory.
const MaxScript = 2048

const (
	fetchTimeout = 20000 // ms: iPXE's own default is none; a 14 MB kernel takes 10 s at 10 Mb/s
	rounds       = 3     // times around the agents before the machine gives up and falls to its next boot device
)

// Script returns the text of the script, ASCII, at most MaxScript octets. Errors: ErrInput.
func Script(in Input) (string, error) {
	if err := in.check(); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	line := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	if in.Machine != "" {
		line("echo skerry: %s %s", in.Machine, in.Act)
	} else {
		line("echo skerry: %s %s", in.MAC, in.Act)
	}
	if in.Reason != "" {
		line("echo skerry: %s", in.Reason)
	}
	switch in.Act {
	case ActLocal:
		in.local(line)
	case ActWait:
		line("sleep 10")
		in.again(line)
	case ActInstaller, ActDiscover:
		in.kernel(line)
	default:
		return "", fmt.Errorf("cannot write script: %w: act %q", ErrInput, in.Act)
	}
	if b.Len() > MaxScript {
		return "", fmt.Errorf("cannot write script: %w: %d octets", ErrInput, b.Len())
	}
	return b.String(), nil
}

// local ends the network boot. exit hands back to UEFI, which goes on with its boot order; a BIOS may hang there, so the
// first disk is booted by iPXE.
func (in Input) local(line func(string, ...any)) {
	if in.UEFI {
		line("exit")
		return
	}
	line("sanboot --no-describe --drive 0x80")
	line("exit")
}

// again chains to the script itself, at each agent in turn.
func (in Input) again(line func(string, ...any)) {
	for _, h := range in.HTTP {
		line("chain --replace --autofree --timeout %d http://%s/boot/%s/auto.ipxe ||", fetchTimeout, h, in.MAC)
	}
	line("exit 1")
}

// kernel fetches kernel and ramdisk from each agent in turn. A half-fetched image is freed before the next try: iPXE would
// else boot what it has (docker-netbootxyz#100).
func (in Input) kernel(line func(string, ...any)) {
	line("set args %s", strings.Join(in.args(), " "))
	line("set n:int32 0")
	for i, h := range in.HTTP {
		line(":try%d", i)
		line("imgfree")
		line("kernel --timeout %d --name kernel http://%s/assets/%s/kernel initrd=ramdisk ${args} || goto try%s", fetchTimeout, h, in.Kernel.Hex(), in.next(i))
		line("initrd --timeout %d --name ramdisk http://%s/assets/%s/ramdisk || goto try%s", fetchTimeout, h, in.Ramdisk.Hex(), in.next(i))
		line("boot || goto try%s", in.next(i))
	}
	line(":tryagain")
	line("inc n")
	line("iseq ${n} %d && goto giveup ||", rounds)
	line("sleep 3")
	line("goto try0")
	line(":giveup")
	line("echo skerry: no agent gave kernel and ramdisk")
	line("imgfree")
	line("exit 1")
}

func (in Input) next(i int) string {
	if i+1 < len(in.HTTP) {
		return fmt.Sprint(i + 1)
	}
	return "again"
}

func (in Input) args() []string {
	console := in.Console
	if console == "" {
		console = "ttyS0"
	}
	a := []string{"console=tty0", "console=" + console, "panic=10", "BOOTIF=01-" + in.MAC, "skerry.agents=" + strings.Join(in.Agents, ",")}
	if in.Act == ActInstaller {
		a = append(a, "skerry.token="+in.Token)
	}
	a = append(a, "skerry.pin="+in.Pin)
	if in.Addr.IsValid() {
		a = append(a, "skerry.ip="+in.Addr.String())
	}
	if in.Gateway.IsValid() {
		a = append(a, "skerry.gw="+in.Gateway.String())
	}
	if in.DNS.IsValid() {
		a = append(a, "skerry.dns="+in.DNS.String())
	}
	return append(a, in.ExtraArg...)
}

// check refuses what could leave its place: iPXE has no quoting that all its commands honour.
func (in Input) check() error {
	word := func(what, s string) error {
		for _, c := range []byte(s) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte("$&|;`\"'\\{}<>#", c) >= 0 {
				return fmt.Errorf("cannot write script: %w: %s %.60q", ErrInput, what, s)
			}
		}
		return nil
	}
	all := map[string]string{
		"machine": in.Machine, "mac": in.MAC, "token": in.Token, "pin": in.Pin, "console": in.Console,
		"reason": strings.ReplaceAll(in.Reason, " ", "_"),
	}
	for what, s := range all {
		if err := word(what, s); err != nil {
			return err
		}
	}
	for _, l := range [][]string{in.HTTP, in.Agents, in.ExtraArg} {
		for _, s := range l {
			if err := word("address or argument", s); err != nil {
				return err
			}
		}
	}
	switch {
	case len(in.MAC) != 17:
		return fmt.Errorf("cannot write script: %w: MAC %.60q", ErrInput, in.MAC)
	case in.Act == ActLocal:
		return nil
	case len(in.HTTP) == 0:
		return fmt.Errorf("cannot write script: %w: no boot HTTP address", ErrInput)
	case in.Act == ActWait:
		return nil
	case len(in.Agents) == 0 || in.Kernel.IsZero() || in.Ramdisk.IsZero() || in.Pin == "":
		return fmt.Errorf("cannot write script: %w: agents, kernel, ramdisk or pin is missing", ErrInput)
	case (in.Act == ActInstaller) != (in.Token != ""):
		return fmt.Errorf("cannot write script: %w: act %s and token do not fit", ErrInput, in.Act)
	}
	return nil
}
