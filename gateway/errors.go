package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
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

// kinds is the one table that turns failures into HTTP.
var kinds = map[Kind]struct {
	status int
	title  string
}{
	Malformed:       {400, "The request is malformed"},
	Unauthenticated: {401, "The client is not known"},
	Forbidden:       {403, "The client may not do this"},
	NotFound:        {404, "There is no such thing"},
	KeyState:        {409, "The key's state does not permit this"},
	Gone:            {410, "The key version was destroyed"},
	TooLarge:        {413, "The request is too large"},
	WrongUsage:      {422, "The key is not for this"},
	Rejected:        {422, "The input was rejected"},
	Throttled:       {429, "The client exceeds its rate"},
	DeviceFailed:    {502, "The tokens failed"},
	Overloaded:      {503, "The service is overloaded"},
	Unavailable:     {503, "The service is unavailable"},
	Deadline:        {504, "The operation took too long"},
	Internal:        {500, "Something went wrong here"},
}

// Error is a failure on its way out. Detail is shown to the client and holds
// nothing secret; Cause goes to the log only.
type Error struct {
	Kind       Kind
	Detail     string
	RetryAfter time.Duration
	Cause      error
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

// outward maps any error to one that may leave.
func outward(err error) *Error {
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
	return &Error{Kind: Internal, Detail: "quote the request id to the operators", Cause: err}
}

// seconds is a Retry-After: whole seconds, rounded up, never 0.
func seconds(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }

// appendProblem appends an RFC 9457 problem document.
func appendProblem(b []byte, e *Error, requestID string) []byte {
	k := kinds[e.Kind]
	b = append(b, `{"type":"urn:keyway:problem:`...)
	b = append(b, e.Kind...)
	b = append(b, `","title":`...)
	b = appendString(b, k.title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(k.status), 10)
	b = append(b, `,"kind":"`...)
	b = append(b, e.Kind...)
	b = append(b, `","detail":`...)
	b = appendString(b, e.Detail)
	if requestID != "" {
		b = append(b, `,"request_id":"`...)
		b = append(b, requestID...)
		b = append(b, '"')
	}
	if e.RetryAfter > 0 {
		b = append(b, `,"retry_after":`...)
		b = strconv.AppendInt(b, int64(seconds(e.RetryAfter)), 10)
	}
	return append(b, '}')
}
