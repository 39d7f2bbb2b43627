// Package erasure is the proof that a machine's disks were erased, as installer, agent, API and whoever verifies read it.
//
// Holds: Level and Method, Drive (what was done to one disk and what was found afterwards), Receipt (the payload of
// intent.PayloadReceipt), List (receipts with what proves their signers), the checks of their shape.
//
// Imported by: storage/erase, boot/install, pki/document, siteagent, mesh/api and its client, cmd/skerry/cli. It imports
// mesh/intent only.
//
// Promises: 5 (a receipt names permission, serial, disks, generation and claim epoch), 12 (lists and texts are bounded, and a drive of
// which a canary was found, or that none was written on, makes no receipt).
//
// Concurrency: values.
//
// Tests: pki/document has them with the signatures, and FuzzReceipt.
package erasure
