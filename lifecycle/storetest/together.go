package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

// at runs f n times at once and reports what fails.
func at(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// together: what is read and changed in one transaction is changed by nobody else in between.
func together(t *testing.T, a, b lifecycle.Store) {
	const many, times = 8, 10
	ctx := context.Background()
	_, id := insert(t, a, "k")
	change(t, a, func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: "app"}) })
	before := epochOf(t, a)
	at(t, many, func(i int) error {
		s := []lifecycle.Store{a, b}[i%2]
		for range times {
			err := s.Update(ctx, func(tx lifecycle.Tx) error {
				c, err := tx.Client("app")
				if err != nil {
					return err
				}
				c.Burst++
				if _, err := tx.AddUses(id, 1); err != nil {
					return err
				}
				return noted(tx, tx.UpdateClient(*c))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	view(t, a, func(tx lifecycle.Tx) error {
		c, err := tx.Client("app")
		if err == nil && c.Burst != many*times {
			t.Errorf("%d of %d changes were kept", c.Burst, many*times)
		}
		return err
	})
	change(t, b, func(tx lifecycle.Tx) error {
		n, err := tx.AddUses(id, 0)
		if err == nil && n != many*times {
			t.Errorf("%d uses, want %d", n, many*times)
		}
		return err
	})
	if e := epochOf(t, b); e != before+many*times {
		t.Errorf("the epoch rose by %d, want %d", e-before, many*times)
	}
}

// slow: a change that takes its time gets done although others change what it reads all the while.
func slow(t *testing.T, a, b lifecycle.Store) {
	change(t, a, func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: "app"}) })
	more := func(s lifecycle.Store, wait time.Duration) error {
		return s.Update(context.Background(), func(tx lifecycle.Tx) error {
			c, err := tx.Client("app")
			if err != nil {
				return err
			}
			time.Sleep(wait)
			c.Burst++
			return noted(tx, tx.UpdateClient(*c))
		})
	}
	stop := make(chan struct{})
	var quick sync.WaitGroup
	n := 0
	quick.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := more(a, 0); err != nil {
				t.Error(err)
				return
			}
			n++
		}
	})
	for range 3 {
		if err := more(b, 50*time.Millisecond); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	quick.Wait()
	view(t, b, func(tx lifecycle.Tx) error {
		c, err := tx.Client("app")
		if err == nil && c.Burst != n+3 {
			t.Errorf("%d changes were kept, of %d quick ones and 3 slow ones", c.Burst, n)
		}
		return err
	})
}

// oneName: of several who find a name free and take it, one gets it, and the others see that it is taken.
func oneName(t *testing.T, a, b lifecycle.Store) {
	taken := errors.New("taken")
	var mu sync.Mutex
	got := 0
	at(t, 8, func(i int) error {
		err := []lifecycle.Store{a, b}[i%2].Update(context.Background(), func(tx lifecycle.Tx) error {
			if _, err := tx.Key("name"); err == nil {
				return taken
			} else if !errors.Is(err, key.ErrNotFound) {
				return err
			}
			return noted(tx, tx.InsertKey(key.Key{ID: key.NewID(), Name: "name", Algorithm: key.AES256, Pool: "default"}))
		})
		if errors.Is(err, taken) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		got++
		return err
	})
	if got != 1 {
		t.Errorf("%d got the name", got)
	}
}

// order: pages are in the order of Go's strings, whatever language the database sorts in.
func order(t *testing.T, a, b lifecycle.Store) {
	names := []string{"a-b", "a.b", "a0", "a_b", "ab", "a-c", "b", "a.a"}
	for _, n := range names {
		change(t, a, func(tx lifecycle.Tx) error {
			if err := tx.InsertClient(key.Client{Name: n}); err != nil {
				return err
			}
			if err := tx.PutMember(lifecycle.MemberRecord{Pool: "p", Name: n}); err != nil {
				return err
			}
			return tx.InsertKey(key.Key{ID: key.NewID(), Name: n, Algorithm: key.AES256, Pool: "default"})
		})
	}
	slices.Sort(names)
	view(t, b, func(tx lifecycle.Tx) error {
		var got []string
		for after := ""; ; {
			page, err := tx.Keys(after, 3)
			if err != nil {
				return err
			}
			for _, k := range page {
				got = append(got, k.Name)
			}
			if len(page) < 3 {
				break
			}
			after = page[2].Name
		}
		if !slices.Equal(got, names) {
			t.Errorf("keys in the order %v, want %v", got, names)
		}
		clients, err := tx.Clients()
		if err != nil {
			return err
		}
		members, err := tx.Members("p")
		if err != nil {
			return err
		}
		for i, n := range names {
			if clients[i].Name != n || members[i].Name != n {
				t.Errorf("client %d is %s and member %s, want %s", i, clients[i].Name, members[i].Name, n)
			}
		}
		return nil
	})
}

// told: whoever watches hears of a change by somebody else, of none that gateways need not hear of, and hears the end.
func told(t *testing.T, a, b lifecycle.Store) {
	w, ok := b.(lifecycle.Watcher)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := w.Watch(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	_, id := insert(t, a, "k")
	hear := func(what string) {
		t.Helper()
		select {
		case _, open := <-c:
			if !open {
				t.Errorf("%s: the channel was closed", what)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: nothing was heard", what)
		}
	}
	hear("a new key")
	silent := func(what string) {
		t.Helper()
		select {
		case <-c:
			t.Errorf("%s was told of", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
	update(t, a, func(tx lifecycle.Tx) error { _, err := tx.AddUses(id, 1); return err })
	_ = a.Update(context.Background(), func(tx lifecycle.Tx) error { return errors.Join(tx.DeleteClient("none"), errors.New("no")) })
	silent("counting uses, or what failed,")
	change(t, b, func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: "c"}) })
	hear("one's own change")
	cancel()
	select {
	case _, open := <-c:
		if open {
			t.Error("something was heard that was not")
		}
	case <-time.After(5 * time.Second):
		t.Error("the channel stays open")
	}
}

// ended: a context that ends while the transaction runs ends it, and the error says so.
func ended(t *testing.T, a, b lifecycle.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	runs := 0
	err := a.Update(ctx, Noted(func(tx lifecycle.Tx) error {
		runs++
		if err := tx.InsertKey(key.Key{ID: key.NewID(), Name: "late", Algorithm: key.AES256, Pool: "default"}); err != nil {
			return err
		}
		cancel()
		return nil
	}))
	if !errors.Is(err, context.Canceled) || errors.Is(err, lifecycle.ErrOutcomeUnknown) || runs != 1 {
		t.Errorf("after %d runs: %v", runs, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err = a.Update(short, func(tx lifecycle.Tx) error {
		<-short.Done()
		_, err := tx.Key("late")
		return fmt.Errorf("look-up: %w", err)
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: %v", err)
	}
	view(t, b, func(tx lifecycle.Tx) error {
		if _, err := tx.Key("late"); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("what was given up is there: %v", err)
		}
		return nil
	})
	change(t, a, func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: "after"}) })
}
