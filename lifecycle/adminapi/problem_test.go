package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// Every error that is told apart has its kind, wrapped or not, and every kind is reached.
func TestEveryErrorHasItsKind(t *testing.T) {
	reached := map[kind]bool{kindTooLarge: true, kindUnauthenticated: true} // TestBodiesAreReadStrictly, TestNobodyUnknownIsAnswered
	f := func(err error, want kind) {
		t.Helper()
		for _, e := range []error{err, fmt.Errorf("doing something: %w", err), errors.Join(errors.New("x"), err)} {
			if got := outward(e); got.kind != want {
				t.Errorf("%v: %s, want %s", e, got.kind, want)
			}
		}
		reached[want] = true
	}
	f(problem(kindMalformed, "x"), kindMalformed)
	f(lifecycle.ErrInvalid, kindMalformed)
	f(lifecycle.ErrExists, kindExists)
	f(lifecycle.ErrRewritten, kindLogDamaged)
	f(&lifecycle.Misfit{Cause: lifecycle.CausePIN, Err: &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}}, kindMisfit)
	f(lifecycle.ErrNoCustody, kindUnavailable)
	f(fmt.Errorf("%w: %w", lifecycle.ErrUnavailable, context.DeadlineExceeded), kindUnavailable)
	f(fmt.Errorf("%w: %w", lifecycle.ErrOutcomeUnknown, context.DeadlineExceeded), kindUnknownOutcome)
	f(key.ErrNotFound, kindNotFound)
	f(key.ErrGone, kindGone)
	f(key.ErrTransition, kindKeyState)
	f(key.ErrState, kindKeyState)
	f(pool.ErrLastMember, kindLastMember)
	f(pool.ErrMember, kindMemberState)
	f(&pool.Refusal{Err: pool.ErrUnavailable, RetryAfter: time.Second}, kindUnavailable)
	f(&pool.Refusal{Err: pool.ErrOverloaded, RetryAfter: time.Second}, kindOverloaded)
	f(pool.ErrUnsupported, kindUsage)
	f(hsm.ErrUnsupported, kindUsage)
	f(context.DeadlineExceeded, kindDeadline)
	f(pool.ErrDevice, kindDevice)
	f(hsm.ErrHung, kindDevice)
	f(hsm.ErrLinkLost, kindDevice)
	f(&hsm.Error{Code: hsm.DeviceError}, kindDevice)
	f(errors.New("what nobody foresaw"), kindInternal)
	for k, row := range kinds {
		if !reached[k] {
			t.Errorf("no error becomes %s", k)
		}
		if row.status < 400 || row.status > 599 || row.title == "" {
			t.Errorf("%s has status %d and title %q", k, row.status, row.title)
		}
	}
}

func TestProblemsSayWhenToComeBackAndKeepSecretsOfTheUnforeseen(t *testing.T) {
	h := newHouse(t, nil)
	w := httptest.NewRecorder()
	h.api.refuse(w, httptest.NewRequest("GET", "/x", nil), &pool.Refusal{Err: pool.ErrUnavailable, RetryAfter: 1200 * time.Millisecond})
	h.refused(w, 503, "unavailable", "")
	if w.Header().Get("Retry-After") != "2" || !strings.Contains(w.Body.String(), `"retry_after":2`) {
		t.Errorf("Retry-After %q, %s; want 2", w.Header().Get("Retry-After"), w.Body)
	}
	w = httptest.NewRecorder()
	h.api.refuse(w, httptest.NewRequest("GET", "/x", nil), errors.New("the-cause-of-it"))
	h.refused(w, 500, "internal", "request id")
	if strings.Contains(w.Body.String(), "the-cause-of-it") {
		t.Error("an unforeseen error's text left the house")
	}
	if !strings.Contains(h.log.String(), "the-cause-of-it") {
		t.Error("an unforeseen error's text is not in the log")
	}
}
