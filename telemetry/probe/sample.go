package probe

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/cilium/ebpf/ringbuf"
)

// Sample is the beginning of one frame.
type Sample struct {
	Index  int    // of the interface
	Out    bool   // it goes out there, else it comes in
	VLAN   uint16 // 0: none
	Len    uint32 // octets, as the kernel has it: a super-packet is one, without FCS
	Frames uint32 // that it is cut into, or was made of
	Header []byte // at most 128 octets from the Ethernet header on (of rung Cgroup: from the IP header); whoever receives it owns it
}

const (
	sampleHead = 128
	sampleSize = 16 + sampleHead
)

var errSample = errors.New("probe: a sample does not read")

// parseSample reads a record of the ring. Source: struct sample of bpf/count.c.
func parseSample(b []byte) (Sample, error) {
	if len(b) < sampleSize || b[15] > sampleHead || b[14] > 1 {
		return Sample{}, errSample
	}
	n := binary.NativeEndian
	return Sample{
		Index: int(n.Uint32(b)), Len: n.Uint32(b[4:]), Frames: n.Uint32(b[8:]), VLAN: n.Uint16(b[12:]), Out: b[14] == 1,
		Header: append([]byte(nil), b[16:16+int(b[15])]...),
	}, nil
}

// Samples gives 1 in Config.Sample of the frames that pass, while Run runs. Whoever does not read in time misses the newest; Stats counts them.
func (p *Probe) Samples() <-chan Sample { return p.samples }

// readRing hands samples on until ctx ends.
func (p *Probe) readRing(ctx context.Context) {
	r, err := ringbuf.NewReader(p.kernel.maps.Samples)
	if err != nil {
		p.cfg.Log.Warn("no samples of the probe are read; its counts are not touched by that", "err", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	var rec ringbuf.Record
	for {
		if err := r.ReadInto(&rec); err != nil {
			if !errors.Is(err, ringbuf.ErrClosed) {
				p.cfg.Log.Warn("no more samples of the probe are read; its counts are not touched by that", "err", err)
				_ = r.Close()
			}
			return
		}
		s, err := parseSample(rec.RawSample)
		if err != nil {
			p.mu.Lock()
			p.damaged++
			p.mu.Unlock()
			continue
		}
		select {
		case p.samples <- s:
		default:
			p.mu.Lock()
			p.lost++
			p.mu.Unlock()
		}
	}
}
