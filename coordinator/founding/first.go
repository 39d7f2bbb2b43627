package founding

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/holder"
)

// First is how far trust document 1 is.
type First struct {
	Envelope *intent.Envelope // nil while holders are waited for
	Next     *intent.RootSet  // that it announces
	Have, Of int              // signatures
}

// First makes keys and the offer at path, or goes on with those that are there. The roots are those of the bundle file; without one they
// are made here, and this host signs. signed is the offer that holders signed; empty: the one at path.
func (k Keys) First(path, bundle, signed string, now time.Time) (*First, error) {
	own, err := holder.LoadOffer(path)
	if errors.Is(err, fs.ErrNotExist) {
		own, err = k.begin(path, bundle, now)
	}
	if err != nil {
		return nil, err
	}
	offered := own
	switch {
	case signed != "":
		if offered, err = holder.LoadOffer(signed); err != nil {
			return nil, err
		}
	case bundle == "":
		if err := k.signAlone(path, own, now); err != nil {
			return nil, err
		}
	}
	f := &First{Next: own.Next}
	if f.Have, f.Of, err = offered.Count(); err != nil || f.Have < f.Of {
		return f, err
	}
	f.Envelope, err = k.Finish(own, offered, now)
	return f, err
}

func (k Keys) begin(path, bundle string, now time.Time) (*holder.Offer, error) {
	var b *holder.Bundle
	var err error
	if bundle != "" {
		b, err = holder.LoadBundle(bundle)
	} else {
		b, err = k.MakeHolder(now)
	}
	if err != nil {
		return nil, err
	}
	o, err := k.Offer(b, now)
	if err != nil {
		return nil, err
	}
	return o, holder.SaveOffer(path, o)
}

// signAlone signs as the one holder, and keeps that: the certificate in it is made once, also when a crash comes now.
func (k Keys) signAlone(path string, o *holder.Offer, now time.Time) error {
	h, err := k.Holder()
	if err != nil {
		return err
	}
	if h == nil {
		return fmt.Errorf("cannot found %s: it was begun with roots of holders; give --roots again", k.Domain)
	}
	if _, _, err := h.Sign(o, holder.Mark{}, now); err != nil {
		return err
	}
	return holder.SaveOffer(path, o)
}
