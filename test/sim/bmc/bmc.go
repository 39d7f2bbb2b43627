package bmc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/test/sim/vm"
)

// Power is the machine behind the controller; *vm.Machine is one.
type Power interface {
	On(context.Context) error
	Off(context.Context) error
	Reset(context.Context) error
	Shutdown(context.Context) error // the ACPI button
	PowerOn() bool
}

// Config describes the controller and what it tells about its machine.
type Config struct {
	Vendor   string // of the controller's maker, in the service root; default "Skerry Simulations"
	SystemID string // id of the ComputerSystem, manager and chassis; default "1"
	User     string
	Password string
	Firmware vm.Firmware
	UUID     string
	Serial   string
	Maker    string
	Model    string
	MACs     []string
	Disks    []vm.Disk
	Memory   int // MiB
	Address  string

	// PostTime is how long a start blocks changes under the fault post-locked; default 3 s.
	PostTime time.Duration
	// StaleTime is how long power-stale shows the old power state; default 3 s.
	StaleTime time.Duration
	// LoginTime is how long login-slow takes; default 2.7 s (smart-proxy#896).
	LoginTime time.Duration
	// VanishTime is how long bios-vanishes hides the BIOS settings; default 1 min.
	VanishTime time.Duration
	// AwayTime is how long the controller does not answer after it was told to take its defaults; default 1 min.
	AwayTime time.Duration
}

// BMC is one controller. New makes it.
type BMC struct {
	cfg   Config
	power Power
	mux   *http.ServeMux

	mu       sync.Mutex // guards what follows
	faults   map[Fault]bool
	boot     bootState
	assetTag string
	version  uint64 // of the system resource; the ETag
	sessions map[string]*session
	nextID   int
	password string   // of cfg.User, as it was changed
	more     []string // accounts that somebody made
	bios     biosState
	away     time.Time // since when it starts again
	resets   int       // of the controller itself
	failed   int       // wrong logins in a row
	started  time.Time
	wasOn    bool // power state before powerAt
	powerAt  time.Time
	count    int // requests, for faults that hit every n-th
	log      []string
}

// logLines bounds the request log; a conformance run makes about 300 requests.
const logLines = 2000

// bodyLimit bounds a request body; the largest that a client sends is a boot override.
const bodyLimit = 64 << 10

// New returns a controller of the machine p. Faults are off.
func New(cfg Config, p Power) *BMC {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&cfg.Vendor, "Skerry Simulations")
	def(&cfg.SystemID, "1")
	def(&cfg.Model, "Simulated Server")
	defDur := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	defDur(&cfg.PostTime, 3*time.Second)
	defDur(&cfg.StaleTime, 3*time.Second)
	defDur(&cfg.LoginTime, 2700*time.Millisecond)
	defDur(&cfg.VanishTime, time.Minute)
	defDur(&cfg.AwayTime, time.Minute)
	b := &BMC{bios: biosState{attributes: biosDefaults()}, cfg: cfg, power: p, password: cfg.Password, faults: map[Fault]bool{}, sessions: map[string]*session{}, version: 1}
	b.boot = bootState{Enabled: "Disabled", Target: "None", Mode: b.modes()[0]}
	b.mux = http.NewServeMux()
	b.routes()
	return b
}

// NextBoot says what the machine's firmware tries first, and consumes a one-time override. vm.Config.Boot calls it at each start.
func (b *BMC) NextBoot() vm.Device {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.started = time.Now()
	b.startBIOS()
	first := vm.BootDisk
	if b.boot.Enabled != "Disabled" && (b.boot.Target == "Pxe" || b.boot.Target == "UefiHttp") {
		first = vm.BootNet
	}
	if b.boot.Enabled == "Once" {
		if b.faults[OnceIgnored] {
			first = vm.BootDisk
		}
		b.boot.Enabled, b.boot.Target = "Disabled", "None"
		b.version++
	}
	return first
}

// Press is a person at the machine, who switches it on and lets it start from the network once.
func (b *BMC) Press(ctx context.Context) error {
	b.mu.Lock()
	b.boot.Enabled, b.boot.Target = "Once", "Pxe"
	b.version++
	b.mu.Unlock()
	return b.power.On(ctx)
}

// AssetTag returns the tag as the controller holds it.
func (b *BMC) AssetTag() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.assetTag
}

// Requests returns what was asked so far, one line "METHOD PATH STATUS" each, oldest first, at most 2,000.
func (b *BMC) Requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}

// Sessions returns how many sessions are open.
func (b *BMC) Sessions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sessions)
}

// recorder keeps the status for the request log.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// ServeHTTP answers one request: faults that hit all requests, then authentication, then the resource.
func (b *BMC) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.log = append(b.log, fmt.Sprintf("%s %s %d", r.Method, r.URL.Path, rec.status))
		b.log = b.log[max(0, len(b.log)-logLines):]
	}()
	r.Body = http.MaxBytesReader(rec, r.Body, bodyLimit)
	rec.Header().Set("OData-Version", "4.0")
	rec.Header().Set("Cache-Control", "no-cache")
	b.mu.Lock()
	b.count++
	away := !b.away.IsZero() && time.Since(b.away) < b.cfg.AwayTime
	storm := b.faults[Storm503] && b.count%2 == 1
	b.mu.Unlock()
	if away {
		panic(http.ErrAbortHandler)
	}
	if storm {
		rec.Header().Set("Retry-After", "1")
		fail(rec, http.StatusServiceUnavailable, "Base.1.8.ServiceTemporarilyUnavailable", "The service is temporarily unavailable.")
		return
	}
	if !b.allowed(r) {
		rec.Header().Set("WWW-Authenticate", `Basic realm="Redfish"`)
		fail(rec, http.StatusUnauthorized, "Base.1.8.NoValidSession", "There is no valid session established with the implementation.")
		return
	}
	b.mux.ServeHTTP(rec, r)
}

// Serve answers HTTPS on ln with cert until ctx ends, and returns after every connection is gone. It closes ln.
func (b *BMC) Serve(ctx context.Context, ln net.Listener, cert tls.Certificate) error {
	s := &http.Server{
		Handler: b,
		// A client that sends nothing must not hold a connection of a simulator for ever.
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that try plain HTTP or hang up are no news
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		s.Close()
	}()
	err := s.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
	if ctx.Err() == nil {
		return fmt.Errorf("cannot serve redfish on %s: %w", ln.Addr(), err)
	}
	<-ended
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve redfish on %s: %w", ln.Addr(), err)
	}
	return nil
}

// SelfSigned makes a certificate as controllers ship them: self-made, ten years, for the given addresses.
func SelfSigned(ips ...net.IP) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make bmc key: %w", err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "bmc"}, IPAddresses: ips,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make bmc certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
