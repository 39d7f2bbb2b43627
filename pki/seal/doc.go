// Package seal keeps secrets: an agent's own keys, and the records that are sealed to it in the intent chain.
//
// Holds: Keys (tls, sign, seal: make, save, load), DEK with its wrapping by HPKE, records by AES-256-GCM, Ring (an agent's
// unwrapped keys), and Secret, which prints nothing.
//
// Imported by: coordinator, siteagent, pki/join, cmd/skerry. Never by a workshop: they are handed a Secret.
//
// Promises: plaintext never enters a stream (chains never forget); a record opens only for the domain, site, agent, name
// and version it was sealed for; fewer than 2^32 records per DEK (NIST SP 800-38D section 8.3: random nonces).
//
// Concurrency: DEK and Keys are read-only after they were made; Ring is safe for concurrent use.
//
// Tests: tables that change one part of the binding at a time, Secret under every formatter, key files of mode 0600,
// FuzzOpen (arbitrary sealed records and keys never panic or open).
package seal
