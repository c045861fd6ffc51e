package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

// telling is a store that tells of changes when the test says so, and counts how often it is asked.
type telling struct {
	lifecycle.Store
	mu       sync.Mutex
	watchers []chan struct{}
	refuse   error
	asked    atomic.Int64
}

func (s *telling) View(ctx context.Context, f func(lifecycle.Tx) error) error {
	s.asked.Add(1)
	return s.Store.View(ctx, f)
}

func (s *telling) Watch(context.Context) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	c := make(chan struct{}, 1)
	s.watchers = append(s.watchers, c)
	return c, nil
}

func (s *telling) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// lose ends telling, until watching succeeds again.
func (s *telling) lose(refuse error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.watchers {
		close(c)
	}
	s.watchers, s.refuse = nil, refuse
}

func (s *telling) asks(d time.Duration) int64 {
	before := s.asked.Load()
	time.Sleep(d)
	synctest.Wait()
	return s.asked.Load() - before
}

// A store that tells of changes is asked at once then, and seldom otherwise; one that cannot tell is asked often, and watched again.
func TestTheCatalogueHearsOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &telling{Store: openStore(t)}
		m := lifecycle.NewManager(lifecycle.ManagerConfig{Store: s.Store})
		c := newCatalogue(t, lifecycle.CatalogueConfig{Store: s})
		synctest.Wait()
		known := func(name string) bool {
			t.Helper()
			token, err := m.CreateClient(context.Background(), "test", key.Client{Name: name})
			must(t, err)
			s.tell()
			time.Sleep(50 * time.Millisecond)
			synctest.Wait()
			_, ok := c.Directory().ByToken(token)
			return ok
		}
		if !known("a") {
			t.Error("a change is not known 50 ms after it was told")
		}
		if n := s.asks(10 * time.Second); n < 9 || n > 11 {
			t.Errorf("while it tells, the store was asked %d times in 10 s", n)
		}
		s.lose(errors.New("no listener"))
		time.Sleep(50 * time.Millisecond)
		if n := s.asks(10 * time.Second); n < 39 || n > 41 {
			t.Errorf("a store that does not tell was asked %d times in 10 s", n)
		}
		if known("b") {
			t.Error("nothing was told, and it was known: the test shows nothing")
		}
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		time.Sleep(2 * time.Second)
		if !known("c") {
			t.Error("watched again, a change is not known 50 ms after it was told")
		}
		s.lose(errors.ErrUnsupported)
		time.Sleep(50 * time.Millisecond)
		s.lose(nil)
		time.Sleep(5 * time.Second)
		if n := s.asks(10 * time.Second); n < 39 || n > 41 {
			t.Errorf("a store that never tells was asked %d times in 10 s", n)
		}
	})
}

// What changed between the last question and the first watch is not missed until the next poll.
func TestWatchingBeginsWithAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &telling{Store: openStore(t), refuse: errors.New("not yet")}
		newCatalogue(t, lifecycle.CatalogueConfig{Store: s, Poll: time.Hour})
		synctest.Wait()
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		before := s.asked.Load()
		time.Sleep(time.Hour + time.Second) // the poll ends, and it is watched again
		synctest.Wait()
		if n := s.asked.Load() - before; n != 2 {
			t.Errorf("asked %d times, want by the poll and when it was watched", n)
		}
	})
}

// A burst of changes is not a question for each.
func TestABurstOfChangesIsOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &telling{Store: openStore(t)}
		newCatalogue(t, lifecycle.CatalogueConfig{Store: s})
		synctest.Wait()
		before := s.asked.Load()
		for range 100 {
			s.tell()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if n := s.asked.Load() - before; n < 2 || n > 8 {
			t.Errorf("100 changes in 100 ms were %d questions", n)
		}
	})
}
