package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle/key"
	"keyway/pool"
)

// inCache runs f in fake time with a cache on a shelf with one key.
func inCache(t *testing.T, size int64, f func(*keyCache, *shelf)) {
	v := theVault() // made in real time
	synctest.Test(t, func(t *testing.T) {
		sh := &shelf{keys: map[string]*key.Key{}, used: map[key.ID]uint64{}, most: 1 << 32}
		for _, k := range v.keys {
			sh.keys[k.Name] = k
		}
		c, err := newKeyCache(sh, size)
		if err != nil {
			t.Fatal(err)
		}
		f(c, sh)
		c.close()
	})
}

var signRef = key.Ref{Name: "k-sign"}

func TestAKeyIsReadOnceAndAgainAfterAChange(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		ctx := context.Background()
		get := func(want key.State) {
			t.Helper()
			v, err := c.version(ctx, key.Ref{Name: "k-sign", Version: 1})
			if err != nil || v.State != want {
				t.Fatalf("%+v %v, want %s", v, err, want)
			}
			synctest.Wait() // ristretto takes what it is given a little later
		}
		for range 10 {
			get(key.Active)
		}
		if n := sh.reads.Load(); n != 1 {
			t.Errorf("read %d times", n)
		}
		sh.state("k-sign", 1, key.Suspended) // and the epoch rises
		get(key.Suspended)
		if n := sh.reads.Load(); n != 2 {
			t.Errorf("after a change: read %d times", n)
		}
		if k, err := c.describe(ctx, "k-sign"); err != nil || k.Primary != 0 {
			t.Errorf("%+v %v", k, err)
		}
		if _, err := c.version(ctx, signRef); !errors.Is(err, key.ErrState) {
			t.Errorf("no primary version: %v", err)
		}
	})
}

func TestWhatDoesNotExistIsForgottenAfterASecond(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		miss := func(want int64) {
			t.Helper()
			if _, err := c.version(context.Background(), key.Ref{Name: "k-none"}); !errors.Is(err, key.ErrNotFound) {
				t.Errorf("%v", err)
			}
			synctest.Wait()
			if n := sh.reads.Load(); n != want {
				t.Errorf("read %d times, want %d", n, want)
			}
		}
		miss(1)
		miss(1)
		time.Sleep(negativeTTL + 1)
		miss(2)
	})
}

func TestOneFlightForAllWhoWantAKey(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		sh.hangs = make(chan struct{})
		var wg sync.WaitGroup
		errs := make(chan error, 50)
		for range 50 {
			wg.Go(func() { _, err := c.version(context.Background(), signRef); errs <- err })
		}
		synctest.Wait()
		if n := sh.reads.Load(); n != 1 {
			t.Errorf("50 callers read %d times", n)
		}
		close(sh.hangs)
		wg.Wait()
		for range 50 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A caller that came after a change must not be given what was read before it, however long the reading takes.
func TestAFlightFromBeforeAChangeServesNobodyAfterIt(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		before := make(chan struct{})
		old, err := sh.Key(context.Background(), key.Ref{Name: "k-sign", Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		c.next = slowKeys{sh, before, old}
		r := key.Ref{Name: "k-sign", Version: 1}
		done := make(chan error, 1)
		go func() { _, err := c.version(context.Background(), r); done <- err }()
		synctest.Wait() // it has read, and is on its way
		sh.state("k-sign", 1, key.Compromised)
		got := make(chan *loaded, 1)
		go func() { v, _ := c.version(context.Background(), r); got <- v }()
		synctest.Wait()
		close(before)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if v := <-got; v == nil || v.State != key.Compromised {
			t.Errorf("after the change: %+v", v)
		}
		synctest.Wait()
		if v, err := c.version(context.Background(), r); err != nil || v.State != key.Compromised {
			t.Errorf("later: %+v %v", v, err)
		}
	})
}

// slowKeys answers the first epoch's questions with what it read then, late.
type slowKeys struct {
	*shelf
	late chan struct{}
	old  *key.Version
}

func (s slowKeys) Key(ctx context.Context, r key.Ref) (*key.Version, error) {
	if s.Epoch() == 0 {
		<-s.late
		return s.old, nil
	}
	return s.shelf.Key(ctx, r)
}

func TestAStaleCatalogueFailsClosed(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		if _, err := c.version(context.Background(), signRef); err != nil {
			t.Fatal(err)
		}
		sh.stale.Store(true)
		if _, err := c.version(context.Background(), signRef); !errors.Is(err, key.ErrStale) {
			t.Errorf("a cached key of a stale catalogue: %v", err)
		}
		if _, err := c.describe(context.Background(), "k-sign"); !errors.Is(err, key.ErrStale) {
			t.Errorf("a description of a stale catalogue: %v", err)
		}
	})
}

// While the catalogue vouches for its epoch, a store that is down takes no key in use with it, and whoever asks does not wait for it.
func TestKeysInUseOutliveTheStore(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		get := func() error { _, err := c.version(context.Background(), signRef); synctest.Wait(); return err }
		if err := get(); err != nil {
			t.Fatal(err)
		}
		sh.mu.Lock()
		sh.fails = errBoom
		sh.mu.Unlock()
		for range 100 {
			time.Sleep(time.Minute)
			if err := get(); err != nil {
				t.Fatalf("with the store down: %v", err)
			}
		}
		e := outward(func() error { _, err := c.version(context.Background(), key.Ref{Name: "k-rsa"}); return err }())
		if e == nil || e.Kind != Unavailable || !errors.Is(e, errBoom) {
			t.Errorf("a key that was not in use: %v", e)
		}
		sh.mu.Lock()
		sh.fails, sh.hangs = nil, make(chan struct{})
		sh.mu.Unlock()
		time.Sleep(time.Minute)
		begun := time.Now()
		if err := get(); err != nil || time.Since(begun) != 0 {
			t.Errorf("with a store that hangs: %v after %s", err, time.Since(begun))
		}
		reads := sh.reads.Load()
		sh.mu.Lock()
		close(sh.hangs)
		sh.hangs = nil
		sh.mu.Unlock()
		time.Sleep(time.Minute)
		_ = get()
		if sh.reads.Load() == reads {
			t.Error("the store answers again and is not asked")
		}
		// A change is never outlived.
		sh.mu.Lock()
		sh.fails = errBoom
		sh.mu.Unlock()
		sh.epoch.Add(1)
		if err := get(); err == nil {
			t.Error("a key of an older epoch was used")
		}
	})
}

func TestACallerWaitsNoLongerThanItMay(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		sh.hangs = make(chan struct{})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begun := time.Now()
		if _, err := c.version(ctx, signRef); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
	})
}

func TestAPanicOfTheCatalogueIsAnError(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		sh.onKey = func(context.Context) error { panic("secret") }
		if _, err := c.version(context.Background(), signRef); err == nil || outward(err).Kind != Internal {
			t.Errorf("%v", err)
		}
	})
}

func TestClosingTheCacheEndsWhatIsBeingRead(t *testing.T) {
	inCache(t, 100, func(c *keyCache, sh *shelf) {
		sh.hangs = make(chan struct{})
		done := make(chan error, 1)
		go func() { _, err := c.version(context.Background(), signRef); done <- err }()
		synctest.Wait()
		c.close()
		if err := <-done; err == nil {
			t.Error("a key was read from a closed cache")
		}
		if _, err := c.version(context.Background(), signRef); !errors.Is(err, pool.ErrClosed) {
			t.Errorf("after closing: %v", err)
		}
	})
}

func TestTheCacheKeepsAsManyKeysAsItMay(t *testing.T) {
	const size = 200
	inCache(t, size, func(c *keyCache, sh *shelf) {
		v, err := sh.Key(context.Background(), signRef)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 * size {
			n := fmt.Sprintf("k-%d", i)
			sh.keys[n] = &key.Key{Name: n, Algorithm: key.ECP256, Primary: 1, Versions: []*key.Version{v}}
		}
		kept := func(n int) (hits int) {
			for i := range n {
				if _, ok := c.cache.Get(fmt.Sprintf("k-%d", i)); ok {
					hits++
				}
			}
			return hits
		}
		load := func(from, to int) {
			for i := from; i < to; i++ {
				if _, err := c.version(context.Background(), key.Ref{Name: fmt.Sprintf("k-%d", i)}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
		}
		load(0, size)
		if n := kept(size); n < size*9/10 {
			t.Errorf("of %d keys, which all have room, %d are kept", size, n)
		}
		load(size, 5*size)
		if n := kept(5 * size); n > size {
			t.Errorf("%d keys are kept, %d may be", n, size)
		}
	})
}
