package sitetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/pkitest"
)

// Author signs one site's intent as a coordinator would, with the writer key of a domain made for the test.
type Author struct {
	*pkitest.Domain
	Site string
	Head intent.Head // of the last entry signed
	// Requires stands on every entry; Now is the clock, nil for time.Now.
	Requires intent.Requires
	Now      func() time.Time
}

// NewAuthor returns the author of site lon1 in a new domain.
func NewAuthor(t testing.TB) *Author {
	t.Helper()
	return &Author{Domain: pkitest.New(t), Site: "lon1", Requires: intent.Requires{Trust: 1}}
}

// At returns a copy that goes on from head: what an author would sign who forked the chain there, or ran ahead.
func (a *Author) At(head intent.Head) *Author {
	c := *a
	c.Head = head
	return &c
}

// Entry signs one entry onto the head and moves it.
func (a *Author) Entry(kind intent.EntryKind, body any) *intent.Envelope {
	a.T.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		a.T.Fatal(err)
	}
	now := time.Now
	if a.Now != nil {
		now = a.Now
	}
	e := intent.Entry{Header: document.Follow(a.Head, intent.StreamIntent, 1, now()), Site: a.Site, Requires: a.Requires, Kind: kind, Body: raw}
	payload, err := json.Marshal(e)
	if err != nil {
		a.T.Fatal(err)
	}
	env, err := document.Sign(intent.PayloadIntent, payload, a.Writer)
	if err != nil {
		a.T.Fatal(err)
	}
	a.Head = e.Head(env.Payload)
	return env
}

// Put signs one entry that puts objects; each doc is one whole JSON document.
func (a *Author) Put(docs ...string) *intent.Envelope {
	a.T.Helper()
	var b intent.PutBody
	for _, d := range docs {
		o := Object(a.T, d)
		raw, err := json.Marshal(o)
		if err != nil {
			a.T.Fatal(err)
		}
		b.Objects = append(b.Objects, intent.PutObject{UID: o.Metadata.UID, Rev: o.Metadata.Rev, Doc: raw})
	}
	return a.Entry(intent.EntryPut, b)
}

// Object decodes one document.
func Object(t testing.TB, doc string) *intent.Object {
	t.Helper()
	o, err := intent.DecodeObject([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// SiteDoc is the object of site lon1.
const SiteDoc = `{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1","uid":"s1","generation":1},"spec":{"region":"eu","zone":"a"}}`

// MachineTypeDoc is a machine type that every machine fits, of uid u-NAME.
func MachineTypeDoc(name string, rev int) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"MachineType","metadata":{"name":%q,"uid":%q,"generation":%d},"spec":{"cpu":{"min":1},"memoryMiB":{"min":1}}}`, name, "u-"+name, rev)
}

// ArrayDoc is an instance array of project acme in infrastructure shop, of uid ia-NAME.
func ArrayDoc(name string, rev, count int) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"InstanceArray","metadata":{"name":%q,"project":"acme","site":"lon1","uid":%q,"generation":%d},
		"spec":{"infrastructure":"shop","count":%d,"machineType":"small","image":"tiny"}}`, name, "ia-"+name, rev, count)
}

// AssetDoc is an asset of uid as-NAME: an image if its name is tiny, else of class boot.
func AssetDoc(name string) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Asset","metadata":{"name":%q,"uid":%q,"generation":1},"spec":{"digest":%q,"size":4096,"manifest":%q,"class":%q}}`,
		name, "as-"+name, intent.DigestOf([]byte(name)), intent.DigestOf([]byte("m"+name)), map[bool]string{true: "image", false: "boot"}[name == "tiny"])
}

// ImageDoc is image tiny over asset tiny.
const ImageDoc = `{"apiVersion":"skerry/v1","kind":"Image","metadata":{"name":"tiny","uid":"i1","generation":1},"spec":{"asset":"tiny","boot":["bios"],"format":"raw"}}`
