package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// The kinds and their statuses are a promise to clients.
func TestEveryKindHasItsStatus(t *testing.T) {
	want := map[Kind]int{
		"malformed": 400, "unauthenticated": 401, "forbidden": 403, "not_found": 404, "key_state": 409, "gone": 410, "usage": 422, "rejected": 422,
		"too_large": 413, "throttled": 429, "device": 502, "overloaded": 503, "unavailable": 503, "deadline": 504, "internal": 500,
	}
	if len(kinds) != len(want) {
		t.Errorf("%d kinds, want %d", len(kinds), len(want))
	}
	for k, status := range want {
		if kinds[k].status != status || kinds[k].title == "" {
			t.Errorf("%s: %+v, want %d and a title", k, kinds[k], status)
		}
		var doc struct {
			Type, Title, Kind, Detail string
			Status                    int
			RequestID                 string `json:"request_id"`
			IncidentID                string `json:"incident_id"`
			RetryAfter                int    `json:"retry_after"`
		}
		if err := json.Unmarshal(appendProblem(nil, &Error{Kind: k, Detail: "a \"detail\""}, "id-1"), &doc); err != nil {
			t.Fatal(err)
		}
		comes := status == 429 || status == 503
		if doc.Type != "urn:keyway:problem:"+string(k) || doc.Title != kinds[k].title || doc.Kind != string(k) || doc.Status != status || doc.RequestID != "id-1" || (doc.RetryAfter == 1) != comes {
			t.Errorf("%s: %+v", k, doc)
		}
		if internal := k == Internal; (doc.Detail == "") != internal || (doc.IncidentID != "") != internal {
			t.Errorf("%s: detail %q, incident %q", k, doc.Detail, doc.IncidentID)
		}
	}
}

// Every error that the packages below can tell apart has a kind of its own; what nobody foresaw tells nothing.
func TestEveryErrorGoesOutAsItsKind(t *testing.T) {
	code := func(c hsm.Code, f hsm.Function) error { return &hsm.Error{Code: c, Function: f} }
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{fail(Forbidden, "x"), Forbidden},
		{&pool.Refusal{Err: pool.ErrOverloaded, RetryAfter: time.Second}, Overloaded},
		{&pool.Refusal{Err: pool.ErrUnavailable, RetryAfter: time.Second}, Unavailable},
		{pool.ErrDevice, DeviceFailed},
		{fmt.Errorf("%w: %w", pool.ErrDevice, code(hsm.DeviceError, hsm.FnSign)), DeviceFailed},
		{fmt.Errorf("%w: %w", pool.ErrDevice, code(hsm.PinLocked, hsm.FnLogin)), DeviceFailed},
		{fmt.Errorf("%w: %w", pool.ErrKey, hsm.ErrNotFound), DeviceFailed},
		{fmt.Errorf("%w: %w", pool.ErrUnsupported, hsm.ErrUnsupported), WrongUsage},
		{pool.ErrUnsupported, WrongUsage},
		{pool.ErrClosed, Unavailable},
		{context.DeadlineExceeded, Deadline},
		{context.Canceled, Unavailable},
		{fmt.Errorf("k: %w", key.ErrNotFound), NotFound},
		{fmt.Errorf("%w: k", key.ErrGone), Gone},
		{fmt.Errorf("%w: k", key.ErrState), KeyState},
		{fmt.Errorf("%w: k", key.ErrUsage), WrongUsage},
		{fmt.Errorf("%w: k", key.ErrStale), Unavailable},
		{code(hsm.DataLenRange, hsm.FnSign), WrongUsage},
		{hsm.ErrInput, WrongUsage},
		{hsm.ErrSignature, WrongUsage},
		{rejected(errBoom), Rejected},
		{errBoom, Internal},
		{hsm.ErrLinkLost, Internal}, // the pool lets none of these out by itself
		{hsm.ErrHung, Internal},
		{pool.ErrMember, Internal},
		{panicked("x"), Internal},
	} {
		e := outward(c.err)
		if e == nil || e.Kind != c.want {
			t.Errorf("%v goes out as %v, want %s", c.err, e, c.want)
			continue
		}
		if own := new(Error); !errors.As(c.err, &own) && c.want != KeyState && c.want != WrongUsage && !errors.Is(e, c.err) {
			t.Errorf("%v: the log would not learn of it", c.err)
		}
	}
	if outward(nil) != nil {
		t.Error("no error goes out as one")
	}
}

func TestRetryAfterIsRoundedUpAndNeverNought(t *testing.T) {
	for d, want := range map[time.Duration]int{0: 1, time.Millisecond: 1, time.Second: 1, time.Second + 1: 2, time.Minute: 60} {
		if got := (&Error{Kind: Overloaded, RetryAfter: d}).retryAfter(); got != want {
			t.Errorf("%s: %d, want %d", d, got, want)
		}
	}
	if got := fail(Malformed, "x").retryAfter(); got != 0 {
		t.Errorf("a malformed request may come back after %d", got)
	}
}

// What the token says to one operation comes out with its status, through every layer.
func TestFailuresOfTheTokensOnTheWire(t *testing.T) {
	g := newGate(t, nil)
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{&pool.Refusal{Err: pool.ErrOverloaded, RetryAfter: 1500 * time.Millisecond}, Overloaded}, {&pool.Refusal{Err: pool.ErrUnavailable}, Unavailable},
		{fmt.Errorf("%w: %w", pool.ErrDevice, errBoom), DeviceFailed}, {pool.ErrKey, DeviceFailed}, {pool.ErrUnsupported, WrongUsage}, {pool.ErrClosed, Unavailable}, {errBoom, Internal},
		{context.DeadlineExceeded, Deadline},
	} {
		g.crypto.before = func(context.Context, hsm.Op) error { return c.err }
		for _, a := range []answer{
			g.key("k-sign", "sign", `{"message":"aGk="}`), g.key("k-wrap", "wrap", `{"plaintext_key":"aGk="}`), g.key("k-mac", "mac", `{"message":"aGk="}`),
			g.key("k-mac", "mac/verify", `{"message":"aGk=","mac":"aGk="}`), g.key("k-wrap", "datakey", `{}`), g.send("POST", "/api/v1/random", `{"bytes":3}`),
			g.send("POST", "/api/v1/batch", `{"operations":[{"op":"sign","key":"k-sign","message":"aGk="}]}`).first(),
		} {
			g.refused(a, c.want, "")
		}
	}
	g.crypto.before = func(context.Context, hsm.Op) error { return &hsm.Error{Code: hsm.DataLenRange, Function: hsm.FnSign} }
	g.refused(g.key("k-sign", "sign", `{"message":"aGk="}`), WrongUsage, "refused")
	g.crypto.before = nil
	g.shelf.stale.Store(true)
	g.refused(g.key("k-sign", "sign", `{"message":"aGk="}`), Unavailable, "states")
	g.refused(g.send("GET", "/api/v1/keys/k-sign", ""), Unavailable, "states")
	g.shelf.stale.Store(false)
	g.shelf.change("k-sign", func(k *key.Key) { k.Versions[0].Pool = "elsewhere" })
	g.refused(g.key("k-sign", "sign", `{"message":"aGk="}`), Unavailable, "pool")
}
