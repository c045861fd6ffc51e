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

// A token that cannot be opened is tried after 1 s, 2 s and so on to 60 s, with a quarter of jitter either way.
func TestATokenIsOpenedAgainWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		var mu sync.Mutex
		var at []time.Time
		var f *hsmtest.Faulty
		works := false
		open := func(context.Context) (hsm.Token, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			if works {
				f = newFaulty("a")
				return f, nil
			}
			return nil, &hsm.Error{Code: hsm.TokenNotPresent, Function: hsm.FnInitialize}
		}
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: open}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		mu.Lock()
		want, exact := respawnMin, 0
		for i := 1; i < len(at); i++ {
			gap := at[i].Sub(at[i-1])
			if gap < want*3/4 || gap > want*5/4 {
				t.Fatalf("try %d came after %s, want %s and a quarter of jitter", i, gap, want)
			}
			if gap == want {
				exact++
			}
			want = min(2*want, respawnMax)
		}
		if len(at) < 40 || exact > 5 {
			t.Errorf("%d tries within an hour, %d of them to the point", len(at), exact)
		}
		// One that was there for a while begins anew.
		works = true
		mu.Unlock()
		time.Sleep(respawnMax*5/4 + 11*time.Second)
		mu.Lock()
		n, last := len(at), f
		mu.Unlock()
		last.Kill()
		time.Sleep(respawnMin * 5 / 4)
		mu.Lock()
		defer mu.Unlock()
		if len(at) != n+1 {
			t.Errorf("after a loss it was tried %d times within a second", len(at)-n)
		}
	})
}

// A handle of one epoch is not used in the next: the new library may have given its number to another key.
func TestHandlesEndWithTheirEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, again := newFaulty("a"), newFaulty("a")
		k := residentKey(t, a)
		residentKey(t, again, again, again) // the same ID three times: it is ambiguous there, and whoever looks it up notices
		next := a
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		open := func(context.Context) (hsm.Token, error) { f := next; next = again; return f, nil }
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: open}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := mac(t, p, k); err != nil {
			t.Fatal(err)
		}
		a.Kill()
		time.Sleep(2 * time.Second)
		before := again.Count(hsmtest.OnFind)
		if err := mac(t, p, k); err == nil || again.Count(hsmtest.OnFind) == before {
			t.Errorf("%v: the key was not looked up in the new epoch", err)
		}
		if s := p.Stat().Members[0]; s.Epoch != 1 {
			t.Errorf("epoch %d", s.Epoch)
		}
	})
}

// The cache is as large as the object memory of the token.
func TestTheTokensMemoryBoundsTheHandles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &stepwise{Faulty: newFaulty("a"), info: hsm.Info{MaxObjects: 3}}
		kek := []byte("kek-of-the-pool!")
		k := wrappedKey(t, a.Faulty, kek)
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, KEK: kek, Open: func(context.Context) (hsm.Token, error) { return a, nil }}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		use := func(n byte) {
			t.Helper()
			x := *k
			x.ID[0] = n
			if err := mac(t, p, &x); err != nil {
				t.Fatal(err)
			}
		}
		for n := range byte(10) {
			use(n)
		}
		if s := p.Stat().Members[0]; s.Handles != 3 || s.Evictions != 7 || a.Count(hsmtest.OnDestroy) != 7 {
			t.Errorf("%d handles, %d evicted, %d destroyed; want 3, 7 and 7", s.Handles, s.Evictions, a.Count(hsmtest.OnDestroy))
		}
		// 7, 8 and 9 are there. The one that was not used for longest goes.
		use(7)
		use(1)
		loads := p.Stat().Members[0].Loads
		use(7)
		use(9)
		if n := p.Stat().Members[0].Loads; n != loads {
			t.Errorf("%d of the two that were used last were loaded again", n-loads)
		}
	})
}

// A handle that names nothing any more is looked up anew, and the caller does not notice.
func TestAStaleHandleIsLookedUpAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		k := residentKey(t, a)
		p := newPool(t, Config{}, a)
		defer p.Close()
		for range 3 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
			err := p.With(t.Context(), func(s hsm.Keeper) error { // as a token that was away for a moment
				h, err := s.Find(hsm.ClassSecret, k.ID[:])
				if err != nil {
					return err
				}
				return s.Destroy(h)
			})
			if err != nil {
				t.Fatal(err)
			}
			residentKey(t, a)
		}
		if s := p.Stat().Members[0]; s.Loads != 3 || s.Unusable != 0 {
			t.Errorf("looked up %d times, unusable %d times", s.Loads, s.Unusable)
		}
	})
}
