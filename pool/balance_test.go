package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// Members that keep failing without tripping their breakers must not use up the retry budget while another can serve.
func TestMembersThatKeepFailingAreAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c, d := newFaulty("a"), newFaulty("b"), newFaulty("c"), newFaulty("d")
		k := residentKey(t, a, b, c, d)
		p := newPool(t, Config{Attempts: 4}, a, b, c, d)
		defer p.Close()
		for _, f := range []*hsmtest.Faulty{a, b, c} {
			f.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.KeyHandleInvalid, Function: hsm.FnSign}}) // Stale: no breaker counts it
		}
		const n = 20_000
		for i := range n {
			if err := mac(t, p, k); err != nil {
				t.Fatalf("operation %d: %v, though d can do it", i, err)
			}
			time.Sleep(time.Millisecond)
		}
		if r := p.Stat().Retries; r > n/50 {
			t.Errorf("%d retries for %d operations", r, n)
		}
	})
}

// One bad moment must not keep a member idle for good where there are only two.
func TestAMemberThatFailedOnceIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		k := residentKey(t, a, b)
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		usual := hsmtest.Fault{Delay: time.Millisecond}
		a.Inject(hsmtest.OnSign, usual)
		b.Inject(hsmtest.OnSign, usual)
		for range 20 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		a.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceMemory, Function: hsm.FnSign}})
		for range 2500 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		a.Inject(hsmtest.OnSign, usual)
		for range 10_000 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		before := a.Count(hsmtest.OnSign)
		for range 5000 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		if n := a.Count(hsmtest.OnSign) - before; n < 500 {
			t.Errorf("of 5000 operations a, which failed ten seconds ago, got %d", n)
		}
	})
}
