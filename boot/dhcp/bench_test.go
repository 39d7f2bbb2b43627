package dhcp

import "testing"

// BenchmarkHandle is the cost of one answer: a known PXE client, and a stranger with 1,000 leases about.
func BenchmarkHandle(b *testing.B) {
	fa := facts()
	for i := range 1000 {
		fa.Leases = append(fa.Leases, Lease{MAC: MAC{6, 0, 0, 0, byte(i >> 8), byte(i)}, Addr: addr4(0x0a570000 + uint32(i)), Until: t0})
	}
	v := view(b, fa)
	f := func(name string, p Packet) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r, _ := Handle(p, v); r.Bytes == nil {
					b.Fatal("silence")
				}
			}
		})
	}
	f("known", packet(pxe(m1, 1, "0007")))
	p := packet(pxe(new1, 1, "0007"))
	p.Repeat = 1
	f("stranger", p)
}
