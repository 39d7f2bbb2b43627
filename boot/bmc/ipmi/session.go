package ipmi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// session is one that the controller knows.
type session struct {
	conn net.Conn
	keys keys
	wait time.Duration // as firstTry
	seq  byte          // of the last request, 0 to 63
	used time.Time
	// admin: the controller has raised it to administrator.
	admin bool
}

const (
	tries     = 5
	triesHere = 3                      // in a session that the controller may have forgotten: then a new one is opened
	firstTry  = 700 * time.Millisecond // for an answer; the next one waits half as long again
	fresh     = 45 * time.Second       // controllers end a session after 60 s of silence (section 6.12.15)
	roleAdmin = 0x14                   // administrator, found by name only (section 13.20)
)

// statusError is what a controller answers while a session is set up. Source: table 13-15.
type statusError struct{ status byte }

// Error says it in the words of the specification.
func (e *statusError) Error() string {
	text := map[byte]string{
		0x01: "no room for a session", 0x02: "invalid session id", 0x04: "invalid authentication algorithm", 0x05: "invalid integrity algorithm",
		0x08: "inactive session id", 0x09: "invalid role", 0x0a: "this account may not be administrator", 0x0b: "no room for a session of this role",
		0x0c: "invalid length of the name", 0x0d: "no such user", 0x0f: "invalid integrity check value", 0x10: "invalid confidentiality algorithm",
		0x11: "no such cipher suite", 0x12: "illegal parameter",
	}[e.status]
	if text == "" {
		text = "refused"
	}
	return fmt.Sprintf("status %02x: %s", e.status, text)
}

// Unwrap returns the sentinel of package bmc that the status amounts to; nil where it is none.
func (e *statusError) Unwrap() error {
	switch e.status {
	case 0x01, 0x0b:
		return bmc.ErrBusy
	case 0x09, 0x0a, 0x0c, 0x0d, 0x0f:
		return bmc.ErrAuth
	}
	return nil
}

// suiteRefused tells whether an error says that the controller lacks a cipher suite.
func suiteRefused(err error) bool {
	var s *statusError
	if !errors.As(err, &s) {
		return false
	}
	switch s.status {
	case 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12:
		return true
	}
	return false
}

// errMuddled: a controller that has proven that it knows the password did not let us in. Packets were lost, most probably, and all begins anew.
var errMuddled = errors.New("login not finished")

// muddled tells whether a controller that has proven that it knows the password says that we do not, or that it knows no such session: it
// means another try of ours.
func muddled(err error) bool {
	var s *statusError
	return errors.As(err, &s) && (s.status == 0x02 || s.status == 0x08 || s.status == 0x0d || s.status == 0x0f)
}

// errLost: no answer came.
var errLost = errors.New("no answer")

// ask sends what pack makes and waits for a packet that parse takes, up to n times, the first time for so long. Errors: errLost, the context's, or parse's own but
// errWire.
func ask(ctx context.Context, conn net.Conn, n int, wait time.Duration, pack func() []byte, parse func([]byte) error) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		conn.SetDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-ended // else the next request's deadline is the one that this one sets
		}
	}()
	buf := make([]byte, maxPacket)
	var last error
	for range n {
		if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		if ctx.Err() != nil { // after the deadline was set: AfterFunc's may have come before
			return ctx.Err()
		}
		if _, err := conn.Write(pack()); err != nil {
			last = err // an ICMP of the packet before: it may be up again
		}
		for { // until the deadline: what is no answer is passed over
			got, err := conn.Read(buf)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				last = err
				if err := rest(ctx, wait); err != nil {
					return err
				}
				break
			}
			if err := parse(buf[:got]); !errors.Is(err, errWire) {
				return err
			}
		}
		wait += wait / 2
	}
	if last != nil {
		return fmt.Errorf("%w: %w", errLost, last)
	}
	return errLost
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// setup asks outside a session; the answer must be of kind want and bear the tag.
func setup(ctx context.Context, conn net.Conn, wait time.Duration, kind, want payload, body []byte, parse func([]byte) error) error {
	tag := body[0]
	return ask(ctx, conn, tries, wait, func() []byte { return bare(kind, body) }, func(b []byte) error {
		got, _, _, answer, _, err := unpack(b)
		if err != nil || got&payloadKind != want || len(answer) < 2 || answer[0] != tag {
			return errWire
		}
		return parse(answer)
	})
}

// account is who logs in, and how long the first try waits for an answer.
type account struct {
	user, password string
	wait           time.Duration
}

// login opens a session: with the best cipher suite that the controller takes.
func login(ctx context.Context, conn net.Conn, a account) (*session, suite, error) {
	var refused error
	for _, s := range suites() {
		se, err := loginWith(ctx, conn, s, a)
		if !suiteRefused(err) {
			return se, s, err
		}
		refused = errors.Join(refused, fmt.Errorf("cipher suite %d: %w", s.id, err))
	}
	return nil, suite{}, fmt.Errorf("%w: it has neither cipher suite 17 nor 3, and others are not safe: %w", bmc.ErrUnsupported, refused)
}

func loginWith(ctx context.Context, conn net.Conn, s suite, a account) (*session, error) {
	var number [21]byte
	rand.Read(number[:]) // never fails
	k := keys{suite: s, ours: binary.LittleEndian.Uint32(number[:]) | 1}
	ourRandom, tag := number[4:20], number[20]&0x3f

	body := append([]byte{tag, 0, 0, 0}, binary.LittleEndian.AppendUint32(nil, k.ours)...)
	for kind, algorithm := range []byte{s.auth, s.integrity, confidentialityAES} {
		body = append(body, byte(kind), 0, 0, 8, algorithm, 0, 0, 0)
	}
	err := setup(ctx, conn, a.wait, payloadOpenRequest, payloadOpenResponse, body, func(b []byte) (err error) {
		k.theirs, err = parseOpen(b, s, k.ours)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open session: %w", err)
	}

	ours, theirs := binary.LittleEndian.AppendUint32(nil, k.ours), binary.LittleEndian.AppendUint32(nil, k.theirs)
	name := append([]byte{roleAdmin, byte(len(a.user))}, a.user...)
	body = append(append([]byte{tag + 1, 0, 0, 0}, theirs...), ourRandom...)
	body = append(append(body, roleAdmin, 0, 0, byte(len(a.user))), a.user...)
	var theirRandom, guid, proof []byte
	err = setup(ctx, conn, a.wait, payloadRAKP1, payloadRAKP2, body, func(b []byte) error {
		r, g, p, err := parseRAKP2(b, s, k.ours)
		theirRandom, guid, proof = append([]byte{}, r...), append([]byte{}, g...), append([]byte{}, p...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot log in: %w", err)
	}
	key := make([]byte, maxPassword)
	copy(key, a.password)
	known := hmac.Equal(proof, s.mac(key, ours, theirs, ourRandom, theirRandom, guid, name))

	body = append([]byte{tag + 2, 0, 0, 0}, theirs...)
	if !known {
		// The controller used another password. It is told, so that it frees the half of a session that it holds (section 13.22).
		body[1] = 0x0f
		_, err := conn.Write(bare(payloadRAKP3, body))
		return nil, errors.Join(fmt.Errorf("cannot log in: %w: the password is another one", bmc.ErrAuth), err)
	}
	body = append(body, s.mac(key, theirRandom, ours, name)...)
	sik := s.mac(key, ourRandom, theirRandom, name)
	err = setup(ctx, conn, a.wait, payloadRAKP3, payloadRAKP4, body, func(b []byte) error {
		p, err := parseRAKP4(b, s, k.ours)
		if err == nil && !hmac.Equal(p, s.mac(sik, ourRandom, theirs, guid)[:s.icv]) {
			return errWire // forged: ours may still come
		}
		return err
	})
	se := &session{conn: conn, keys: k, wait: a.wait, used: time.Now()}
	if derr := se.keys.derive(sik); derr != nil {
		return nil, derr
	}
	if errors.Is(err, errLost) || muddled(err) {
		// The controller may hold the session already, or have drawn another random number. What it may hold is ended.
		_, werr := conn.Write(se.keys.seal(request(cmdCloseSession, 0, theirs)))
		return nil, errors.Join(fmt.Errorf("cannot log in: %w: %w", errMuddled, err), werr)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot log in: %w", err)
	}
	return se, nil
}

// often says how often a request may be made.
type often int

const (
	once   often = iota // it changes the device once more each time
	here                // again and again, but in this session only
	always              // also in another session
)

// send asks within the session. The answer's data is the caller's. Errors: errLost, *codeError, the context's.
func (s *session) send(ctx context.Context, c command, data []byte, o often) ([]byte, error) {
	n := tries
	switch {
	case o == once:
		n = 1
	case o == always && time.Since(s.used) > fresh:
		n = 2 // it has probably ended, and the controller says nothing to that
	case o == always:
		n = triesHere
	}
	s.seq = (s.seq + 1) & 0x3f
	var out []byte
	err := ask(ctx, s.conn, n, s.wait, func() []byte { return s.keys.seal(request(c, s.seq, data)) }, func(b []byte) error {
		message, err := s.keys.open(b)
		if err != nil {
			return err
		}
		code, data, err := response(message, c, s.seq)
		if err != nil {
			return err
		}
		if code != 0 {
			return &codeError{c, code}
		}
		out = append([]byte{}, data...)
		return nil
	})
	var refused *codeError
	if err == nil || errors.As(err, &refused) {
		s.used = time.Now()
	}
	return out, err
}
