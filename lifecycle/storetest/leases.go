package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

func acquire(s lifecycle.Store, holder string, ttl time.Duration) (l lifecycle.Lease, err error) {
	err = s.Update(context.Background(), func(tx lifecycle.Tx) error { l, err = tx.AcquireLease("manager", holder, ttl); return err })
	return l, err
}

func leases(t *testing.T, a, b lifecycle.Store) {
	ctx := context.Background()
	first, err := acquire(a, "a", time.Minute)
	if err != nil || first.Epoch != 1 || first.Holder != "a" || first.Name != "manager" {
		t.Fatalf("%+v, %v", first, err)
	}
	for _, holder := range []string{"b", "a"} { // not even twice
		if _, err := acquire(b, holder, time.Minute); !errors.Is(err, lifecycle.ErrLeaseHeld) {
			t.Errorf("%s takes a lease that is held: %v", holder, err)
		}
	}
	update(t, b, func(tx lifecycle.Tx) error { _, err := tx.AcquireLease("another", "b", time.Minute); return err })
	update(t, a, func(tx lifecycle.Tx) error { return tx.RenewLease(first, 50*time.Millisecond) })
	update(t, b, func(tx lifecycle.Tx) error { return tx.Fenced(first) })
	time.Sleep(100 * time.Millisecond)
	if err := a.Update(ctx, func(tx lifecycle.Tx) error { return tx.RenewLease(first, time.Minute) }); !errors.Is(err, lifecycle.ErrLeaseLost) {
		t.Errorf("a lease that ran out was renewed: %v", err)
	}
	second, err := acquire(b, "b", time.Minute)
	if err != nil || second.Epoch != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	lost := func(what string, f func(lifecycle.Tx) error) {
		t.Helper()
		if err := a.Update(ctx, f); !errors.Is(err, lifecycle.ErrLeaseLost) {
			t.Errorf("%s under a lost lease: %v", what, err)
		}
	}
	lost("renewing", func(tx lifecycle.Tx) error { return tx.RenewLease(first, time.Minute) })
	lost("giving back", func(tx lifecycle.Tx) error { return tx.ReleaseLease(first) })
	lost("a change", func(tx lifecycle.Tx) error {
		return errors.Join(tx.InsertClient(key.Client{Name: "late"}), tx.Fenced(first))
	})
	forged := second
	forged.Holder = "a"
	lost("a change", func(tx lifecycle.Tx) error { return tx.Fenced(forged) })
	view(t, b, func(tx lifecycle.Tx) error {
		if _, err := tx.Client("late"); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("what was fenced took place: %v", err)
		}
		return nil
	})
	update(t, b, func(tx lifecycle.Tx) error { return errors.Join(tx.Fenced(second), tx.ReleaseLease(second)) })
	if third, err := acquire(a, "a", time.Minute); err != nil || third.Epoch != 3 {
		t.Errorf("a lease that was given back: %+v, %v", third, err)
	}
}

// competing: of several who ask at once, one gets the lease.
func competing(t *testing.T, a, b lifecycle.Store) {
	got := make(chan lifecycle.Lease, 8)
	at(t, 8, func(i int) error {
		l, err := acquire([]lifecycle.Store{a, b}[i%2], string(rune('a'+i)), time.Minute)
		if err == nil {
			got <- l
		} else if errors.Is(err, lifecycle.ErrLeaseHeld) {
			err = nil
		}
		return err
	})
	if len(got) != 1 {
		t.Errorf("%d got the lease", len(got))
	}
}

// fenced: what is fenced has ended before anybody takes the lease over.
func fenced(t *testing.T, a, b lifecycle.Store) {
	l, err := acquire(a, "a", 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	change(t, a, func(tx lifecycle.Tx) error {
		if err := tx.Fenced(l); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		go func() {
			_, err := acquire(b, "b", time.Minute)
			taken <- err
		}()
		select {
		case err := <-taken:
			t.Errorf("the lease was taken over (%v) while its holder's change went on", err)
			taken <- err
		case <-time.After(200 * time.Millisecond):
		}
		return tx.InsertClient(key.Client{Name: "in-time"})
	})
	select {
	case err := <-taken:
		if err != nil {
			t.Errorf("taking over afterwards: %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the lease is not taken over")
	}
}
