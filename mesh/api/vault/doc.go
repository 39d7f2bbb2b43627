// Package vault is how far a site's secrets are, as the API tells it.
//
// Holds: SecretRotation (what is to be made anew) and SecretStatus, and what it is made of.
//
// Imported by: mesh/api, which gives its types their names there. It imports the standard library only.
//
// Promises: none of these carries a secret.
//
// Concurrency: values.
//
// Tests: coordinator/secrets makes the view; the shapes are in the OpenAPI golden of mesh/api.
package vault
