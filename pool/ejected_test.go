package pool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// eject lets a member's device fail until its breaker is open.
func eject(t *testing.T, p *Pool, f *hsmtest.Faulty, member int) {
	t.Helper()
	doing(f, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnRandom}})
	for range 1000 {
		if p.Stat().Members[member].State == Ejected {
			return
		}
		_, _ = p.Do(t.Context(), nil, random16)
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("a device that fails at everything was not ejected")
}

// However long the breaker's open time has grown, the last member is tried every second.
func TestTheLastMemberIsProbedEverySecond(t *testing.T) {
	for range 20 { // the time-table has jitter
		synctest.Test(t, func(t *testing.T) {
			a := newFaulty("a")
			p := newPool(t, Config{RestartAfter: time.Hour}, a)
			defer p.Close()
			eject(t, p, a, 0)
			time.Sleep(20 * time.Minute)
			before := a.Count(hsmtest.OnRandom)
			if _, err := p.Do(t.Context(), nil, random16); !errors.Is(err, ErrUnavailable) || a.Count(hsmtest.OnRandom) != before {
				t.Errorf("with the only member ejected: %v, want ErrUnavailable at once and without asking it", err)
			}
			time.Sleep(time.Minute)
			if n := a.Count(hsmtest.OnRandom) - before; n < 45 || n > 65 {
				t.Errorf("%d canaries within a minute", n)
			}
			a.Heal(hsmtest.OnDo)
			time.Sleep(openMin + 2*watchEvery)
			if _, err := p.Do(t.Context(), nil, random16); err != nil {
				t.Errorf("a second after it works again: %v", err)
			}
		})
	}
}

// With another member to serve, an ejected one is tried ever less often, down to every five minutes; a good canary forgets that.
func TestAnEjectedMemberIsTriedLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{RestartAfter: time.Hour}, a, b)
		defer p.Close()
		eject(t, p, a, 0)
		want, last, n, off := openMin, time.Now(), a.Count(hsmtest.OnRandom), 0
		begun := last
		for time.Since(begun) < 30*time.Minute {
			time.Sleep(10 * time.Millisecond)
			now := a.Count(hsmtest.OnRandom)
			if now == n {
				continue
			}
			if took := time.Since(last); took < want*3/4-watchEvery || took > want*5/4+2*watchEvery || now != n+1 {
				t.Fatalf("after %s (%d at once), want %s and a quarter of jitter", took, now-n, want)
			}
			if d := time.Since(last) - want; d.Abs() > 100*time.Millisecond {
				off++
			}
			want, last, n = min(2*want, openMax), time.Now(), now
		}
		if want != openMax || off < 3 {
			t.Errorf("the time between two canaries has grown to %s, with jitter %d times", want, off)
		}
		a.Heal(hsmtest.OnDo)
		time.Sleep(openMax*5/4 + time.Second)
		if s := p.Stat().Members[0]; s.State != Active {
			t.Fatalf("the member that works again is %s", s.State)
		}
		eject(t, p, a, 0)
		before := a.Count(hsmtest.OnRandom)
		time.Sleep(openMin*5/4 + 2*watchEvery)
		if a.Count(hsmtest.OnRandom) == before {
			t.Error("ejected once more it was not tried within a second: the grown time was not forgotten")
		}
	})
}

// Whoever waits for a member hears of one that an ejected member has become able.
func TestWaitHearsOfAnEjectedMemberThatServesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		eject(t, p, a, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		heard := make(chan error, 1)
		go func() { heard <- p.Wait(ctx) }()
		time.Sleep(10 * time.Second)
		a.Heal(hsmtest.OnDo)
		if err := <-heard; err != nil {
			t.Error(err)
		}
	})
}

// A canary that was sent proves nothing; only its answer does.
func TestAMemberThatDoesNotAnswerIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Minute}, a)
		defer p.Close()
		time.Sleep(time.Minute)
		if !p.Ready() {
			t.Fatal("a member whose canaries pass is not ready")
		}
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		time.Sleep(readyFor + watchEvery)
		if p.Ready() {
			t.Error("ten seconds after its last answer the member counts as ready")
		}
	})
}

// Five failures in a row open the breaker, and each outcome is one: gobreaker would take a second report for another attempt.
func TestTheFifthFailureInARowOpensTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnRandom}})
		for i := range 5 {
			if s := p.Stat().Members[0].Breaker; s != "closed" {
				t.Errorf("after %d failures the breaker is %s", i, s)
			}
			_, _ = p.Do(t.Context(), nil, random16)
		}
		if s := p.Stat().Members[0].Breaker; s != "open" {
			t.Errorf("after five failures in a row the breaker is %s", s)
		}
	})
}

// Busy says nothing about the device: it neither opens the breaker nor makes the failures before it forgotten.
func TestBusyCountsNeitherWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		meets := func(code hsm.Code, n int) {
			doing(a, hsmtest.Fault{Err: &hsm.Error{Code: code, Function: hsm.FnRandom}})
			for range n {
				_, _ = p.Do(t.Context(), nil, random16)
			}
		}
		meets(hsm.DeviceMemory, 100)
		if s := p.Stat().Members[0].Breaker; s != "closed" {
			t.Errorf("a busy token's breaker is %s", s)
		}
		meets(hsm.DeviceError, 4)
		meets(hsm.DeviceMemory, 1)
		if s := p.Stat().Members[0].Breaker; s != "closed" {
			t.Errorf("after four failures and a refusal the breaker is %s", s)
		}
		meets(hsm.DeviceError, 1)
		if s := p.Stat().Members[0].Breaker; s != "open" {
			t.Errorf("after five failures with a refusal between them the breaker is %s", s)
		}
	})
}

// Calls that hang and hold everything open the breaker, however few they are: a token that is opened anew is proved first.
func TestHungCallsThatHoldEverythingOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Second}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		for range 2 {
			go func() { _, _ = p.Do(t.Context(), nil, random16) }()
		}
		time.Sleep(time.Second + 2*watchEvery)
		if s := p.Stat().Members[0]; s.Breaker != "open" || s.Hung != 2 {
			t.Errorf("breaker %s, %d hung", s.Breaker, s.Hung)
		}
	})
}

// A probe that never returns is given up like any call, or no other would ever be admitted.
func TestACanaryThatHangsDoesNotWedgeTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Second}, a, newFaulty("b"))
		defer p.Close()
		eject(t, p, a, 0)
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		for before := a.Count(hsmtest.OnDo); a.Count(hsmtest.OnDo) == before; {
			time.Sleep(time.Millisecond)
		}
		a.Heal(hsmtest.OnDo) // the next one would pass; the one that hangs does for ever
		time.Sleep(20 * time.Second)
		if s := p.Stat().Members[0]; s.State != Active || s.Busy != 1 || s.Epoch != 0 {
			t.Errorf("%s, %d busy, epoch %d", s.State, s.Busy, s.Epoch)
		}
	})
}
