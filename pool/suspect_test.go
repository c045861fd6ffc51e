package pool

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

var errGeneral = &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt}

// Those whose operations fail ambiguously while the canary is under way wait for its verdict: a dying token fails them all at once.
func TestSuspectsAtOnceHearTheSameVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 8, Open: opened(a)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // past the first canary
		a.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Delay: 100 * time.Millisecond, Err: errGeneral})
		a.Inject(hsmtest.OnRandom, hsmtest.Fault{Delay: 100 * time.Millisecond, Err: errGeneral})
		before := a.Count(hsmtest.OnRandom)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt}); hsm.FaultOf(err) == hsm.Caller {
					t.Errorf("%v: a caller is blamed for a token that fails at everything", err)
				}
			})
		}
		wg.Wait()
		if n := a.Count(hsmtest.OnRandom) - before; n != 1 {
			t.Errorf("%d canaries for suspects of one moment, want 1", n)
		}
	})
}

// However many operations fail ambiguously, they cause one canary a second.
func TestSuspectsCauseOneCanaryASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		a.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Err: errGeneral})
		before := a.Count(hsmtest.OnRandom)
		for range 10_000 {
			if _, err := p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt}); hsm.FaultOf(err) != hsm.Caller {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := a.Count(hsmtest.OnRandom) - before; n < 9 || n > 13 { // one of the usual ones may be among them
			t.Errorf("%d canaries in ten seconds", n)
		}
	})
}

// What was found of a token says nothing about the one that took its place.
func TestAVerdictEndsWithItsGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, fresh := newFaulty("a"), newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		m := p.find("a")
		a.Inject(hsmtest.OnDecrypt|hsmtest.OnRandom, hsmtest.Fault{Err: errGeneral})
		_, _ = p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt})
		fresh.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Err: errGeneral})
		s, err := fresh.OpenSession(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		next := &slot{g: &generation{m: m, token: fresh}, sess: s}
		if _, err := next.g.judge(next, errGeneral); hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("%v has the fault %s; the new token's canary passes", err, hsm.FaultOf(err))
		}
		_ = s.Close()
		_ = fresh.Close()
	})
}
