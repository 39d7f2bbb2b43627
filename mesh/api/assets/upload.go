package assets

import (
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// OffsetHeader carries an offset in octets, decimal: in a request where its body begins, in an answer where the next begins.
const OffsetHeader = "Upload-Offset"

// The states of an upload.
const (
	Open     = "open"     // the client sends from Offset on
	Fetching = "fetching" // the coordinator reads the URL by itself
	Whole    = "whole"    // everything is there: it can be published
	Failed   = "failed"   // the URL cannot be read, see Why; asked for again, it is tried again
)

// Upload is one asset on its way.
type Upload struct {
	ID     string        `json:"id"` // 32 hex digits
	Name   string        `json:"name"`
	Class  string        `json:"class"`
	Size   uint64        `json:"size,omitempty"`  // octets; 0: the URL's server has not said
	Digest intent.Digest `json:"digest,omitzero"` // that it must have; of a URL perhaps none
	URL    string        `json:"url,omitempty"`
	Offset uint64        `json:"offset"` // octets that are on disk: they survive a crash
	State  string        `json:"state" enum:"open,fetching,whole,failed"`
	Why    string        `json:"why,omitempty"` // it failed, or is tried again
	By     string        `json:"by"`            // user who began it
	Until  time.Time     `json:"until"`         // kept till then, if nothing happens
}

// UploadRequest begins an upload. The same request again finds the same upload, so a client needs no memory.
type UploadRequest struct {
	Name   string        `json:"name" maxLength:"63"`
	Class  string        `json:"class" doc:"boot, image or other"`
	Size   uint64        `json:"size,omitempty" doc:"octets; with url it may be left out"`
	Digest intent.Digest `json:"digest,omitzero" doc:"SHA-256 of all octets; with url it may be left out"`
	URL    string        `json:"url,omitempty" maxLength:"2048" doc:"the coordinator reads it by itself"`
}

// UploadList is every upload.
type UploadList struct {
	Items []Upload `json:"items"`
}
