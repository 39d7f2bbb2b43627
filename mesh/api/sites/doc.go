// Package sites is how a site is doing, as the API tells it.
//
// Holds: SiteStatus, and what it is made of.
//
// Imported by: mesh/api, which gives its types their names there. It imports mesh/intent only.
//
// Promises: 10 (who was never heard is told so, not called failed).
//
// Concurrency: values.
//
// Tests: coordinator and siteagent make the status; the shapes are in the OpenAPI golden of mesh/api.
package sites
