package adminapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"keyway/hsm"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// kind is the stable name of a class of failure: those of the data plane, and some of this API's own.
type kind string

const (
	kindMalformed       kind = "malformed"
	kindUnauthenticated kind = "unauthenticated"
	kindNotFound        kind = "not_found"
	kindKeyState        kind = "key_state"
	kindGone            kind = "gone"
	kindTooLarge        kind = "too_large"
	kindUsage           kind = "usage"
	kindDevice          kind = "device"
	kindOverloaded      kind = "overloaded"
	kindUnavailable     kind = "unavailable"
	kindDeadline        kind = "deadline"
	kindInternal        kind = "internal"
	kindExists          kind = "exists"          // something of that name is there
	kindMemberState     kind = "member_state"    // the member's state does not allow the command
	kindUnknownOutcome  kind = "unknown_outcome" // the store may have changed or not
	kindLastMember      kind = "last_member"     // nobody would be left to serve; force does it
	kindLogDamaged      kind = "log_damaged"     // the audit log is not as it was written
	kindMisfit          kind = "misfit"          // the token does not fit the pool; cause says in which way
)

// kinds is the one table that turns failures into HTTP.
var kinds = map[kind]struct {
	status int
	title  string
}{
	kindMalformed:       {400, "The request is malformed"},
	kindUnauthenticated: {401, "The operator is not known"},
	kindNotFound:        {404, "There is no such thing"},
	kindKeyState:        {409, "The key's state does not permit this"},
	kindExists:          {409, "It exists already"},
	kindMemberState:     {409, "The member's state does not permit this"},
	kindLastMember:      {409, "This is the last member able to serve"},
	kindGone:            {410, "The key version was destroyed"},
	kindTooLarge:        {413, "The request is too large"},
	kindUsage:           {422, "The tokens cannot do this"},
	kindMisfit:          {422, "The token does not fit the pool"},
	kindDevice:          {502, "The tokens failed"},
	kindOverloaded:      {503, "The service is overloaded"},
	kindUnavailable:     {503, "The service is unavailable"},
	kindDeadline:        {504, "The operation took too long"},
	kindUnknownOutcome:  {504, "It is not known whether this took place"},
	kindLogDamaged:      {500, "The audit log was changed"},
	kindInternal:        {500, "Something went wrong here"},
}

// Problem is a failure as it is sent: application/problem+json (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Kind   string `json:"kind"`
	// Cause is a misfit's, a lifecycle.Cause.
	Cause      string `json:"cause,omitempty"`
	Detail     string `json:"detail,omitempty"`
	RequestID  string `json:"request_id"`
	RetryAfter int    `json:"retry_after,omitempty"` // seconds
}

// failure is an error with its kind.
type failure struct {
	kind   kind
	detail string
	after  time.Duration
	cause  error
}

func (f *failure) Error() string { return string(f.kind) + ": " + f.detail }
func (f *failure) Unwrap() error { return f.cause }

func problem(k kind, detail string) *failure { return &failure{kind: k, detail: detail} }

// outward is where every error gets its kind. Operators are told causes, which hold no secrets; what nobody foresaw is
// told to the log only.
func outward(err error) *failure {
	var f *failure
	var refusal *pool.Refusal
	var code *hsm.Error
	var misfit *lifecycle.Misfit
	as := func(k kind) *failure { return &failure{kind: k, detail: err.Error(), cause: err} }
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &misfit): // before what the token said, which it holds
		return as(kindMisfit)
	case errors.Is(err, lifecycle.ErrLogDamaged):
		return as(kindLogDamaged)
	case errors.Is(err, lifecycle.ErrOutcomeUnknown):
		return as(kindUnknownOutcome)
	case errors.Is(err, lifecycle.ErrUnavailable):
		return as(kindUnavailable)
	case errors.Is(err, lifecycle.ErrInvalid):
		return as(kindMalformed)
	case errors.Is(err, lifecycle.ErrExists):
		return as(kindExists)
	case errors.Is(err, lifecycle.ErrNoCustody):
		return as(kindUnavailable)
	case errors.Is(err, key.ErrNotFound):
		return as(kindNotFound)
	case errors.Is(err, key.ErrGone):
		return as(kindGone)
	case errors.Is(err, key.ErrTransition), errors.Is(err, key.ErrState):
		return as(kindKeyState)
	case errors.Is(err, pool.ErrLastMember):
		return as(kindLastMember)
	case errors.Is(err, pool.ErrMember):
		return as(kindMemberState)
	case errors.As(err, &refusal):
		f = as(kindUnavailable)
		if errors.Is(err, pool.ErrOverloaded) {
			f.kind = kindOverloaded
		}
		f.after = refusal.RetryAfter
		return f
	case errors.Is(err, pool.ErrUnsupported), errors.Is(err, hsm.ErrUnsupported):
		return as(kindUsage)
	case errors.Is(err, context.DeadlineExceeded):
		return as(kindDeadline)
	case errors.Is(err, pool.ErrDevice), errors.Is(err, hsm.ErrHung), errors.Is(err, hsm.ErrLinkLost), errors.As(err, &code):
		return as(kindDevice)
	}
	return &failure{kind: kindInternal, detail: "quote the request id to whoever reads the log", cause: err}
}

// refuse writes a problem document.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	f := outward(err)
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand documents it)
	row := kinds[f.kind]
	p := Problem{Type: "urn:keyway:problem:" + string(f.kind), Title: row.title, Status: row.status, Kind: string(f.kind), Detail: f.detail, RequestID: hex.EncodeToString(b[:])}
	var misfit *lifecycle.Misfit
	if errors.As(f.cause, &misfit) {
		p.Cause = string(misfit.Cause)
	}
	if f.after > 0 {
		p.RetryAfter = int((f.after + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	if row.status >= 500 {
		a.cfg.Log.ErrorContext(r.Context(), "admin request failed", "method", r.Method, "path", r.URL.Path, "kind", p.Kind, "request_id", p.RequestID, "error", f.cause)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(row.status)
	_ = json.NewEncoder(w).Encode(p) // the sender has left; nobody is there to be told
}
