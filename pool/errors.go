package pool

import (
	"errors"
	"fmt"
	"time"
)

// Errors of [Pool.Do] and [Pool.With] that callers tell apart, beside the
// [hsm.Error] of a Caller fault, which is returned as it is, and the
// context's own error when the caller's time ran out.
var (
	// ErrOverloaded: every member that could serve has a full queue. Wrapped in a [Refusal].
	ErrOverloaded = errors.New("pool overloaded")
	// ErrUnavailable: no member is able to serve now. Wrapped in a [Refusal].
	ErrUnavailable = errors.New("no member of the pool can serve")
	// ErrDevice: the members that were tried failed, and no other was left or allowed.
	ErrDevice = errors.New("the tokens failed")
	// ErrKey: the key cannot be used on any member (its blob does not load, or it is not there).
	ErrKey = errors.New("the key cannot be loaded on any member")
	// ErrUnsupported: no member has the mechanism.
	ErrUnsupported = errors.New("no member has the mechanism")
	// ErrClosed: the pool was closed.
	ErrClosed = errors.New("pool closed")
	// ErrMember: an unknown member, one that exists already, or one in a state that does not allow the command.
	ErrMember = errors.New("member")
	// ErrLastMember: the command would leave no member able to serve; it is carried out only when forced.
	ErrLastMember = errors.New("this is the last member able to serve")
)

// Refusal is an error for a request that was not tried, with an estimate of when to come back.
type Refusal struct {
	Err        error // ErrOverloaded or ErrUnavailable
	RetryAfter time.Duration
}

// Error tells the cause and the estimate.
func (r *Refusal) Error() string { return fmt.Sprintf("%v; try again in %s", r.Err, r.RetryAfter) }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }
