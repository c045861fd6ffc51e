package sqlstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/storetest/pgtest"
)

func takeLease(s *Store, holder string, ttl time.Duration) (l lifecycle.Lease, err error) {
	err = s.Update(context.Background(), func(tx lifecycle.Tx) error { l, err = tx.AcquireLease("manager", holder, ttl); return err })
	return l, err
}

// A node whose clock is a hundred years ahead does not take a lease that the database's clock says is held, and renews its own by that clock.
func TestTheClockOfANodeDoesNotMatter(t *testing.T) {
	server := pgtest.Shared(t)
	dsn := server.DSN(server.Database(t))
	right := openPostgres(t, Postgres{DSN: dsn})
	held, err := takeLease(right, "right", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ahead := func(f func(*Store)) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(100 * 365 * 24 * time.Hour) // a clock of its own, which begins in 2000
			s, err := OpenPostgres(context.Background(), Postgres{DSN: dsn, Unsafe: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			f(s)
		})
	}
	ahead(func(s *Store) {
		if l, err := takeLease(s, "ahead", time.Hour); !errors.Is(err, lifecycle.ErrLeaseHeld) {
			t.Errorf("a node that is ahead took the lease: %+v, %v", l, err)
		}
	})
	if err := right.Update(context.Background(), func(tx lifecycle.Tx) error { return tx.ReleaseLease(held) }); err != nil {
		t.Fatal(err)
	}
	ahead(func(s *Store) {
		if _, err := takeLease(s, "ahead", 50*time.Millisecond); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(100 * time.Millisecond)
	if l, err := takeLease(right, "right", time.Hour); err != nil || l.Epoch != 3 {
		t.Errorf("what a node that was ahead had taken for 50 ms: %+v, %v", l, err)
	}
}

// A leader renews its lease while a long change of its own is fenced by it.
func TestARenewalDoesNotWaitForWhatIsFenced(t *testing.T) {
	server := pgtest.Shared(t)
	dsn := server.DSN(server.Database(t))
	s, other := openPostgres(t, Postgres{DSN: dsn}), openPostgres(t, Postgres{DSN: dsn})
	l, err := takeLease(s, "s", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	err = s.Update(context.Background(), func(tx lifecycle.Tx) error {
		runs++
		if err := tx.Fenced(l); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := other.Update(ctx, func(tx lifecycle.Tx) error { return tx.RenewLease(l, time.Hour) }); err != nil {
			t.Errorf("renewing: %v", err)
		}
		return tx.Fenced(l) // again, on the row as it was
	})
	if err != nil || runs != 1 {
		t.Errorf("after %d runs: %v", runs, err)
	}
}
