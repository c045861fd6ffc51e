package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// Kind is the stable name of a class of failure; clients branch on it.
type Kind string

// The kinds, with the status each has on the wire in the table below.
const (
	Malformed       Kind = "malformed"
	Unauthenticated Kind = "unauthenticated"
	Forbidden       Kind = "forbidden"
	NotFound        Kind = "not_found"
	KeyState        Kind = "key_state"
	Gone            Kind = "gone"
	TooLarge        Kind = "too_large"
	WrongUsage      Kind = "usage"
	Rejected        Kind = "rejected"
	Throttled       Kind = "throttled"
	DeviceFailed    Kind = "device"
	Overloaded      Kind = "overloaded"
	Unavailable     Kind = "unavailable"
	Deadline        Kind = "deadline"
	Internal        Kind = "internal"
)

// kinds is the one table that turns failures into HTTP. Those that say when to come back do so always.
var kinds = map[Kind]struct {
	status int
	title  string
	again  bool
}{
	Malformed:       {400, "The request is malformed", false},
	Unauthenticated: {401, "The client is not known", false},
	Forbidden:       {403, "The client may not do this", false},
	NotFound:        {404, "There is no such thing", false},
	KeyState:        {409, "The key's state does not permit this", false},
	Gone:            {410, "The key version was destroyed", false},
	TooLarge:        {413, "The request is too large", false},
	WrongUsage:      {422, "The key is not for this", false},
	Rejected:        {422, "The input was rejected", false},
	Throttled:       {429, "The client exceeds its rate", true},
	Internal:        {500, "Something went wrong here", false},
	DeviceFailed:    {502, "The tokens failed", false},
	Overloaded:      {503, "The service is overloaded", true},
	Unavailable:     {503, "The service is unavailable", true},
	Deadline:        {504, "The operation took too long", false},
}

// Error is a failure on its way out. Detail is shown to the client and holds
// nothing secret; Cause goes to the log only, and neither holds what the client sent beyond a field's name.
type Error struct {
	Kind       Kind
	Detail     string
	RetryAfter time.Duration
	Cause      error
	allow      string // the methods that a path takes
}

// Error tells kind and detail.
func (e *Error) Error() string { return string(e.Kind) + ": " + e.Detail }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func fail(k Kind, format string, a ...any) *Error {
	return &Error{Kind: k, Detail: fmt.Sprintf(format, a...)}
}

// rejected is the same for every way in which something may fail to open, so that nobody
// learns which one it was.
func rejected(cause error) *Error {
	return &Error{Kind: Rejected, Detail: "it does not open under this key, with this additional data", Cause: cause}
}

// outward maps any error to one that may leave, nil to nil.
func outward(err error) *Error {
	if err == nil { // the common case, before e and r are allocated
		return nil
	}
	var e *Error
	var r *pool.Refusal
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &r):
		k := Unavailable
		if errors.Is(r.Err, pool.ErrOverloaded) {
			k = Overloaded
		}
		return &Error{Kind: k, Detail: "try again later", RetryAfter: r.RetryAfter, Cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Kind: Deadline, Detail: "the tokens did not answer in time", Cause: err}
	case errors.Is(err, context.Canceled), errors.Is(err, pool.ErrClosed):
		return &Error{Kind: Unavailable, Detail: "the gateway is shutting down", RetryAfter: time.Second, Cause: err}
	case errors.Is(err, key.ErrNotFound):
		return &Error{Kind: NotFound, Detail: "there is no such key or version, or this client may not see it", Cause: err}
	case errors.Is(err, key.ErrGone):
		return &Error{Kind: Gone, Detail: "the version was destroyed; only its metadata is left", Cause: err}
	case errors.Is(err, key.ErrState):
		return &Error{Kind: KeyState, Detail: err.Error()}
	case errors.Is(err, key.ErrUsage):
		return &Error{Kind: WrongUsage, Detail: err.Error()}
	case errors.Is(err, key.ErrStale):
		return &Error{Kind: Unavailable, Detail: "key states cannot be checked now, so nothing is done", RetryAfter: 5 * time.Second, Cause: err}
	case errors.Is(err, pool.ErrUnsupported):
		return &Error{Kind: WrongUsage, Detail: "the tokens of this key's pool lack the mechanism", Cause: err}
	case errors.Is(err, pool.ErrDevice), errors.Is(err, pool.ErrKey):
		return &Error{Kind: DeviceFailed, Detail: "every token that was tried failed", Cause: err}
	case hsm.FaultOf(err) == hsm.Caller:
		return &Error{Kind: WrongUsage, Detail: "the token refused the input", Cause: err}
	}
	return &Error{Kind: Internal, Cause: err}
}
