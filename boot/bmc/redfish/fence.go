package redfish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// The fence is the AssetTag "skerry/<site>/<epoch>", if it was empty or ours. Somebody else's tag is left alone.

const (
	tagPrefix = "skerry/"
	maxTag    = 63 // Dell takes 63 characters
	maxSite   = 24 // leaves 32 for the epoch; a longer site id goes in as a hash
)

func (c *Controller) tagSite() string {
	if len(c.cfg.Site) <= maxSite {
		return c.cfg.Site
	}
	h := sha256.Sum256([]byte(c.cfg.Site))
	return hex.EncodeToString(h[:10])
}

func (c *Controller) tag(e intent.Epoch) string { return tagPrefix + c.tagSite() + "/" + e.String() }

// parseTag returns the epoch of a tag of ours.
func (c *Controller) parseTag(tag string) (e intent.Epoch, ours bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(tag), tagPrefix+c.tagSite()+"/")
	if !ok {
		return intent.Epoch{}, false
	}
	e, err := intent.ParseEpoch(rest)
	return e, err == nil
}

func (c *Controller) foreign(tag string) bool {
	_, ours := c.parseTag(tag)
	return strings.TrimSpace(tag) != "" && !ours
}

// ReadFence returns the epoch in the tag. The strength is hard only if the device refuses a write under a stale ETag: that is
// tried once per Controller, with the tag that is there already and an ETag that never was, so that a device which ignores
// ETags is left as it is too.
func (c *Controller) ReadFence(ctx context.Context) (intent.Epoch, intent.Strength, error) {
	s, err := c.read(ctx)
	if err != nil {
		return intent.Epoch{}, intent.StrengthNone, fmt.Errorf("cannot read fence: %w", err)
	}
	if c.foreign(s.AssetTag) {
		return intent.Epoch{}, intent.StrengthNone, nil
	}
	st, err := c.strength(ctx, s)
	if err != nil {
		return intent.Epoch{}, intent.StrengthNone, fmt.Errorf("cannot read fence: %w", err)
	}
	e, _ := c.parseTag(s.AssetTag)
	return e, st, nil
}

func (c *Controller) strength(ctx context.Context, s *system) (intent.Strength, error) {
	c.mu.Lock()
	known, st := c.probed, c.caps.Fence
	c.mu.Unlock()
	if known {
		return st, nil
	}
	st = intent.StrengthSoft
	if s.ETag != "" {
		path, err := c.find(ctx)
		if err != nil {
			return intent.StrengthNone, err
		}
		err = c.patchOnce(ctx, path, neverETag(s.ETag), false, map[string]string{"AssetTag": s.AssetTag})
		switch {
		case status(err) == http.StatusPreconditionFailed:
			st = intent.StrengthHard
		case err == nil: // it was ignored
		case status(err) == http.StatusBadRequest || errors.Is(err, bmc.ErrUnsupported):
			st = intent.StrengthNone // the tag cannot be written at all
		default:
			return intent.StrengthNone, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probed, c.caps.Fence = true, st
	return st, nil
}

// neverETag has the form of etag and another value.
func neverETag(etag string) string {
	b := []byte(etag)
	for i, v := range b {
		switch {
		case v >= '0' && v <= '9':
			b[i] = '0' + ('9' - v)
		case v >= 'a' && v <= 'y':
			b[i] = v + 1
		}
	}
	if string(b) == etag {
		return `"0"`
	}
	return string(b)
}

// RaiseFence writes e into the tag under the ETag that it was read with.
func (c *Controller) RaiseFence(ctx context.Context, e intent.Epoch) error {
	if err := c.raise(ctx, e); err != nil {
		return fmt.Errorf("cannot raise fence to %s: %w", e, err)
	}
	return nil
}

func (c *Controller) raise(ctx context.Context, e intent.Epoch) error {
	if tag := c.tag(e); len(tag) > maxTag {
		return fmt.Errorf("%w: tag of %d characters", bmc.ErrUnsupported, len(tag))
	}
	var last error
	for range patchTries {
		s, err := c.read(ctx)
		if err != nil {
			return errors.Join(err, last)
		}
		if c.foreign(s.AssetTag) {
			return nil // left alone; ReadFence says that there is no fence
		}
		switch have, ours := c.parseTag(s.AssetTag); {
		case ours && have.Compare(e) > 0:
			return fmt.Errorf("%w: device holds %s", bmc.ErrFenced, have)
		case ours && have == e:
			return nil
		}
		last = c.patch(ctx, s.ETag, map[string]string{"AssetTag": c.tag(e)})
		switch {
		case last == nil, errors.Is(last, errStale), errors.Is(last, bmc.ErrUnknown):
			continue // the next read decides
		case status(last) == http.StatusBadRequest || errors.Is(last, bmc.ErrUnsupported):
			c.mu.Lock()
			c.probed, c.caps.Fence = true, intent.StrengthNone
			c.mu.Unlock()
			return nil
		default:
			return last
		}
	}
	return errors.Join(fmt.Errorf("%w: the tag is not taken", bmc.ErrNoEffect), last)
}
