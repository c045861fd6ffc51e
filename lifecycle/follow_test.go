package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/lifecycle"
	"keyway/pool"
)

// beside is another process on the same store, which follows it.
func beside(s *site) *site {
	s.t.Helper()
	p := &site{t: s.t, mu: s.mu, works: s.works, store: s.store, tokens: s.tokens, opened: map[string]int{}, vouch: map[string]int{}, refuse: map[string]error{}}
	p.start()
	p.m.Follow(100 * time.Millisecond)
	s.t.Cleanup(p.m.Close)
	return p
}

func TestEveryGatewayFollowsTheStoredMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		a := newSite(t)
		b := beside(a)
		defer b.m.Close()
		both := func(states map[string]pool.State) {
			t.Helper()
			time.Sleep(time.Second)
			a.want(states)
			b.want(states)
		}
		a.add("m1")
		a.add("m2")
		both(map[string]pool.State{"m1": pool.Active, "m2": pool.Active})
		must(t, a.m.Drain(ctx, "test", "m1", lifecycle.Order{}))
		both(map[string]pool.State{"m1": pool.Drained, "m2": pool.Active})
		must(t, a.m.Resume(ctx, "test", "m1"))
		both(map[string]pool.State{"m1": pool.Active, "m2": pool.Active})
		must(t, b.m.Remove(ctx, "test", "m2", lifecycle.Order{})) // a does not follow, and is told by hand
		must(t, a.m.Reconcile(ctx))
		both(map[string]pool.State{"m1": pool.Active})

		r := a.record("m1")
		r.Sessions = 5
		a.add("m3")
		time.Sleep(time.Second)
		_, err := lifecycle.RecordMembers(ctx, a.store, "default", []lifecycle.MemberRecord{r}, nil)
		must(t, err)
		time.Sleep(time.Second)
		for _, m := range b.m.Stat().Members {
			if m.Name == "m1" && m.Sessions != 5 {
				t.Errorf("m1 was changed to 5 sessions and has %d here", m.Sessions)
			}
		}
		opened := b.opened["m1"]
		time.Sleep(time.Minute)
		if b.opened["m1"] != opened {
			t.Error("a member that is as it should be is opened again and again")
		}
	})
}

func TestAFollowerKeepsItsLastAbleMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		a := newSite(t)
		b := beside(a)
		defer b.m.Close()
		b.refuse["m2"] = &hsm.Error{Code: hsm.TokenNotPresent, Function: hsm.FnInitialize} // b cannot reach it
		a.add("m1")
		a.add("m2")
		time.Sleep(time.Second)
		must(t, a.m.Drain(ctx, "test", "m1", lifecycle.Order{}))
		time.Sleep(time.Minute)
		b.want(map[string]pool.State{"m1": pool.Active, "m2": pool.Joining})
		b.mu.Lock()
		delete(b.refuse, "m2")
		b.mu.Unlock()
		time.Sleep(2 * time.Minute)
		b.want(map[string]pool.State{"m1": pool.Drained, "m2": pool.Active})
	})
}

func TestALatchIsEverybodysAndClearedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		a := newSite(t)
		b := beside(a)
		defer b.m.Close()
		wrong := &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
		absent := &hsm.Error{Code: hsm.TokenNotPresent, Function: hsm.FnInitialize}
		a.refuse["m1"], b.refuse["m1"] = absent, absent
		a.plant("m1")
		time.Sleep(time.Second)
		b.want(map[string]pool.State{"m1": pool.Joining})
		a.mu.Lock()
		a.refuse["m1"] = wrong
		a.mu.Unlock()
		time.Sleep(5 * time.Minute)
		a.want(map[string]pool.State{"m1": pool.Latched})
		b.want(map[string]pool.State{"m1": pool.Latched})
		b.mu.Lock()
		tried := b.opened["m1"]
		b.refuse["m1"] = wrong
		b.mu.Unlock()
		time.Sleep(time.Hour)
		if b.opened["m1"] != tried {
			t.Errorf("the other gateway tried to log in %d times though the member is latched", b.opened["m1"]-tried)
		}
		must(t, a.m.ClearLatch(ctx, "test", "m1"))
		time.Sleep(time.Hour)
		if b.opened["m1"] != tried {
			t.Errorf("cleared with the PIN as wrong as before: tried %d times elsewhere too", b.opened["m1"]-tried)
		}
		a.mu.Lock()
		delete(a.refuse, "m1")
		a.mu.Unlock()
		must(t, a.m.ClearLatch(ctx, "test", "m1"))
		time.Sleep(time.Hour)
		a.want(map[string]pool.State{"m1": pool.Active})
		b.want(map[string]pool.State{"m1": pool.Latched}) // its own PIN file is still wrong
		if b.opened["m1"] != tried+1 {
			t.Errorf("the other gateway tried its PIN %d times, want once", b.opened["m1"]-tried)
		}
	})
}

func TestFollowingOutlivesAStoreThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newSite(t)
		a.add("m1")
		a.want(map[string]pool.State{"m1": pool.Active})
		broken := lifecycle.NewMembership(lifecycle.MembershipConfig{Store: silent{a.store}, Pool: a.pool, PoolName: "default", KEK: a.works.kek, Open: a.open})
		if err := broken.Reconcile(context.Background()); !errors.Is(err, errSilent) {
			t.Errorf("a store that does not answer: %v", err)
		}
		a.want(map[string]pool.State{"m1": pool.Active})
	})
}

var errSilent = errors.New("no answer")

// silent is a store that does not answer.
type silent struct{ lifecycle.Store }

func (silent) View(context.Context, func(lifecycle.Tx) error) error { return errSilent }
