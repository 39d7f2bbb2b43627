package holder

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Words says what o's document changes, one change a line. Errors: o does not fit itself.
func (o *Offer) Words() ([]string, error) {
	r, err := o.review()
	if err != nil {
		return nil, err
	}
	b := &o.Body
	if b.Seq == 1 {
		return append([]string{"founds " + b.Domain}, Changes(r.chain.Body, o)...), nil
	}
	out := []string{fmt.Sprintf("trust %d of %s, after %d (%s)", b.Seq, b.Domain, r.chain.Head.Seq, r.chain.Head.Hash.Short())}
	for _, d := range r.chain.Lone() {
		out = append(out, fmt.Sprintf("FOLLOWS %s, which the announced roots signed alone: be sure that your sites accepted it", d.Short()))
	}
	if o.Lost {
		out = append(out, "WITHOUT the roots of before: a person must accept it at the coordinator and at every agent")
	}
	return append(out, Changes(r.chain.Body, o)...), nil
}

// Replaces says where the head of a chain comes to stand by a document that the announced roots signed alone.
func Replaces(was, is *intent.TrustBody) string {
	switch {
	case is.Seq > was.Seq:
		return fmt.Sprintf("trust %d follows %d, without the roots of before", is.Seq, was.Seq)
	case is.Seq == was.Seq:
		return fmt.Sprintf("trust %d goes OUT OF FORCE, another takes its place, without the roots of before", is.Seq)
	}
	return fmt.Sprintf("trust %d to %d go OUT OF FORCE, another %d takes their place, without the roots of before", is.Seq, was.Seq, is.Seq)
}

// Changes says what o's document changes in old, one change a line; old is nil for a new domain. It checks nothing.
func Changes(old *intent.TrustBody, o *Offer) []string {
	b := &o.Body
	if old == nil {
		old = &intent.TrustBody{}
	}
	var out []string
	say := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	if b.Floor != nil && (old.Floor == nil || !b.Floor.Equal(*old.Floor)) {
		say("LOWERS the time floor of every agent to %s", b.Floor.UTC().Format("2006-01-02 15:04:05Z"))
	}
	if !b.Roots.Equal(old.Roots) {
		say("roots from now on: %s", setWords(b.Roots))
	}
	if b.Next != old.Next {
		words := "set " + b.Next.Short()
		if o.Next != nil {
			words = setWords(*o.Next)
		}
		say("announces the next roots: %s", words)
	}
	out = append(out, o.caWords(old)...)
	out = append(out, writerWords(old.Writers, b.Writers)...)
	return append(out, coordinatorWords(old.Coordinators, b.Coordinators)...)
}

func setWords(s intent.RootSet) string {
	var ids []string
	for _, k := range s.Keys {
		ids = append(ids, intent.DigestOf(k).Short())
	}
	return fmt.Sprintf("%d of %d must sign (%s)", s.Threshold, len(s.Keys), strings.Join(ids, ", "))
}

// change says how a key's state moved; empty when it stays.
func change(what string, was, is intent.KeyState) []string {
	switch {
	case was == is:
		return nil
	case was == "":
		return []string{fmt.Sprintf("adds %s: %s", what, is)}
	case is == "":
		return []string{fmt.Sprintf("REMOVES %s (it was: %s)", what, was)}
	default:
		return []string{fmt.Sprintf("%s: %s, was %s", what, is, was)}
	}
}

func writerWords(old, fresh []intent.Writer) (out []string) {
	name := func(w intent.Writer) string {
		return fmt.Sprintf("writer of epoch %d (%s)", w.Epoch, intent.DigestOf(w.Key).Short())
	}
	in := func(ws []intent.Writer, w intent.Writer) intent.KeyState {
		i := slices.IndexFunc(ws, func(o intent.Writer) bool { return bytes.Equal(o.Key, w.Key) && o.Epoch == w.Epoch })
		if i < 0 {
			return ""
		}
		return ws[i].State
	}
	for _, w := range fresh {
		out = append(out, change(name(w), in(old, w), w.State)...)
	}
	for _, w := range old {
		if in(fresh, w) == "" {
			out = append(out, change(name(w), w.State, "")...)
		}
	}
	return out
}

func (o *Offer) caWords(old *intent.TrustBody) (out []string) {
	in := func(cs []intent.CACert, c intent.CACert) intent.KeyState {
		i := slices.IndexFunc(cs, func(o intent.CACert) bool { return bytes.Equal(o.Cert, c.Cert) && bytes.Equal(o.Root, c.Root) })
		if i < 0 {
			return ""
		}
		return cs[i].State
	}
	for _, c := range o.Body.CAs {
		what := o.caName(c)
		out = append(out, change(what, in(old.CAs, c), c.State)...)
		if len(c.Cert) == 0 {
			out = append(out, "certifies "+what+" with R "+intent.DigestOf(c.Root).Short())
		}
	}
	for _, c := range old.CAs {
		if in(o.Body.CAs, c) == "" {
			out = append(out, change(o.caName(c), c.State, "")...)
		}
	}
	return out
}

func (o *Offer) caName(c intent.CACert) string {
	if len(c.Cert) == 0 {
		return "coordinator CA " + o.CA + " (new key)"
	}
	cert, err := x509.ParseCertificate(c.Cert)
	if err != nil {
		return "coordinator CA that does not parse"
	}
	return fmt.Sprintf("%s (%s)", cert.Subject.CommonName, intent.DigestOf(cert.RawSubjectPublicKeyInfo).Short())
}

func coordinatorWords(old, fresh []intent.Coordinator) (out []string) {
	say := func(verb string, c intent.Coordinator) {
		out = append(out, fmt.Sprintf("%s coordinator %s at %s", verb, c.ID, strings.Join(c.Addr, ", ")))
	}
	same := func(a intent.Coordinator) func(intent.Coordinator) bool {
		return func(b intent.Coordinator) bool { return a.ID == b.ID && slices.Equal(a.Addr, b.Addr) }
	}
	for _, c := range fresh {
		if !slices.ContainsFunc(old, same(c)) {
			say("adds", c)
		}
	}
	for _, c := range old {
		if !slices.ContainsFunc(fresh, same(c)) {
			say("REMOVES", c)
		}
	}
	return out
}
