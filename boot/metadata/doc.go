// Package metadata gives an installed machine its NoCloud seed: who it is, whom it lets in, which network it has.
//
// Holds: Render, pure, from an Instance to the four documents; Handler, which serves them under the machine's token and takes
// its phone-home.
//
// Imported by: siteagent; boot/httpboot mounts the Handler.
//
// Promises: 12 (bodies are bounded, a token that is not known is 404 for every document). The token is the identity; the
// source address never is. User data marked secret is not served here: it goes over the installer's pinned session only.
//
// Documents are YAML with every string quoted, one key per line, so that small readers can read them too.
// Not built: the EC2 paths.
//
// Concurrency: a Handler is safe for concurrent use.
//
// Tests: whole-text goldens; a real cloud-init in test/e2e.
package metadata
