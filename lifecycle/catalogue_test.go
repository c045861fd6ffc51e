package lifecycle_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/lifecycle/storetest"
)

// switched is a store that can be cut off.
type switched struct {
	lifecycle.Store
	off atomic.Bool
}

func (s *switched) View(ctx context.Context, f func(lifecycle.Tx) error) error {
	if s.off.Load() {
		return errBoom
	}
	return s.Store.View(ctx, f)
}

func (s *switched) Update(ctx context.Context, f func(lifecycle.Tx) error) error {
	if s.off.Load() {
		return errBoom
	}
	return s.Store.Update(ctx, f)
}

func newCatalogue(t *testing.T, cfg lifecycle.CatalogueConfig) *lifecycle.Catalogue {
	t.Helper()
	c, err := lifecycle.NewCatalogue(context.Background(), cfg)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// putKey puts an active key with one version into a store, without any token.
func putKey(t testing.TB, s lifecycle.Store, name string, uses uint64) key.ID {
	t.Helper()
	id := key.NewID()
	must(t, s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
		k := key.Key{ID: key.NewID(), Name: name, Algorithm: key.AES256, Usages: key.Wrap | key.Unwrap, Pool: "default", Created: time.Now()}
		if err := tx.InsertKey(k); err != nil {
			return err
		}
		if err := tx.InsertVersion(lifecycle.VersionRow{ID: id, KeyID: k.ID, Number: 1, State: key.Active, Created: k.Created}); err != nil {
			return err
		}
		if _, err := tx.AddUses(id, uses); err != nil {
			return err
		}
		return tx.SetPrimary(k.ID, 1)
	})))
	return id
}

// What one process changes, another one's catalogue knows after one poll, and not only when it is asked.
func TestTheCatalogueFollowsOtherProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keyway.db")
		open := func() *sqlstore.Store {
			s, err := sqlstore.Open(context.Background(), path)
			must(t, err)
			t.Cleanup(func() { _ = s.Close() })
			return s
		}
		c := newCatalogue(t, lifecycle.CatalogueConfig{Store: open()})
		m := lifecycle.NewManager(lifecycle.ManagerConfig{Store: open()})
		before := c.Epoch()
		token, err := m.CreateClient(context.Background(), "test", key.Client{Name: "app"})
		must(t, err)
		if _, ok := c.Directory().ByToken(token); ok {
			t.Error("the catalogue knew it before it was told: the test shows nothing")
		}
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		if _, ok := c.Directory().ByToken(token); !ok {
			t.Error("a client is not known 300 ms after it was made")
		}
		if c.Epoch() <= before {
			t.Errorf("the epoch stayed at %d", before)
		}
		must(t, m.DeleteClient(context.Background(), "test", "app"))
		must(t, c.Refresh(context.Background()))
		if _, ok := c.Directory().ByToken(token); ok {
			t.Error("a deleted client is known after Refresh")
		}
	})
}

func TestACatalogueWithoutItsStoreServesForAWhileAndThenFailsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switched{Store: openStore(t)}
		putKey(t, s, "k", 0)
		c := newCatalogue(t, lifecycle.CatalogueConfig{Store: s})
		s.off.Store(true)
		time.Sleep(15 * time.Minute)
		if err := c.Fresh(); err != nil {
			t.Errorf("after 15 min: %v", err)
		}
		if c.Directory() == nil {
			t.Error("the directory is gone")
		}
		time.Sleep(time.Second)
		if err := c.Fresh(); !errors.Is(err, key.ErrStale) {
			t.Errorf("after 15 min and 1 s: %v, want ErrStale", err)
		}
		s.off.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if err := c.Fresh(); err != nil {
			t.Errorf("with the store back: %v", err)
		}
	})
}

func TestACatalogueNeedsItsStoreToStart(t *testing.T) {
	s := &switched{Store: openStore(t)}
	s.off.Store(true)
	if c, err := lifecycle.NewCatalogue(context.Background(), lifecycle.CatalogueConfig{Store: s}); !errors.Is(err, errBoom) {
		t.Errorf("%v, %v", c, err)
	}
}

func TestUsesAreReservedUpToTheLimit(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	c := newCatalogue(t, lifecycle.CatalogueConfig{Store: s, Poll: time.Hour})
	const limit = 1 << 30
	id := putKey(t, s, "k", limit-1500)
	f := func(n, want uint64) {
		t.Helper()
		got, err := c.Reserve(ctx, id, n)
		if got != want || (err == nil) != (want > 0) || err != nil && !errors.Is(err, key.ErrState) {
			t.Errorf("Reserve(%d) = %d, %v; want %d", n, got, err, want)
		}
	}
	f(1000, 1000)
	f(1000, 500)
	f(1000, 0)
	f(1, 0)
	if _, err := c.Reserve(ctx, key.NewID(), 1); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("a version that is not there: %v", err)
	}
	exact := putKey(t, s, "exact", limit-10)
	if got, err := c.Reserve(ctx, exact, 10); got != 10 || err != nil {
		t.Errorf("the last ten: %d, %v", got, err)
	}
	if got, err := c.Reserve(ctx, exact, 1); got != 0 || !errors.Is(err, key.ErrState) {
		t.Errorf("one more than the limit: %d, %v", got, err)
	}
}

func TestTheCatalogueReadsKeys(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	id := putKey(t, s, "k", 0)
	c := newCatalogue(t, lifecycle.CatalogueConfig{Store: s, Poll: time.Hour})
	if v, err := c.Key(ctx, key.Ref{Name: "k"}); err != nil || v.ID != id {
		t.Errorf("%+v, %v", v, err)
	}
	if k, err := c.Describe(ctx, "k"); err != nil || len(k.Versions) != 1 {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := c.Key(ctx, key.Ref{Name: "none"}); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
