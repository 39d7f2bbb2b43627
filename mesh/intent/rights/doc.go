// Package rights is the authorisation table: which role may do what to which kind; and what a site may change by itself.
//
// Holds: Request and Allowed, SiteMayChange. Verbs and roles themselves are the model's: users' own roles name them.
//
// Imported by: mesh/api, which asks it for each request; siteagent and coordinator/proposals, for overrides. It imports mesh/intent
// only.
//
// Promises: default deny; an own role never widens a built-in one.
//
// Concurrency: functions of values only.
//
// Tests: rights_test.go, as a person read the table; mesh/api.TestEveryRouteRefuses asks each route as each role.
package rights
