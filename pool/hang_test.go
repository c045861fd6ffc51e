package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// A token that said it was busy runs one operation at a time; when that one hangs, nothing runs any more.
func TestOneHungCallThatHoldsTheLastPermitEndsTheGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		var opens atomic.Int64
		p := reopenable(t, Config{OpTimeout: time.Second}, &opens, a, newFaulty("a"))
		defer p.Close()
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceMemory, Function: hsm.FnSign}})
		for p.Stat().Members[0].Permits > 1 {
			_, _ = p.Do(t.Context(), nil, random16)
			time.Sleep(time.Millisecond)
		}
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		begun := time.Now()
		if _, err := p.Do(t.Context(), nil, random16); err == nil {
			t.Error("an operation that hangs had a result")
		}
		time.Sleep(5*time.Second - time.Since(begun))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Do(ctx, nil, random16); err != nil || opens.Load() != 2 {
			t.Errorf("%v; the token was opened %d times", err, opens.Load())
		}
	})
}

// While work is under way beside them, hung calls have not filled what may run.
func TestHungCallsBesideOthersDoNotEndTheGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Second}, a) // two sessions
		defer p.Close()
		release := make(chan struct{})
		a.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Until: release})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt}) })
		for range 500 {
			if _, err := p.Do(t.Context(), nil, random16); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		wg.Wait()
		if s := p.Stat().Members[0]; s.Epoch != 0 || s.Hung != 1 || s.Busy != 1 {
			t.Errorf("epoch %d, %d hung, %d busy; want 0, 1 and 1: the session of a hung call stays taken", s.Epoch, s.Hung, s.Busy)
		}
		close(release)
		synctest.Wait()
		if s := p.Stat().Members[0]; s.Busy != 0 {
			t.Errorf("%d busy after the call returned", s.Busy)
		}
	})
}

// A canary that has to wait for a session is not followed by others.
func TestCanariesDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Hour}, a)
		defer p.Close()
		release := make(chan struct{})
		doing(a, hsmtest.Fault{Until: release})
		for range 2 {
			go func() { _, _ = p.Do(t.Context(), nil, random16) }()
		}
		time.Sleep(10 * time.Minute)
		if n := p.Stat().Members[0].Queued; n > 1 {
			t.Errorf("%d canaries wait", n)
		}
		close(release)
	})
}
