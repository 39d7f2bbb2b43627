// Package api is the HTTP API /v1 with its OpenAPI 3.1 description, over an interface that coordinator and site both
// implement: same paths, same types, same authorisation table.
//
// Holds: routes, authentication by bearer token, authorisation by rights.Allowed, conditional requests, watch and event
// streams, RFC 9457 errors.
//
// Imported by: coordinator, siteagent (they give a Backend); mesh/api/client shares its types. Only this package imports
// huma.
//
// Promises: 12 (bodies are bounded, unknown fields and unknown query parameters are refused with their place). A write is
// answered after the backend said that it is on disk (11). A foreign object is answered 404, not 403: its existence is
// nobody else's business.
//
// Concurrency: New starts nothing; the handler is safe for concurrent use.
//
// Tests: api_test.go drives every route against an in-memory backend; the OpenAPI text is a golden.
package api
