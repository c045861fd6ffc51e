package pool

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// Three attempts are enough for four members of which one is able, however the others come to fail, one shortly after the other: a
// second attempt goes to a member that nothing speaks against.
func TestTheDefaultAttemptsReachTheOneAbleMemberOfFour(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   hsm.Code // Stale and Busy are counted by no breaker, so that the members go on being asked
		fails  time.Duration
		serves time.Duration
		pause  time.Duration // between two operations
		most   int
	}{
		{"failing for good", hsm.KeyHandleInvalid, time.Hour, 0, time.Millisecond, 0},
		{"failing for good in a quiet pool", hsm.KeyHandleInvalid, time.Hour, 0, 2 * time.Second, 1}, // the first one that meets all three teaches the pool about them

		{"failing now and then", hsm.KeyHandleInvalid, 2 * time.Second, 500 * time.Millisecond, time.Millisecond, 0},
		{"busy now and then", hsm.DeviceMemory, 2 * time.Second, 500 * time.Millisecond, 5 * time.Millisecond, 0},
		{"devices failing now and then", hsm.DeviceError, time.Second, 3 * time.Second, time.Millisecond, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, x, d := newFaulty("a"), newFaulty("b"), newFaulty("c"), newFaulty("d")
				k := residentKey(t, a, b, x, d)
				p := newPool(t, Config{}, a, b, x, d)
				defer p.Close()
				for range 100 {
					if err := mac(t, p, k); err != nil {
						t.Fatal(err)
					}
				}
				d.Inject(hsmtest.OnSign, hsmtest.Fault{Delay: 50 * time.Millisecond}) // a slow device, which others should not be preferred to for failing fast
				begun := time.Now()
				failed, failing := 0, [3]bool{}
				for range 2000 {
					for i, f := range []*hsmtest.Faulty{a, b, x} {
						since := time.Since(begun) - time.Duration(i)*300*time.Millisecond
						should := since >= 0 && since%(c.fails+c.serves) < c.fails
						if should && !failing[i] {
							f.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: c.code, Function: hsm.FnSign}})
						} else if !should && failing[i] {
							f.Heal(hsmtest.OnSign)
						}
						failing[i] = should
					}
					if err := mac(t, p, k); err != nil {
						failed++
						t.Logf("%s in: %v, though d can do it", time.Since(begun), err)
					}
					time.Sleep(c.pause)
				}
				if failed > c.most {
					t.Errorf("%d operations failed, want at most %d", failed, c.most)
				}
			})
		})
	}
}

// Only what reached a token is an attempt: one that is lost with it is, or a request that ends the workers it reaches would be sent to all of
// them; those that waited for their turn go on.
func TestWhatReachedNoTokenIsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{Attempts: 1}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: time.Second})
		var mu sync.Mutex
		lost, served := 0, 0
		var wg sync.WaitGroup
		for range 6 { // two run, the others wait
			synctest.Wait()
			wg.Go(func() {
				_, err := p.Do(t.Context(), nil, random16)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					served++
				case errors.Is(err, ErrDevice):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := p.Add(MemberConfig{Name: "b", Open: opened(newFaulty("b")), Sessions: 2}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		a.Kill()
		wg.Wait()
		if lost != 2 || served != 4 {
			t.Errorf("%d lost and %d served elsewhere, want the 2 that ran lost and the 4 that waited served", lost, served)
		}
	})
}

// What a lost worker takes with it is done by another member, and costs none of the retry budget: there are as many as there were calls.
func TestALossCostsNothingOfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		var all sync.WaitGroup
		for range 6 { // two run, four wait
			all.Go(func() {
				if _, err := p.Do(t.Context(), nil, random16); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if err := p.Add(MemberConfig{Name: "b", Sessions: 2, Open: opened(newFaulty("b"))}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		p.budget.saved = -1e9
		a.Kill()
		all.Wait()
	})
}
