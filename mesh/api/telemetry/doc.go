// Package telemetry is what API, client and agents say to each other about what a site measured.
//
// Holds: Viewer (who asks, and what that one may see); traffic.go: TrafficQuery, TrafficRow and TrafficAnswer, how they stand in a URL, in JSON, in lines and in CSV.
//
// Imported by: mesh/api and its client, siteagent/traffic, coordinator/measured, cmd/skerry/cli. It imports mesh/intent only.
//
// Promises: 12 (unknown parameters are refused, lists are bounded).
//
// Concurrency: values and functions of values.
//
// Tests: traffic_test.go (goldens of the three forms); mesh/api asks the routes.
package telemetry
