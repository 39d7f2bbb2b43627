// Package consoles is the part of the API that shows machines' consoles.
//
// Holds: Holder (what a backend with consoles answers), Session (who wants what of one), Serve, the routes.
//
// Imported by: mesh/api, which authorises; siteagent/console, which implements Holder; mesh/api/client.
//
// Promises: 12. One request is one person at a console: the answer's body is what he sees, the request's body is what he types, both as they
// are and at the same time. It ends as soon as he may not see it any more. A client that reads nothing for a minute is cut off.
//
// Concurrency: Serve returns when all that it started has ended.
//
// Tests: mesh/api (every identity at both routes), siteagent/console and siteagent (the whole way).
package consoles
