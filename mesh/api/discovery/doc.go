// Package discovery is what API, client and sites say to each other about machines that nobody declared.
//
// Holds: Found, FoundMachine; Source, which a Backend has.
//
// Imported by: mesh/api and its client, siteagent/discovery, coordinator/measured, cmd/skerry/cli. It imports mesh/intent only.
//
// Promises: 12 (all text in it was made printable ASCII by the site that heard it).
//
// Concurrency: values.
//
// Tests: mesh/api asks the routes as everybody; siteagent/discovery makes the list; the shapes are in the OpenAPI golden of mesh/api.
package discovery
