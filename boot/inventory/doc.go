// Package inventory finds out what a machine is made of, from sysfs and the SMBIOS tables.
//
// Holds: Report (the JSON that travels to the site) and Collector, which fills it; a bounded SMBIOS parser; signature probes; ParseLLDP; Bound, for reports of
// strangers.
//
// Imported by: boot/install, siteagent, cmd/skerry-installer. It imports mesh/intent only.
//
// Promises: 5 (a disk is named by WWN, serial and size, never by sdX), 12 (the tables come from firmware of any quality:
// every length is checked, nothing panics, a Report stays under 1 MiB). Nothing is opened for writing.
//
// Concurrency: none of its own; a Collector may be used once at a time.
//
// Tests: fake sysfs trees and tables in testdata, whole Reports as goldens; FuzzSMBIOS; FuzzSignatures; FuzzBound; FuzzParseLLDP.
package inventory
