// Package streams is how far the signed streams are, as the API tells it, with the way out where one is stuck, and what became of a stick.
//
// Holds: IntentStatus and StickResult, and what they are made of.
//
// Imported by: mesh/api, which gives its types their names there. It imports mesh/intent only.
//
// Promises: 10 (who was never heard is told so, not called failed).
//
// Concurrency: values.
//
// Tests: coordinator and siteagent make the view (sticks); the shapes are in the OpenAPI golden of mesh/api.
package streams
