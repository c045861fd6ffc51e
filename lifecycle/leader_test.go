package lifecycle_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/sqlstore"
)

// race is several nodes that want to lead.
type race struct {
	t      *testing.T
	path   string
	mu     sync.Mutex
	leads  map[string]lifecycle.Lease // who leads just now
	causes map[string]error           // why each stopped last
	most   int
}

func (r *race) join(name string) (*switched, *lifecycle.Leader) {
	s, err := sqlstore.Open(context.Background(), r.path)
	must(r.t, err)
	r.t.Cleanup(func() { _ = s.Close() })
	sw := &switched{Store: s}
	return sw, lifecycle.NewLeader(lifecycle.LeaderConfig{Store: sw, Name: "manager", Lead: func(ctx context.Context, l lifecycle.Lease) {
		r.mu.Lock()
		r.leads[name] = l
		r.most = max(r.most, len(r.leads))
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		delete(r.leads, name)
		r.causes[name] = context.Cause(ctx)
		r.mu.Unlock()
	}})
}

// want says who leads, and under which epoch.
func (r *race) want(name string, epoch uint64) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.leads[name]; len(r.leads) != 1 || !ok || l.Epoch != epoch {
		r.t.Errorf("leaders %v, want %s under epoch %d", r.leads, name, epoch)
	}
}

func (r *race) nobody() {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.leads) != 0 {
		r.t.Errorf("leaders %v, want none", r.leads)
	}
}

func TestOneOfTwoNodesLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &race{t: t, path: filepath.Join(t.TempDir(), "keyway.db"), leads: map[string]lifecycle.Lease{}, causes: map[string]error{}}
		storeA, a := r.join("a")
		r.want("a", 1)
		storeB, b := r.join("b")
		time.Sleep(time.Hour)
		r.want("a", 1)

		// A node that loses its store stops before its lease runs out, and another one leads after that.
		storeA.off.Store(true)
		time.Sleep(13*time.Second + time.Millisecond) // TTL without margin, should it have been renewed just now
		r.nobody()
		if !errors.Is(r.causes["a"], lifecycle.ErrLeaseLost) {
			t.Errorf("a stopped because of %v", r.causes["a"])
		}
		time.Sleep(7 * time.Second)
		r.want("b", 2)
		storeA.off.Store(false)
		time.Sleep(time.Hour)
		r.want("b", 2)

		// A store that is away for a moment costs nothing.
		storeB.off.Store(true)
		time.Sleep(7 * time.Second)
		storeB.off.Store(false)
		time.Sleep(time.Minute)
		r.want("b", 2)

		// An orderly end gives the lease back at once.
		b.Close()
		r.nobody()
		time.Sleep(5*time.Second + time.Millisecond)
		r.want("a", 3)
		a.Close()
		if r.most != 1 {
			t.Errorf("%d led at once", r.most)
		}
	})
}

// Somebody who takes the lease away, as a node does that was awake while this one's machine stood still, ends leading at the next renewal.
func TestALeaderWhoseLeaseIsTakenStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &race{t: t, path: filepath.Join(t.TempDir(), "keyway.db"), leads: map[string]lifecycle.Lease{}, causes: map[string]error{}}
		s, a := r.join("a")
		r.want("a", 1)
		must(t, s.Store.Update(context.Background(), func(tx lifecycle.Tx) error {
			if err := tx.ReleaseLease(r.leads["a"]); err != nil {
				return err
			}
			_, err := tx.AcquireLease("manager", "another", time.Hour)
			return err
		}))
		time.Sleep(5*time.Second + time.Millisecond)
		r.nobody()
		if !errors.Is(r.causes["a"], lifecycle.ErrLeaseLost) {
			t.Errorf("it stopped because of %v", r.causes["a"])
		}
		a.Close()
	})
}

// A Lead that does not end keeps the node from leading twice, and one that ends by itself lets another node lead.
func TestLeadEndsBeforeItBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t)
		var mu sync.Mutex
		running, most, runs := 0, 0, 0
		l := lifecycle.NewLeader(lifecycle.LeaderConfig{Store: s, Name: "x", Lead: func(context.Context, lifecycle.Lease) {
			mu.Lock()
			running++
			runs++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Minute) // whatever its context says
			mu.Lock()
			running--
			mu.Unlock()
		}})
		time.Sleep(10*time.Minute + 30*time.Second)
		l.Close()
		if most != 1 || runs < 9 {
			t.Errorf("%d runs, %d at once", runs, most)
		}
	})
}
