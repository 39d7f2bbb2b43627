// Package dhcp answers DHCPv4 for one or more interfaces, so that every agent of a site gives a client the same answer.
//
// Holds: Handle, a pure function of one packet and one View; View, an immutable index of what the site decided; Listener,
// which owns the sockets of one interface; Prober and Watch, which find other DHCP servers and say who gives way; the router
// advertisement that keeps iPXE from waiting for IPv6.
//
// Imported by: siteagent. The codec (insomniacslk/dhcp) is used here and nowhere else; its clients are never used.
//
// Promises: 1 (nothing here dials), 9 (canonical replies: byte-equal from all agents but for what names the agent itself:
// option 54, siaddr, sname, option 66 and the host in the boot URL), 11 (a dynamic lease is committed by the consumer before
// the ACK leaves), 12 (bounded memory, recover per packet, strangers are the first to be dropped). A crash loses open OFFERs
// only.
//
// Built: the modes, relays, reservations, dynamic slices. Not built: leasequery, option 121, ARP probes.
//
// Concurrency: Handle and Watch are pure. The goroutines of Listener, Prober and Advertiser live inside Run.
//
// Tests: whole-packet goldens per architecture and quirk; recorded captures; FuzzHandle, FuzzServerOf; udhcpc and dhclient in namespaces (root).
package dhcp
