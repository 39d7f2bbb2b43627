package receipt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/skerry-metal/skerry/cmd/skerry/cli/account"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
)

// writersOf reads the writers, retired ones too, out of a file: a trust document, which the caller vouches for unless pin names it, or a
// stick with all of them, which count from the one that pin names.
func writersOf(path, pin string) ([]intent.Writer, error) {
	var first intent.Digest
	if pin != "" {
		d, err := intent.ParseDigest(pin)
		if err != nil {
			return nil, fmt.Errorf("cannot use --pin: %w", err)
		}
		first = d
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read trust document: %w", err)
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 2*intent.MaxEnvelope))
	if err != nil {
		return nil, fmt.Errorf("cannot read trust document: %w", err)
	}
	env, err := document.Decode(head)
	if err != nil {
		rd, serr := stick.NewReader(io.MultiReader(bytes.NewReader(head), f))
		if serr != nil {
			return nil, fmt.Errorf("cannot read trust document %s: %w", path, err)
		}
		return fromStick(rd, path, first)
	}
	if pin == "" {
		first = env.Digest()
	}
	t, err := (&document.TrustChain{Pin: first}).Accept(env)
	if err != nil {
		return nil, fmt.Errorf("cannot use trust document %s: %w", path, err)
	}
	return t.Writers, nil
}

// fromStick follows the trust documents of a stick from the pinned one.
func fromStick(rd *stick.Reader, path string, pin intent.Digest) ([]intent.Writer, error) {
	if pin == (intent.Digest{}) {
		return nil, &account.HintError{Err: fmt.Errorf("cannot trust %s for itself", path), Next: "give --pin, which `skerry coordinator init` printed, and which join tokens bear"}
	}
	chain := &document.TrustChain{Pin: pin}
	for {
		l, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", path, err)
		}
		if l.Trust == nil {
			continue
		}
		if _, err := chain.Accept(l.Trust); err != nil && !errors.Is(err, document.ErrKnown) {
			return nil, fmt.Errorf("cannot use trust document of line %d of %s: %w", rd.Line, path, err)
		}
	}
	if chain.Body == nil {
		return nil, fmt.Errorf("cannot use %s: no trust document is in it", path)
	}
	return chain.Body.Writers, nil
}
