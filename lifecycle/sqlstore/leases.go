package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"keyway/lifecycle"
)

// now reads the database's clock, in milliseconds since 1970.
func (t *transaction) now() (ms int64, err error) {
	if t.dialect.clock == "" {
		return time.Now().UnixMilli(), nil
	}
	err = t.row(t.dialect.clock).Scan(&ms)
	return ms, err
}

func (t *transaction) AcquireLease(name, holder string, ttl time.Duration) (lifecycle.Lease, error) {
	l := lifecycle.Lease{Name: name, Holder: holder}
	now, err := t.now()
	if err != nil {
		return l, err
	}
	err = t.returning(`INSERT INTO leases (name, holder, epoch, expires) VALUES (?,?,1,?)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = leases.epoch + 1, expires = excluded.expires WHERE leases.expires <= ? RETURNING epoch`,
		name, holder, now+ttl.Milliseconds(), now).Scan(&l.Epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return l, fmt.Errorf("%s: %w", name, lifecycle.ErrLeaseHeld)
	}
	return l, err
}

func (t *transaction) RenewLease(l lifecycle.Lease, ttl time.Duration) error {
	now, err := t.now()
	if err != nil {
		return err
	}
	return t.held(l, "UPDATE leases SET expires = ? WHERE name = ? AND holder = ? AND epoch = ? AND expires > ?", now+ttl.Milliseconds(), l.Name, l.Holder, l.Epoch, now)
}

func (t *transaction) ReleaseLease(l lifecycle.Lease) error {
	return t.held(l, "UPDATE leases SET expires = 0 WHERE name = ? AND holder = ? AND epoch = ?", l.Name, l.Holder, l.Epoch)
}

// held runs a change of a lease, which must be its holder's still.
func (t *transaction) held(l lifecycle.Lease, query string, args ...any) error {
	n, err := t.quietly("lease "+l.Name, query, args...)
	if err == nil && n == 0 {
		return fmt.Errorf("%s: %w", l, lifecycle.ErrLeaseLost)
	}
	return err
}

func (t *transaction) Fenced(l lifecycle.Lease) error {
	if !t.writable {
		return errReadOnly // a snapshot cannot hold a lease up
	}
	var n int
	err := t.row("SELECT 1 FROM leases WHERE name = ? AND holder = ? AND epoch = ?"+t.dialect.share, l.Name, l.Holder, l.Epoch).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", l, lifecycle.ErrLeaseLost)
	}
	return err
}
