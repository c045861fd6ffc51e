package audit

import (
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// A bundle is one file of lines, each a JSON object with one member that says what it is. The sections come in this order:
//
//	{"bundle":{…}}      what the file is about: see header
//	{"key":"…"}         public keys, so that a reader sees which there are; none of them is trusted for being here
//	{"earlier":{…}}     proofs that the log continues an earlier one
//	{"base":{…}}        the state before the first entry, when that is not entry 0
//	{"entry":{…}}       entries in their canonical form; a {"checkpoint":"…"} stands directly after its last entry
//	{"state":{…}}       the state after the last entry
//	{"end":{…}}         what should have been read by then
//
// So a reader needs no second pass and, but for the state, no more memory for a longer log.
const (
	lineBundle     = `{"bundle":`
	lineKey        = `{"key":`
	lineEarlier    = `{"earlier":`
	lineBase       = `{"base":`
	lineEntry      = `{"entry":`
	lineCheckpoint = `{"checkpoint":`
	lineState      = `{"state":`
	lineEnd        = `{"end":`
)

// maxLine is the longest line of a bundle, in bytes.
const maxLine = 2 * maxEntry

// header is the first line of a bundle.
type header struct {
	Format int       `json:"format"`
	Origin Origin    `json:"origin"`
	From   int64     `json:"from"` // the first entry
	Size   int64     `json:"size"` // of the log, the last entry being Size-1
	Made   time.Time `json:"made"`
	// Subtrees are the roots of the complete subtrees that the entries before From make up, the largest first.
	Subtrees []tlog.Hash `json:"subtrees,omitempty"`
}

// EarlierProof shows that a log begins with the log when it had Size entries.
type EarlierProof struct {
	Size  int64          `json:"size"`
	Proof tlog.TreeProof `json:"proof"`
}

// trailer is the last line of a bundle. Its hash finds damage, not forgery: whoever can write the file can write it too.
type trailer struct {
	Entries     int64 `json:"entries"`
	Checkpoints int64 `json:"checkpoints"`
	Facts       int64 `json:"facts"`
	SHA256      Hash  `json:"sha256"` // of all lines before this one
}

// MarshalText writes 64 hexadecimal digits.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (h *Hash) UnmarshalText(b []byte) error {
	v, err := ParseHash(string(b))
	if err == nil {
		*h = v
	}
	return err
}

// wrap returns a line.
func wrap(dst []byte, kind string, content []byte) []byte {
	dst = append(append(dst, kind...), content...)
	return append(dst, '}', '\n')
}

// wrapJSON returns a line with v as JSON.
func wrapJSON(dst []byte, kind string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("audit: %s: %w", kind, err)
	}
	return wrap(dst, kind, b), nil
}
