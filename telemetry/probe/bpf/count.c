// SPDX-License-Identifier: Apache-2.0
//
// Counts frames by whose address they have, and lets every one of them pass. `make bpf` compiles it; no helper that is called here is
// for GPL programs only, so the licence below is that of Skerry. The kernel's headers come under their syscall note, libbpf's helpers
// under BSD-2-Clause; nothing else is taken from anywhere. It needs Linux 5.8 (ring buffers, gso_size).
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char terms[] SEC("license") = "Apache-2.0";

#define FCS 4
#define TAG 4
#define ETHERNET 14

// Bits of interface.flags.
#define NEAR 1  // the interface is the machine's own: what it sends is from the machine. Else machines are on the other side
#define WHOLE 2 // frames of no known address count too, by slot

#define PEER 0xffffffff // slot of an address that says whose the other end is, and is counted elsewhere

// Bits of the index into counts, beside 4 * slot.
#define INSIDE 1 // the other end is of the same group
#define TO 2     // to the machine

struct interface_key {
	__u32 ifindex;
	__u32 vlan; // 0: for each that has no entry
};

struct interface {
	__u32 table;
	__u32 slot;
	__u32 group; // of what is behind it; 0: that of the address
	__u32 flags;
	__u32 mtu; // octets of the longest IP packet of a frame; 0: unknown
};

struct subnet_key {
	__u32 bits; // 32 of table, and those of addr
	__u32 table;
	__u8 addr[16]; // IPv4 as ::ffff:a.b.c.d
};

#define WHOLE_ADDRESS (32 + 128) // bits of one that is in hosts

struct host_key { // the rest of a struct subnet_key
	__u32 table;
	__u8 addr[16];
};

struct subnet {
	__u32 slot;
	__u32 group; // whose it is; 0: shared, or nobody's
};

struct count {
	__u64 bytes;
	__u64 frames;
	__u64 l3;
};

struct config {
	__u64 life; // random, of these maps
};

// Indexes of stats.
enum { SEEN, NOBODY, CROWD, SHORT, STATS };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct interface_key);
	__type(value, struct interface);
} ifaces SEC(".maps");

// What is one address: most are, and a trie takes several times as long to find one.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct host_key);
	__type(value, struct subnet);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct subnet_key);
	__type(value, struct subnet);
} subnets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4 * 1024);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STATS);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

// frame is what is known of one before its headers are read.
struct frame {
	void *ctx;
	void *data, *end; // of what the kernel shows of it
	__u32 xdp;  // ctx is a struct xdp_md
	__u32 bare; // it begins with its IP header
	__u32 out;
	__u32 ifindex;
	__u32 len;
	__u32 segs; // of a super-packet; 0: unknown
	__u32 mss;
	__u32 vlan; // of a tag that was taken out
	__u32 tagged;
};

struct ends {
	struct subnet_key src, dst;
};

// load copies len octets, which is even, to words. What is not in the beginning that the kernel shows is fetched, by a call.
static __always_inline int load(struct frame *f, __u32 off, void *to, __u32 len)
{
	__u8 *at = (__u8 *)f->data + off;
	if ((void *)(at + len) > f->end)
		return f->xdp ? -1 : bpf_skb_load_bytes(f->ctx, off, to, len);
#pragma unroll
	for (__u32 i = 0; i < len / 4; i++)
		((__u32 *)to)[i] = ((__u32 *)at)[i];
	if (len % 4)
		*(__u16 *)(to + len - 2) = *(__u16 *)(at + len - 2);
	return 0;
}

static __always_inline void stat(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &which);
	if (n)
		*n += 1;
}

// cut tells of a frame that is longer than the link's, and of which XDP says no more, how long the segments were that it was made of: they
// filled their frames, or they were more. Source: RFC 9293 section 3.7.1. off and ip are constants, as in count.
static __always_inline __u32 cut(struct frame *f, __u32 off, __u32 ip, __u8 proto, __u32 mtu, __u32 *l4)
{
	__u8 *at = (__u8 *)f->data + off + ip + 12;
	*l4 = 8;
	if (proto == 6) {
		if ((void *)(at + 1) > f->end)
			return 0;
		*l4 = (*at >> 4) * 4;
	}
	return mtu > ip + *l4 ? mtu - ip - *l4 : 0;
}

// transport returns the length of a TCP or UDP header: only what is cut into segments has one that matters.
static __always_inline __u32 transport(struct frame *f, __u32 off, __u8 proto)
{
	__u8 words;
	if (proto == 17)
		return 8;
	if (proto == 6 && !bpf_skb_load_bytes(f->ctx, off + 12, &words, 1))
		return (words >> 4) * 4;
	return 0;
}

static __always_inline struct subnet *find(struct subnet_key *k)
{
	struct subnet *s = bpf_map_lookup_elem(&hosts, &k->table);
	return s ? s : bpf_map_lookup_elem(&subnets, k);
}

// count adds one frame, or one super-packet, which stands for as many frames as it will be cut into or was made of: each with headers
// and a frame check sequence of its own.
static __always_inline void count(struct frame *f)
{
	struct interface_key ik = {.ifindex = f->ifindex};
	__u8 l2[20] __attribute__((aligned(4))) = {}, l3[40] __attribute__((aligned(4)));
	__u32 off = 0, head = 0, l3len = 0, tag = f->tagged ? TAG : 0, ip = 0;
	__u8 proto = 0, version = 0;
	struct ends e = {};

	if (f->bare) {
		if (load(f, 0, l3, 2)) {
			stat(SHORT);
			return;
		}
		version = l3[0] >> 4;
	} else {
		if (load(f, 0, l2, 14)) {
			stat(SHORT);
			return;
		}
		off = 14;
		__u16 type = l2[12] << 8 | l2[13];
		if ((type == 0x8100 || type == 0x88a8) && !load(f, 14, l2 + 16, 4)) {
			if (!f->tagged)
				f->vlan = (l2[16] << 8 | l2[17]) & 0xfff;
			type = l2[18] << 8 | l2[19];
			off = 18;
		}
		version = type == 0x0800 ? 4 : type == 0x86dd ? 6 : 0;
	}
	stat(SEEN);
	ik.vlan = f->vlan;
	struct interface *i = bpf_map_lookup_elem(&ifaces, &ik);
	if (!i && ik.vlan) {
		ik.vlan = 0;
		i = bpf_map_lookup_elem(&ifaces, &ik);
	}

	// off is written as a constant in each branch: older verifiers follow no other into a packet.
	if (version == 4 && !(off == 18 ? load(f, 18, l3, 20) : off == 14 ? load(f, 14, l3, 20) : load(f, 0, l3, 20))) {
		ip = (l3[0] & 0xf) * 4;
		l3len = l3[2] << 8 | l3[3];
		proto = l3[9];
		e.src.addr[10] = e.src.addr[11] = e.dst.addr[10] = e.dst.addr[11] = 0xff;
		__builtin_memcpy(e.src.addr + 12, l3 + 12, 4);
		__builtin_memcpy(e.dst.addr + 12, l3 + 16, 4);
	} else if (version == 6 && !(off == 18 ? load(f, 18, l3, 40) : off == 14 ? load(f, 14, l3, 40) : load(f, 0, l3, 40))) {
		ip = 40;
		l3len = l3[4] << 8 | l3[5];
		l3len = l3len ? l3len + 40 : 0;
		proto = l3[6];
		__builtin_memcpy(e.src.addr, l3 + 8, 16);
		__builtin_memcpy(e.dst.addr, l3 + 24, 16);
	}
	__u32 frames = f->segs, l4 = 0;
	if (f->xdp && i && i->mtu && f->len > off + i->mtu && (proto == 6 || proto == 17)) {
		if (version == 6)
			f->mss = off == 18 ? cut(f, 18, 40, proto, i->mtu, &l4) : cut(f, 14, 40, proto, i->mtu, &l4);
		else if (version == 4 && ip == 20)
			f->mss = off == 18 ? cut(f, 18, 20, proto, i->mtu, &l4) : cut(f, 14, 20, proto, i->mtu, &l4);
	}
	if (frames > 1 || f->mss) {
		__u32 jumbo = 0;
		__u8 hop[4];
		// Longer than an IPv6 header can say: an option says it, which no frame on the wire has.
		if (version == 6 && proto == 0 && !l3len && !f->xdp && !bpf_skb_load_bytes(f->ctx, off + 40, hop, 4) && hop[1] == 0 && hop[2] == 0xc2) {
			proto = hop[0];
			jumbo = 8;
			f->len -= jumbo;
		}
		if (!f->xdp)
			l4 = transport(f, off + ip + jumbo, proto);
		head = off + ip + l4;
		if (!frames && f->mss && f->len > head) // from a guest: nobody counted the segments yet
			frames = (f->len - head + f->mss - 1) / f->mss;
		if (frames > 1 && ip)
			l3len = f->len - off + (frames - 1) * (ip + l4);
	}
	if (!frames)
		frames = 1;
	if (ip && (!l3len || (frames == 1 && l3len > f->len - off)))
		l3len = f->len - off; // a header may say what it likes
	if (!i)
		return;
	if (!(i->flags & NEAR) && l2[0] & 1) { // everybody on the segment hears it: it would count once for each
		stat(CROWD);
		return;
	}

	struct subnet *own = 0, *peer = 0;
	int to = (i->flags & NEAR) ? !f->out : f->out;
	if (ip) {
		e.src.bits = e.dst.bits = WHOLE_ADDRESS;
		e.src.table = e.dst.table = i->table;
		own = find(to ? &e.dst : &e.src);
		if (own && own->slot == PEER)
			own = 0;
	}
	if (!own && !(i->flags & WHOLE)) {
		stat(NOBODY);
		return;
	}
	__u32 slot = own ? own->slot : i->slot;
	__u32 group = i->group ? i->group : own ? own->group : 0;
	if (ip && group)
		peer = find(to ? &e.src : &e.dst);
	__u32 at = 4 * slot + (to ? TO : 0) + (peer && peer->group == group ? INSIDE : 0);
	struct count *c = bpf_map_lookup_elem(&counts, &at);
	if (!c)
		return;
	c->bytes += f->len + tag + (frames - 1) * (head + tag) + (FCS + (f->bare ? ETHERNET : 0)) * frames;
	c->frames += frames;
	c->l3 += l3len;
}

static __always_inline void skb(struct __sk_buff *s, __u32 out, __u32 bare)
{
	struct frame f = {.ctx = s, .data = (void *)(long)s->data, .end = (void *)(long)s->data_end, .out = out, .bare = bare, .ifindex = s->ifindex, .len = s->len, .segs = s->gso_segs, .mss = s->gso_size};
	if (s->vlan_present) {
		f.tagged = 1;
		f.vlan = s->vlan_tci & 0xfff;
	}
	count(&f);
}

SEC("tc")
int tc_in(struct __sk_buff *s)
{
	skb(s, 0, 0);
	return -1; // whoever comes next decides
}

SEC("tc")
int tc_out(struct __sk_buff *s)
{
	skb(s, 1, 0);
	return -1;
}

SEC("xdp")
int xdp_in(struct xdp_md *x)
{
	struct frame f = {.ctx = x, .data = (void *)(long)x->data, .end = (void *)(long)x->data_end, .xdp = 1, .ifindex = x->ingress_ifindex, .len = x->data_end - x->data};
	count(&f);
	return XDP_PASS;
}

// What a service sends, before it has an Ethernet header: one of 14 octets is added to each frame.
SEC("cgroup_skb/egress")
int cgroup_out(struct __sk_buff *s)
{
	skb(s, 1, 1);
	return 1;
}
