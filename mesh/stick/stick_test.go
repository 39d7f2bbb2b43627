package stick

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func envelope(text string) *intent.Envelope {
	return &intent.Envelope{PayloadType: intent.PayloadIntent, Payload: []byte(text), Signatures: []intent.Signature{{KeyID: "k", Sig: []byte{1}}}}
}

func lines() []*Line {
	return []*Line{
		{Trust: envelope("t")},
		{Revocation: envelope("r")},
		{Intent: envelope("i")},
		{Report: envelope("p")},
		{Override: envelope("o")},
		{Admission: envelope("a")},
		{Quarantine: envelope("q")},
		{Events: envelope("e")},
		{Audit: &intent.AuditBundle{Agent: "a1", Chain: "c", Records: []json.RawMessage{[]byte(`{"seq":1}`)}, Head: envelope("h")}},
	}
}

// file writes a whole stick.
func file(t testing.TB, ls ...*Line) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, Header{Way: Down, Domain: "edge.example", Site: "lon1", By: "c1", Made: time.Unix(0, 0).UTC()})
	for _, l := range ls {
		err = errors.Join(err, w.Put(l))
	}
	if err := errors.Join(err, w.End()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read returns what a file gives, and why it ended.
func read(b []byte) (out []*Line, err error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	for {
		l, err := r.Next()
		if err != nil {
			return out, err
		}
		out = append(out, l)
	}
}

func TestRoundTrip(t *testing.T) {
	got, err := read(file(t, lines()...))
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if d := cmp.Diff(lines(), got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// A file that was cut anywhere is never taken for a whole one, and gives the lines before the cut.
func TestCutAnywhere(t *testing.T) {
	whole := file(t, lines()...)
	for n := range len(whole) {
		got, err := read(whole[:n])
		full := bytes.Count(whole[:n], []byte("\n"))
		switch {
		case full == 0 && !errors.Is(err, ErrFormat):
			t.Fatalf("cut at %d: %v, want ErrFormat", n, err)
		case full > 0 && !errors.Is(err, ErrPartial):
			t.Fatalf("cut at %d: %v, want ErrPartial", n, err)
		case full > 0 && len(got) != full-1:
			t.Fatalf("cut at %d: %d lines of %d", n, len(got), full-1)
		}
	}
}

func TestRefused(t *testing.T) {
	whole := string(file(t, lines()...))
	f := func(what, text string, want error) {
		t.Helper()
		if _, err := read([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	first, rest, _ := strings.Cut(whole, "\n")
	second, tail, _ := strings.Cut(rest, "\n")
	f("no header", rest, ErrFormat)
	f("another version", strings.Replace(whole, `"version":1`, `"version":2`, 1), ErrFormat)
	f("another way", strings.Replace(whole, `"way":"down"`, `"way":"over"`, 1), ErrFormat)
	f("a line less", first+"\n"+tail, ErrDamaged)
	f("a line twice", first+"\n"+second+"\n"+second+"\n"+tail, ErrDamaged)
	f("something after the end", whole+"{}\n", ErrLine)
	f("two headers", first+"\n"+first+"\n"+rest, ErrLine)
	f("two documents", first+"\n"+`{"trust":{"payloadType":"x","payload":"","signatures":[{"keyid":"","sig":""}]},"intent":{"payloadType":"x","payload":"","signatures":[{"keyid":"","sig":""}]}}`+"\n", ErrLine)
	f("an unknown field", first+"\n"+`{"parcel":{}}`+"\n", ErrLine)
	f("no document", first+"\n{}\n", ErrLine)
	f("no signature", first+"\n"+`{"trust":{"payloadType":"x","payload":"","signatures":[]}}`+"\n", ErrLine)
	f("a line without end", first+"\n"+strings.Repeat("x", MaxLine+1), ErrLine)
	f("nothing", "", ErrFormat)
}

// A line that is too long is not written: nobody could read it.
func TestLongLineIsNotWritten(t *testing.T) {
	w, err := NewWriter(io.Discard, Header{Way: Up})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Put(&Line{Intent: envelope(strings.Repeat("x", MaxLine))}); err == nil {
		t.Error("written")
	}
}

func FuzzReader(f *testing.F) {
	whole := file(f, lines()...)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("{\"stick\":{\"version\":1,\"way\":\"up\"}}\n{\"end\":{\"lines\":1,\"sha256\":\"sha256:00\"}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := read(b)
		if err == nil {
			t.Fatal("a file without an end")
		}
		if !errors.Is(err, io.EOF) {
			return
		}
		for _, l := range got { // what a whole file gave can be written again
			if kind, _ := l.Kind(); kind == "" || kind == "stick" || kind == "end" {
				t.Fatalf("line of kind %q", kind)
			}
		}
	})
}
