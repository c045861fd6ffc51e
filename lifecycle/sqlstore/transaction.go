package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// transaction is a lifecycle.Tx.
type transaction struct {
	ctx      context.Context
	tx       *sql.Tx
	dialect  *dialect
	writable bool
	wrote    bool // anything
	raised   bool // the epoch, for something that gateways must hear of
	erased   bool // material
	changed  bool // something of which the log must tell
	appended bool // to the log
	node     audit.Name
	tree     *audit.Tree // of the log with what was appended; nil before
}

var errReadOnly = errors.New("store: a change in a read-only transaction")

// scanner is a row, or why there is none.
type scanner interface{ Scan(dest ...any) error }

type noRow struct{ err error }

func (n noRow) Scan(...any) error { return n.err }

func (t *transaction) row(query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(t.ctx, t.dialect.bind(query), args...)
}

func (t *transaction) rows(query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(t.ctx, t.dialect.bind(query), args...)
}

// returning runs a change that returns a row and that gateways need not hear of.
func (t *transaction) returning(query string, args ...any) scanner {
	if !t.writable {
		return noRow{errReadOnly}
	}
	t.wrote = true
	return t.row(query, args...)
}

// raise raises the epoch, once. It comes before the change: transactions that raise it then meet there, and not in each other's rows.
func (t *transaction) raise() error {
	if t.raised {
		return nil
	}
	if _, err := t.quietly("epoch", t.dialect.raise); err != nil {
		return err
	}
	t.raised = true
	return nil
}

// exec runs a change that gateways must hear of and that the log must tell of.
func (t *transaction) exec(what, query string, args ...any) (int64, error) {
	t.changed = true
	return t.loudly(what, query, args...)
}

// loudly runs a change that gateways must hear of. Its caller says whether the log must tell of it.
func (t *transaction) loudly(what, query string, args ...any) (int64, error) {
	if err := t.raise(); err != nil {
		return 0, err
	}
	return t.quietly(what, query, args...)
}

// quietly runs a change that gateways need not hear of, and returns how many rows it touched.
func (t *transaction) quietly(what, query string, args ...any) (int64, error) {
	if !t.writable {
		return 0, errReadOnly
	}
	t.wrote = true
	r, err := t.tx.ExecContext(t.ctx, t.dialect.bind(query), args...)
	if err != nil {
		return 0, fmt.Errorf("store: %s: %w", what, err)
	}
	return r.RowsAffected()
}

// one runs a change that must touch something.
func (t *transaction) one(what, query string, args ...any) error {
	n, err := t.exec(what, query, args...)
	if err == nil && n == 0 {
		return fmt.Errorf("%s: %w", what, key.ErrNotFound)
	}
	return err
}
