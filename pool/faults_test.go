package pool

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// What happens after a failure of each fault: whether another member is asked, whether the same one is asked again, and what the
// breaker and the permits hear of it.
func TestEachFaultHasItsReaction(t *testing.T) {
	for _, c := range []struct {
		code         hsm.Code
		lose         bool // with the session
		elsewhere    bool // answered by the other member
		asked        int  // how often the member that fails is asked for each operation
		open, fewer  bool // in the end the breaker is open, or there are fewer permits
		sessionsMore int  // opened in place of lost ones for each operation
	}{
		{code: hsm.EncryptedDataInvalid, asked: 1},
		{code: hsm.MechanismParamInvalid, elsewhere: true, asked: 1},
		{code: hsm.KeyHandleInvalid, elsewhere: true, asked: 2},
		{code: hsm.SessionHandleInvalid, lose: true, elsewhere: true, asked: 2, sessionsMore: 2},
		{code: hsm.DeviceMemory, elsewhere: true, asked: 1, fewer: true},
		{code: hsm.DeviceError, elsewhere: true, asked: 1, open: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newFaulty("a"), newFaulty("b")
			p := newPool(t, Config{SlowStart: time.Nanosecond}, a, b)
			defer p.Close()
			op := hsm.Op{Kind: hsm.OpDecrypt}
			fault := hsmtest.Fault{Err: &hsm.Error{Code: c.code, Function: hsm.FnDecrypt}, Lose: c.lose}
			a.Inject(hsmtest.OnDecrypt, fault)
			if c.open { // the canary fails as well, or it would clear the device
				a.Inject(hsmtest.OnEncrypt, fault)
			}
			good := &hsm.Error{Code: hsm.DataLenRange, Function: hsm.FnDecrypt} // b's answer
			b.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Err: good})
			for met := 0; met < 5; {
				calls, other, opens := a.Count(hsmtest.OnDecrypt), b.Count(hsmtest.OnDecrypt), a.Count(hsmtest.OnOpen)
				_, err := p.Do(t.Context(), nil, op)
				synctest.Wait() // until the session is replaced and the permit given back
				calls, other, opens = a.Count(hsmtest.OnDecrypt)-calls, b.Count(hsmtest.OnDecrypt)-other, a.Count(hsmtest.OnOpen)-opens
				permits := p.Stat().Members[0].Permits
				time.Sleep(1100 * time.Millisecond) // until it is not avoided any more
				if c.open && p.Stat().Members[0].Breaker != "closed" {
					return
				}
				if calls == 0 {
					continue
				}
				met++
				var te *hsm.Error
				if !errors.As(err, &te) || (te.Code == good.Code) != c.elsewhere {
					t.Errorf("%s: %v", c.code, err)
				}
				if calls != c.asked || other > 0 != c.elsewhere || opens != c.sessionsMore && !c.open { // a failing canary's session is replaced too
					t.Errorf("%s: the member was asked %d times, the other %d times, %d sessions opened", c.code, calls, other, opens)
				}
				if met == 1 && (permits < 2) != c.fewer {
					t.Errorf("%s: %d permits", c.code, permits)
				}
			}
			if s := p.Stat().Members[0]; (s.Breaker != "closed") != c.open {
				t.Errorf("%s: breaker %s", c.code, s.Breaker)
			}
		})
	}
}

// A device that fails half of the time is ejected though it never fails often in a row.
func TestADeviceThatFailsHalfOfTheTimeIsEjected(t *testing.T) {
	f := func(failing int) (state State) {
		synctest.Test(t, func(t *testing.T) {
			a := newFaulty("a")
			p := newPool(t, Config{}, a)
			defer p.Close()
			for i := range 60 {
				a.Heal(hsmtest.OnDo)
				if i%10 < failing {
					if i%2 == 0 || failing > 5 {
						a.Inject(hsmtest.OnRandom, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnRandom}})
					}
				}
				_, _ = p.Do(t.Context(), nil, random16)
				time.Sleep(time.Millisecond)
				if i%3 == 2 { // never four in a row
					a.Heal(hsmtest.OnDo)
					_, _ = p.Do(t.Context(), nil, random16)
				}
			}
			state = p.Stat().Members[0].State
		})
		return state
	}
	if s := f(10); s != Ejected {
		t.Errorf("three of four operations failed, and the member is %s", s)
	}
	if s := f(4); s != Active {
		t.Errorf("some of forty operations failed, and the member is %s", s)
	}
}

// With every request failing on every member, second tries are a fifth of the requests, and a floor of ten a second.
func TestSecondTriesAreAFifthOfTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newFaulty("a"), newFaulty("b"), newFaulty("c")
		p := newPool(t, Config{}, a, b, c)
		defer p.Close()
		for _, f := range []*hsmtest.Faulty{a, b, c} {
			f.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Err: &hsm.Error{Code: hsm.KeyHandleInvalid, Function: hsm.FnDecrypt}}) // Stale: no breaker counts it
		}
		begun := time.Now()
		const n = 20_000
		for range n {
			_, _ = p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt})
			time.Sleep(time.Millisecond)
		}
		least := 0.2 * n
		most := least + retriesPerSecond*(1+time.Since(begun).Seconds())
		if r := float64(p.Stat().Retries); r > most || r < least {
			t.Errorf("%.0f second tries for %d requests, %.0f to %.0f are allowed", r, n, least, most)
		}
	})
}

// No operation is tried on more than three members, whatever the budget.
func TestNoOperationIsTriedMoreThanThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := []*hsmtest.Faulty{newFaulty("a"), newFaulty("b"), newFaulty("c"), newFaulty("d"), newFaulty("e")}
		p := newPool(t, Config{}, tokens...)
		defer p.Close()
		for _, f := range tokens {
			f.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnDecrypt}})
		}
		_, err := p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt})
		n := 0
		for _, f := range tokens {
			n += f.Count(hsmtest.OnDecrypt)
		}
		if n != 3 || !errors.Is(err, ErrDevice) {
			t.Errorf("tried %d times: %v", n, err)
		}
		// Work of several steps may have done half of it, and is tried once.
		n = 0
		err = p.With(t.Context(), func(hsm.Keeper) error {
			n++
			return &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnGenerate}
		})
		if n != 1 || err == nil {
			t.Errorf("work of several steps was done %d times: %v", n, err)
		}
	})
}

// An operation asks the token for nothing but itself: no session is tried out first, and no handle is looked up again.
func TestAnOperationIsOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		k := residentKey(t, a)
		p := newPool(t, Config{}, a)
		defer p.Close()
		for range 20 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		all, signs := a.Count(hsmtest.OnAny), a.Count(hsmtest.OnSign)
		for range 1000 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		if n := a.Count(hsmtest.OnSign) - signs; n != 1000 || a.Count(hsmtest.OnAny)-all != 1000 {
			t.Errorf("%d calls, %d of them signatures, for 1000 MACs", a.Count(hsmtest.OnAny)-all, n)
		}
	})
}
