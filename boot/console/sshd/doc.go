// Package sshd is the door through which SSH clients reach consoles: `ssh -p 2222 MACHINE@AGENT`.
//
// Holds: Server, Config, HostKey, Fingerprint.
//
// Imported by: siteagent/console, which knows whose key it is and what he may. golang.org/x/crypto/ssh lives here alone.
//
// Promises: 12. A client logs in by a public key (Ed25519, or ECDSA on P-256: what a User may have) and by nothing else; it gets one session
// with a shell, which is the console, and no command, subsystem, environment, agent or forwarding of anything. A handshake has 20 s; 64
// connections may be in one, 16 of one source, and 128 in all may be open.
//
// Concurrency: Run owns all goroutines; it returns when all connections have ended.
//
// Tests: Debian's ssh; floods, and clients that ask for what there is not.
package sshd
