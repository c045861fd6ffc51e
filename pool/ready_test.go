package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// until asks every 10 ms whether the pool is ready and returns how long it took to become so or not, at most a minute.
func until(p *Pool, ready bool) time.Duration {
	begun := time.Now()
	for p.Ready() != ready && time.Since(begun) < time.Minute {
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begun)
}

func TestReadinessTellsTheTruthWithinASecond(t *testing.T) {
	for _, load := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p, tokens := trio(t, Config{})
			defer p.Close()
			if load {
				done := make(chan struct{})
				defer close(done)
				go func() {
					for {
						select {
						case <-done:
							return
						case <-time.After(5 * time.Millisecond):
							go func() { _, _ = p.Do(t.Context(), nil, random16) }()
						}
					}
				}()
			}
			for range 100 {
				if !p.Ready() {
					t.Fatal("not ready, though nothing is wrong")
				}
				time.Sleep(10 * time.Millisecond)
			}
			release := make(chan struct{})
			for _, f := range tokens {
				doing(f, hsmtest.Fault{Until: release})
			}
			if d := until(p, false); d > time.Second {
				t.Errorf("load %t: when every member hung it took %s until the pool was not ready", load, d)
			}
			close(release)
			if d := until(p, true); d > time.Second {
				t.Errorf("load %t: when they answered again it took %s until the pool was ready", load, d)
			}
			release = make(chan struct{}) // and once more: what came late has taught nobody patience
			for _, f := range tokens {
				doing(f, hsmtest.Fault{Until: release})
			}
			if d := until(p, false); d > time.Second {
				t.Errorf("load %t: when every member hung again it took %s until the pool was not ready", load, d)
			}
			close(release)
			until(p, true)
			for _, f := range tokens {
				f.Kill()
			}
			if d := until(p, false); d > time.Second {
				t.Errorf("load %t: when every worker was gone it took %s until the pool was not ready", load, d)
			}
		})
	}
}

// While work of several steps has every session, and while operations take as long as they always do, a pool is no less ready.
func TestLongWorkIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		k := residentKey(t, a)
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("message")}
		p := newPool(t, Config{}, a) // two sessions
		defer p.Close()
		until(p, true)
		for range 2 {
			go func() {
				_ = p.With(t.Context(), func(hsm.Keeper) error { time.Sleep(8 * time.Second); return nil })
			}()
		}
		for range 300 {
			if !p.Ready() {
				t.Fatal("not ready while keys are made")
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		a.Inject(hsmtest.OnSign, hsmtest.Fault{Delay: 900 * time.Millisecond})
		for range 20 {
			if _, err := p.Do(t.Context(), k, op); err != nil {
				t.Fatal(err)
			}
		}
		release := make(chan struct{})
		defer close(release)
		a.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Until: release}) // and one operation beside them hangs: it alone says little
		go func() { _, _ = p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt}) }()
		go func() {
			for range 8 {
				_, _ = p.Do(t.Context(), k, op)
			}
		}()
		for range 800 {
			if !p.Ready() {
				t.Fatal("not ready while the token does what it does in its usual time")
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
	})
}

// Who asks seldom causes few canaries, and who does not ask none.
func TestAskingWhetherAPoolIsReadyCostsLittle(t *testing.T) {
	canaries := func(every time.Duration) (n int) {
		synctest.Test(t, func(t *testing.T) {
			a := newFaulty("a")
			p := newPool(t, Config{}, a)
			defer p.Close()
			before := a.Count(hsmtest.OnRandom)
			for begun := time.Now(); time.Since(begun) < time.Minute; {
				if every > 0 {
					_ = p.Ready()
				} else {
					_ = p.Stat()
				}
				time.Sleep(max(every, 10*time.Millisecond))
			}
			n = a.Count(hsmtest.OnRandom) - before
		})
		return n
	}
	for _, x := range []struct {
		every time.Duration
		most  int
	}{{0, 12}, {10 * time.Second, 24}, {time.Second, 125}, {10 * time.Millisecond, 241}} {
		if n := canaries(x.every); n > x.most {
			t.Errorf("asked every %s, a pool sends %d canaries a minute, at most %d are worth it", x.every, n, x.most)
		}
	}
}
