package pool

import (
	"crypto"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// Key is what the pool needs to use one version of a key. It is immutable and
// may be shared; the pool keeps no reference after Do has returned, other than
// to ID in its handle caches.
type Key struct {
	// ID is the version's ID; it is the CKA_ID of the object and the name under which its handle is cached.
	ID key.ID
	// Spec is the template a blob is loaded with. Its ID and Token fields are ignored.
	Spec hsm.Spec
	// Blob is the version wrapped under the pool KEK with Wrap. It is nil for a resident
	// key, which is found on the members by ID instead.
	Blob []byte
	Wrap hsm.Mechanism
	// Public is the public half of an asymmetric key. With it the first signature of every
	// newly loaded handle is verified before it is released.
	Public crypto.PublicKey
}

// Class groups operations of like cost and urgency for balancing and priority.
type Class uint8

// The classes, most urgent first.
const (
	ClassCanary  Class = iota // the pool's own probes
	ClassDecrypt              // decrypt, unwrap
	ClassSign                 // sign, mac
	ClassEncrypt              // encrypt, wrap, random
	ClassBulk                 // control-plane work through With
	classes
)
