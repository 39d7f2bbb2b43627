// Package httpboot serves scripts, loaders, kernels, ramdisks and images to machines over plain HTTP.
//
// Holds: Handler (the paths below) and Serve, an http.Server with bounds.
//
//	GET  /boot/<mac-hyphens>/auto.ipxe    the machine's script
//	GET  /loaders/<name>                  iPXE for UEFI HTTP Boot
//	GET  /assets/<digest-hex>/<name>      verified bytes; ranges, If-Range; sendfile
//	any  /nocloud/<token>/...             boot/metadata
//
// Imported by: siteagent.
//
// Promises: 7 (the Opener gives verified bytes only; a source that fails aborts the connection, never a short 200), 1, 12
// (headers, connections and times are bounded; an asset that is not complete is 503 with Retry-After within two seconds,
// because UEFI gives up after five).
//
// Concurrency: a Handler is safe for concurrent use; goroutines live inside Serve.
//
// Tests: tables here; FuzzHandler; curl, iPXE and OVMF in test/e2e.
package httpboot
