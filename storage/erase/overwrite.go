package erase

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// overwrite writes zeros over the whole disk, from where it was.
func overwrite(ctx context.Context, j *Job) (string, error) {
	size, b := j.dev.Size(), Aligned(chunk)
	for j.off < size {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n := min(chunk, size-j.off)
		if err := writeAt(j.dev, b[:n], j.off); err != nil {
			return "", err
		}
		j.off += n
		j.report("erase", uint64(j.off), uint64(size))
	}
	if err := j.dev.Sync(); err != nil {
		return "", err
	}
	return fmt.Sprintf("wrote %d octets, flushed", size), nil
}

// sample reads a tenth of the disk, chosen by chance, the first and the last piece among it, and wants zeros.
func (j *Job) sample(ctx context.Context) error {
	size, b := j.dev.Size(), Aligned(chunk)
	pieces := (size + chunk - 1) / chunk
	digest := intent.DigestOf(j.seed[:])
	r := rand.New(rand.NewPCG(binary.BigEndian.Uint64(digest[:8]), binary.BigEndian.Uint64(j.seed[:8])))
	j.drive.Samples = 0
	for i := range pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i != 0 && i != pieces-1 && r.IntN(10) != 0 {
			continue
		}
		off := i * chunk
		p := b[:min(chunk, size-off)]
		if _, err := j.dev.ReadAt(p, off); err != nil {
			return fmt.Errorf("cannot read back %d octets at %d: %w", len(p), off, err)
		}
		for k, c := range p {
			if c != 0 {
				return fmt.Errorf("octet %d is not zero: %w", off+int64(k), ErrDevice)
			}
		}
		j.drive.Samples++
		j.report("look", uint64(off)+uint64(len(p)), uint64(size))
	}
	return nil
}
