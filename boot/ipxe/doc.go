// Package ipxe writes the scripts that iPXE runs and finds the loaders that bring iPXE to a machine.
//
// Holds: Script, a pure function from what the site decided about a machine to the text of its script; Loaders, the files of
// boot.ipxeDir by the names that boot/dhcp offers.
//
// Imported by: siteagent; boot/tftp and boot/httpboot take its Loaders through an interface.
//
// Promises: 5 (a script carries a token only for an act that the site decided; everything else boots the local disk), 12 (a
// value with a line break, a space or a script character is refused, never escaped by guess). iPXE itself is GPL-2.0: no
// binary is committed or embedded, it comes from the operator's package.
//
// Concurrency: values only.
//
// Tests: whole-text goldens per act; a real boot in test/e2e.
package ipxe
