// Package key is the vocabulary of keys that the gateway and the lifecycle
// manager share: names, versions, states, usages, algorithms, clients and
// grants. It is a leaf: data and pure functions, no I/O.
package key

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Errors that callers tell apart. They are wrapped with the name of the key.
var (
	ErrNotFound = errors.New("key not found")
	ErrGone     = errors.New("key version destroyed")
	ErrState    = errors.New("key state does not permit this")
	ErrUsage    = errors.New("key is not for this usage")
	// ErrStale: the catalogue has not heard from its store for longer than it may serve
	// without it, so it refuses rather than use a key that may have been revoked.
	ErrStale = errors.New("catalogue out of date")
)

// ID identifies a key or a key version for ever; it is random. A version's ID is its CKA_ID on tokens.
type ID [16]byte

// NewID returns a random ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails (crypto/rand documents it)
	return id
}

// String returns the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String writes.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return ID{}, fmt.Errorf("malformed key ID %q: want 32 hexadecimal digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// MarshalText writes hexadecimal.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads hexadecimal.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err == nil {
		*id = v
	}
	return err
}

// Ref names a version of a key. Version 0 is the primary version.
type Ref struct {
	Name    string
	Version uint32
}

// String returns name or name:version.
func (r Ref) String() string {
	if r.Version == 0 {
		return r.Name
	}
	return fmt.Sprintf("%s:%d", r.Name, r.Version)
}

var nameRE = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?$`)

// CheckName returns an error that tells what a key, client, group, pool or member name may look like.
func CheckName(s string) error {
	if !nameRE.MatchString(s) {
		return fmt.Errorf("bad name %q: use 1 to 128 of a-z, 0-9, dot, dash and underscore, beginning and ending with a letter or digit", s)
	}
	return nil
}

// Key is what is known about a key, without its material.
type Key struct {
	ID        ID        `json:"id"`
	Name      string    `json:"name"`
	Algorithm Algorithm `json:"algorithm"`
	Usages    Usage     `json:"usages"`
	Pool      string    `json:"pool"`
	Created   time.Time `json:"created"`
	// Primary is the version that protects new data; 0 when none is active.
	Primary uint32 `json:"primary_version"`
	// Versions are ordered, oldest first.
	Versions []*Version `json:"versions"`
}

// Version is an immutable snapshot of one version of a key: everything a
// gateway needs to use it. Blob is material wrapped inside a token under the
// pool KEK; it is useless outside a member of that pool.
type Version struct {
	KeyID     ID        `json:"key_id"`
	ID        ID        `json:"id"`
	Name      string    `json:"-"`
	Number    uint32    `json:"version"`
	Algorithm Algorithm `json:"-"`
	Usages    Usage     `json:"-"`
	Pool      string    `json:"-"`
	State     State     `json:"state"`
	Created   time.Time `json:"created"`
	// NotBefore and the two ends bound the cryptoperiods; a zero time is no bound.
	NotBefore     time.Time `json:"not_before,omitzero"`
	OriginatorEnd time.Time `json:"originator_end,omitzero"`
	RecipientEnd  time.Time `json:"recipient_end,omitzero"`
	// Public is the SubjectPublicKeyInfo in DER, nil for secret keys.
	Public []byte `json:"-"`
	// Blob is the version wrapped under its pool's KEK; BlobMechanism is the
	// PKCS#11 mechanism number it was wrapped with. Blob is nil for a resident key.
	Blob          []byte `json:"-"`
	BlobMechanism uint32 `json:"-"`
	// Resident: the key lives on the members themselves and is found there by ID.
	Resident bool `json:"resident,omitempty"`
}

// Ref returns the version's reference.
func (v *Version) Ref() Ref { return Ref{v.Name, v.Number} }
