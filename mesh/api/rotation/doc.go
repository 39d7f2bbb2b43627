// Package rotation is how far a change of keys is, as the API tells it.
//
// Holds: RotateRequest and RotationStatus, and what they are made of; the phases.
//
// Imported by: mesh/api, which gives its types their names there. It imports mesh/intent only.
//
// Promises: 10 (who is waited for is told, and since when).
//
// Concurrency: values.
//
// Tests: coordinator/rotation makes the status; the shapes are in the OpenAPI golden of mesh/api.
package rotation
