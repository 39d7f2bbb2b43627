// Package peers is what the agents of a site say to each other: journal, claims, permissions, intent, revocations, assets.
//
// Holds: Mesh (the handler of /m/1/ that only agents of the site reach, and the calls of the same), guests
// (bounds what agents of other sites take), lives (finds one identity in two boxes).
//
// Imported by: siteagent only.
//
// Promises: 12 (bodies are bounded and strict; an agent of another site holds four answers at most, and none that it does not read); 6 (a claim is taken from its owner only).
//
// Concurrency: a Mesh is safe for concurrent use once it is wired. No goroutines of its own.
//
// Tests: abroad_test.go and lives_test.go; the rooms that it joins have tests over memory; test/e2e runs real agents.
package peers
