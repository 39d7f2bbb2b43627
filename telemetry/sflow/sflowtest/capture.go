package sflowtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
)

// Payloads returns the UDP payloads of a recorded file: a pcap of Ethernet frames, a tar.gz of payloads, or one payload or one
// Ethernet frame alone.
func Payloads(path string) ([][]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasSuffix(path, ".pcap"):
		return pcap(b)
	case strings.HasSuffix(path, ".tar.gz"):
		return archive(b)
	case len(b) > 4 && binary.BigEndian.Uint32(b) == 5:
		return [][]byte{b}, nil
	}
	p, ok := udp(b)
	if !ok {
		return nil, fmt.Errorf("%s holds neither a payload nor a frame", path)
	}
	return [][]byte{p}, nil
}

func archive(b []byte) (out [][]byte, err error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	for r := tar.NewReader(z); ; {
		if _, err := r.Next(); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		p, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
}

func pcap(b []byte) (out [][]byte, err error) {
	var o binary.ByteOrder = binary.LittleEndian
	if len(b) > 24 && b[0] == 0xa1 {
		o = binary.BigEndian
	}
	if len(b) < 24 || o.Uint32(b[20:])&0xffff != 1 {
		return nil, fmt.Errorf("no pcap of Ethernet frames")
	}
	for b = b[24:]; len(b) >= 16; {
		n := int(o.Uint32(b[8:]))
		if n > len(b)-16 {
			break
		}
		if p, ok := udp(b[16 : 16+n]); ok {
			out = append(out, p)
		}
		b = b[16+n:]
	}
	return out, nil
}

// udp returns the payload of an Ethernet frame with an unfragmented UDP packet.
func udp(f []byte) ([]byte, bool) {
	off := 14
	if len(f) > 18 && f[12] == 0x81 && f[13] == 0 {
		off = 18
	}
	switch {
	case len(f) < off+28:
		return nil, false
	case f[off-2] == 0x08 && f[off-1] == 0:
		off += int(f[off]&15) * 4
	case f[off-2] == 0x86 && f[off-1] == 0xdd:
		off += 40
	default:
		return nil, false
	}
	if len(f) < off+8 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(f[off+4:])) - 8
	if p := f[off+8:]; n >= 0 && n <= len(p) {
		return p[:n], true
	}
	return f[off+8:], true // cut by the one who recorded
}
