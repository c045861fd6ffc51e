package gateway

import (
	"context"
	"slices"
	"sync"
	"testing"

	"keyway/hsm"
	"keyway/pool"
)

// The pool shares a busy member out among clients, so it must hear who each of them is, in a batch as well.
func TestThePoolHearsWhoAsks(t *testing.T) {
	g := newGate(t, nil)
	var mu sync.Mutex
	var who []string
	g.crypto.before = func(ctx context.Context, _ hsm.Op) error {
		mu.Lock()
		defer mu.Unlock()
		who = append(who, pool.ClientOf(ctx))
		return nil
	}
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
	g.results(`{"operations":[{"id":"a","op":"sign","key":"k-sign","message":"aGk="}]}`)
	if !slices.Equal(who, []string{"app", "app"}) {
		t.Errorf("operations of %q, want app twice", who)
	}
}
