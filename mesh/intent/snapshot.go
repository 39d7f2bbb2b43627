package intent

// SnapshotBody says what the entries before it add up to, in short. It changes nothing: whoever replayed them and has something else
// has not what the writer has. It carries no parts of that state, as a shortcut for who is far behind would: no chain is pruned, so all
// of it follows anyway, and a replay takes some 2,000 entries a second at a site of 10,000 machines (BenchmarkFarBehind of
// siteagent/replica). Source: trust.md section 4, rule 3.
type SnapshotBody struct {
	Count int    `json:"count"` // objects
	Root  Digest `json:"root"`  // over objects, tombstones and acks; content follows from uid and generation, which one entry gave it
}
