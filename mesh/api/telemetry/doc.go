// Package telemetry is what API, client, agents and coordinator say to each other about what a site measures.
//
// Holds: Viewer (who asks, and what that one may see); traffic.go: TrafficQuery, TrafficRow and TrafficAnswer, how they stand in a URL, in JSON,
// in lines and in CSV; top.go: TopQuery and TopFrame, a line every ten seconds; series.go: Routes (the paths of series, what they are asked and what they answer), Source (who answers), series and
// rows as JSON; Scope (whose machines somebody may see).
//
// Imported by: mesh/api and its client, siteagent/traffic, siteagent/history, siteagent, coordinator/measured, coordinator/telemetry, cmd/skerry/cli.
// It imports mesh/intent and its rights only.
//
// Promises: 10 (unknown is null, and an agent that was not heard is named "unknown"), 12 (unknown parameters of traffic are refused, lists
// are bounded; what does not fit is refused with what to narrow). Who reads no machines sees those that run instances of projects that they
// may read.
//
// Concurrency: values and functions of values.
//
// Tests: traffic_test.go (goldens of the three forms), telemetry_test.go (questions and scopes); mesh/api asks the routes.
package telemetry
