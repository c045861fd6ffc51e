package lifecycle

import (
	"errors"
	"fmt"
)

var (
	// ErrLeaseHeld: another holder has the lease.
	ErrLeaseHeld = errors.New("the lease is held by another node")
	// ErrLeaseLost: the lease is somebody else's by now, or nobody's. Whoever led under it must stop.
	ErrLeaseLost = errors.New("the lease was lost")
)

// Lease is the right to lead, for a while. Its expiry is in the database, by the database's clock; the clock of a node does not matter.
type Lease struct {
	Name   string
	Holder string
	// Epoch rises by one whenever somebody takes the lease over. Commands carry it, so that whoever got a newer one refuses an older one.
	Epoch uint64
}

// String names the lease and its epoch.
func (l Lease) String() string { return fmt.Sprintf("%s (epoch %d)", l.Name, l.Epoch) }
