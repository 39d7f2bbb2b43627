// Package assets is what API, client and coordinator say to each other about assets on their way to a coordinator.
//
// Holds: Upload, UploadRequest and UploadList; the header that carries an offset; Body, an upload that can be stopped.
//
// Imported by: mesh/api and its client, coordinator/repository, cmd/skerry/cli. It imports mesh/intent only.
//
// Promises: 12 (a body that says nothing for IdleLimit ends, so that a dead line holds nobody).
//
// Concurrency: Body.Stop may be called while Body.Read waits; the rest are values.
//
// Tests: body_test.go here; mesh/api asks the routes, coordinator/repository keeps the sessions.
package assets
