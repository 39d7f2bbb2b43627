// Package netboot boots real clients from boot/{dhcp,tftp,httpboot,ipxe}: udhcpc, dhclient, atftp, curl, and QEMU with
// SeaBIOS and OVMF.
//
// Holds: tests only.
//
// Imported by: nobody.
//
// Promises: tests 1 (nothing but the agent is there), 9 (two agents, one answer), 12.
//
// Concurrency: the test binary starts itself again inside a namespace as the agents' servers, and as clients that fetch by TFTP; they end
// with the test.
//
// Tests: need root and the Debian packages that each test's skip names.
package netboot
