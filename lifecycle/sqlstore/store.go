// Package sqlstore keeps the lifecycle's state in a SQL database: SQLite,
// embedded, is the default, and PostgreSQL lets several nodes share one store.
// There is one set of queries; what the databases do differently is a dialect.
// It is the one package that imports database drivers.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
)

const (
	// tries bounds how often a transaction is run when others keep changing what it reads.
	tries = 12
	// commitTime is how long a commit may take that was begun: it is not cut off by its caller's deadline, because then nobody would
	// know its outcome.
	commitTime = 10 * time.Second
)

// Store is a lifecycle.Store on SQLite or PostgreSQL. It is safe for concurrent use.
type Store struct {
	read    *sql.DB
	write   *sql.DB
	dialect *dialect
	feed    *feed // nil where the database tells nobody of changes
	node    audit.Name
}

var (
	_ lifecycle.Store   = (*Store)(nil)
	_ lifecycle.Watcher = (*Store)(nil)
)

// Close closes the database.
func (s *Store) Close() error {
	var err error
	if s.feed != nil {
		s.feed.close()
	}
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	return err
}

// View runs f in a read-only transaction.
func (s *Store) View(ctx context.Context, f func(lifecycle.Tx) error) error {
	return s.again(ctx, func(int) error {
		tx, err := s.read.BeginTx(ctx, s.dialect.view)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		defer func() { _ = tx.Rollback() }()
		return f(&transaction{ctx: ctx, tx: tx, dialect: s.dialect})
	})
}

// Update runs f in one serialisable transaction. If f changed what gateways must hear of, the epoch is raised in it.
func (s *Store) Update(ctx context.Context, f func(lifecycle.Tx) error) error {
	var t *transaction
	err := s.again(ctx, func(n int) error {
		t = &transaction{ctx: ctx, dialect: s.dialect, writable: true, node: s.node}
		return s.update(t, n, f)
	})
	if err == nil && t.erased && s.dialect.erased != nil {
		s.dialect.erased(ctx, s.write)
	}
	return err
}

// update runs f once. n counts the runs before this one.
func (s *Store) update(t *transaction, n int, f func(lifecycle.Tx) error) error {
	ctx := t.ctx
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() { _ = conn.Close() }()
	// The transaction ends with ctx until its commit begins, and not after.
	during, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	if t.tx, err = conn.BeginTx(during, s.dialect.update); err != nil {
		return fmt.Errorf("store: %w", because(ctx, err))
	}
	defer func() { _ = t.tx.Rollback() }()
	first := s.dialect.among
	if n > 0 {
		first = s.dialect.alone
	}
	if first != "" {
		if _, err := t.tx.ExecContext(ctx, first); err != nil {
			return fmt.Errorf("store: %w", because(ctx, err))
		}
	}
	if err := f(t); err != nil {
		return because(ctx, err)
	}
	if t.changed && !t.appended {
		return lifecycle.ErrUnaudited
	}
	if !stop() {
		return fmt.Errorf("store: %w", context.Cause(ctx))
	}
	late := time.AfterFunc(commitTime, cancel)
	defer late.Stop()
	err = t.tx.Commit()
	switch {
	case err == nil:
		return nil
	case t.wrote && s.dialect.unsure(err):
		return fmt.Errorf("%w (%w)", lifecycle.ErrOutcomeUnknown, err)
	}
	return fmt.Errorf("store: %w", err)
}

// because says that ctx has ended where that is what an error comes from: drivers tell of closed connections then.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}

// again runs a transaction until it succeeds, fails for good, or has been tried often enough.
func (s *Store) again(ctx context.Context, run func(n int) error) error {
	repeated := map[trouble]int{}
	for n := 0; ; n++ {
		err := run(n)
		if err == nil || errors.Is(err, lifecycle.ErrOutcomeUnknown) {
			return err
		}
		what := s.dialect.trouble(err)
		if ctx.Err() != nil || what == noTrouble {
			return s.dialect.advise(err)
		}
		repeated[what]++
		if n+1 < tries && repeated[what] <= patience[what] {
			if pause(ctx, n) {
				continue
			}
			return s.dialect.advise(err)
		}
		if what == perhaps {
			return s.dialect.advise(err)
		}
		return fmt.Errorf("%w: %w", lifecycle.ErrUnavailable, s.dialect.advise(err))
	}
}

// pause waits before the run after the nth: a little longer each time, and not as long as others who wait. It returns false when ctx ended.
func pause(ctx context.Context, n int) bool {
	d := min(2*time.Millisecond<<n, 250*time.Millisecond)
	t := time.NewTimer(time.Millisecond + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
