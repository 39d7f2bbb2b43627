package founding

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
)

// Again makes this directory the coordinator of a domain whose every coordinator was lost, or goes on with it: its keys are new, and the
// next trust document lists them. chain is the trust stream as agents have it. It is signed here where the roots lie here; else the
// offer at path goes round the holders, as with First.
func (k Keys) Again(path string, chain *document.TrustChain, docs []*intent.Envelope, signed string, now time.Time) (*First, error) {
	own, err := holder.LoadOffer(path)
	if errors.Is(err, fs.ErrNotExist) {
		if own, err = k.offerAgain(chain, docs, now); err == nil {
			err = holder.SaveOffer(path, own)
		}
	}
	if err != nil {
		return nil, err
	}
	if n := len(own.Chain); len(docs) != n || docs[n-1].Digest() != own.Chain[n-1].Digest() {
		return nil, fmt.Errorf("cannot go on with the document in %s: the agents have another trust chain than when it was made; remove it to make another", path)
	}
	offered := own
	h, err := k.Holder()
	switch {
	case err != nil:
		return nil, err
	case signed != "":
		if offered, err = holder.LoadOffer(signed); err != nil {
			return nil, err
		}
	case h != nil:
		if err := k.signAlone(path, own, now); err != nil {
			return nil, err
		}
	}
	f := &First{}
	if f.Have, f.Of, err = offered.Count(); err != nil || f.Have < f.Of {
		return f, err
	}
	f.Envelope, err = k.Finish(own, offered, now)
	return f, err
}

// offerAgain lists the new keys beside those of before. What the lost writers and CAs signed counts still: the sites live by it, and
// their agents show it. They are retired by a rotation when every site was heard.
func (k Keys) offerAgain(chain *document.TrustChain, docs []*intent.Envelope, now time.Time) (*holder.Offer, error) {
	writer, csr, err := k.own()
	if err != nil {
		return nil, err
	}
	body := *chain.Body
	if slices.ContainsFunc(body.Writers, func(w intent.Writer) bool { return bytes.Equal(w.Key, writer) }) {
		return nil, errors.New("cannot rebuild with the keys of the lost coordinator: leave only root*.key, root.crt and next-sign.key in this directory, if the roots lie here")
	}
	body.Header = document.Follow(chain.Head, intent.StreamTrust, 0, now)
	body.Floor = nil // said once
	body.CAs, body.Writers = slices.Clone(body.CAs), slices.Clone(body.Writers)
	epoch := uint64(0)
	for i := range body.Writers {
		w := &body.Writers[i]
		epoch = max(epoch, w.Epoch)
		if w.State == intent.KeyUse {
			w.State = intent.KeyAccept
		}
	}
	root := body.CAs[len(body.CAs)-1].Root
	for i := range body.CAs {
		if c := &body.CAs[i]; c.State == intent.KeyUse {
			c.State, root = intent.KeyAccept, c.Root
		}
	}
	body.Writers = append(body.Writers, intent.Writer{Key: writer, Epoch: epoch + 1, Mode: intent.ModeContinue, State: intent.KeyUse})
	body.CAs = append(body.CAs, intent.CACert{Root: root, State: intent.KeyUse})
	body.Coordinators = []intent.Coordinator{{ID: k.ID, Addr: k.Addr}}
	return &holder.Offer{CSR: csr, CA: fmt.Sprintf("C%d", len(body.CAs)), Chain: docs, Body: body}, nil
}
