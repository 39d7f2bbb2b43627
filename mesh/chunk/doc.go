// Package chunk is how an asset is cut: the manifest that lists the hashes of its chunks, and one chunk compressed with zstd.
//
// Holds: Manifest (scan, encode, strict parse, verify a chunk), ReadManifest (of a source that need not be believed), Reader (an asset
// read through its chunks), Codec (Encode, Decode, Prefix) and ErrBad, the verdict on bytes that are not the chunk they claim to be.
//
// Imported by: mesh/swarm, siteagent/holdings, storage/blob, storage/image, boot/install, coordinator/repository and cmd/skerry-installer. It imports
// mesh/intent only.
//
// Promises: 7 (callers compare the hash; ErrBad is the one name for a mismatch), 12 (a decoder never produces more than the
// length that the manifest names, and never keeps a window above 4 MiB, whatever the frame says).
//
// Concurrency: a Codec is safe for concurrent use; it starts no goroutine that outlives a call.
//
// Tests: tables here; FuzzDecode, FuzzPrefix, FuzzParseManifest.
package chunk
