// Package sqlstore keeps the lifecycle's state in a SQL database: SQLite,
// embedded, is the default. It is the one package that imports database drivers.
package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"keyway/lifecycle"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is a lifecycle.Store on SQLite. Several processes on one machine may share the file.
type Store struct {
	read  *sql.DB
	write *sql.DB // one connection: SQLite has one writer anyway, and waiting here is fairer than in its lock
}

var _ lifecycle.Store = (*Store)(nil)

// Open opens the database file at path, makes it (mode 0600) when it is not there, and brings
// its schema up to date. A schema newer than this program is refused.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := makeFile(path); err != nil {
		return nil, fmt.Errorf("store %s: %w: give a directory that exists and that this user may write to", path, err)
	}
	write, err := sql.Open("sqlite", dsn(path, "immediate"))
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn(path, "deferred"))
	if err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	read.SetMaxOpenConns(4)
	read.SetMaxIdleConns(4)
	s := &Store{read: read, write: write}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", path, err), s.Close())
	}
	return s, nil
}

// makeFile makes the file with its mode before SQLite would make it with the umask's.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func dsn(path, lock string) string {
	q := url.Values{"_txlock": {lock}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"}}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

func (s *Store) prepare(ctx context.Context) error {
	// Read back: a file system that cannot do WAL answers with another mode and no error.
	for _, want := range []struct{ pragma, value string }{{"journal_mode", "wal"}, {"synchronous", "2"}} {
		var got string
		if err := s.write.QueryRowContext(ctx, "PRAGMA "+want.pragma).Scan(&got); err != nil {
			return err
		}
		if got != want.value {
			return fmt.Errorf("the database's %s is %q and cannot be made %q; is it on a network file system?", want.pragma, got, want.value)
		}
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.write, dir)
	if err != nil {
		return err
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; have > newest {
		return fmt.Errorf("its schema is version %d and this program knows only %d: it was used by a newer keyway, so run that one", have, newest)
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// View runs f in a read-only transaction.
func (s *Store) View(ctx context.Context, f func(lifecycle.Tx) error) error {
	tx, err := s.read.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return f(&transaction{ctx: ctx, tx: tx})
}

// Update runs f in one serialisable transaction. If f changed what gateways must hear of, the epoch is raised in it.
func (s *Store) Update(ctx context.Context, f func(lifecycle.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	t := &transaction{ctx: ctx, tx: tx, writable: true}
	if err := f(t); err != nil {
		return err
	}
	if t.changed {
		if _, err := tx.ExecContext(ctx, "UPDATE epoch SET epoch = epoch + 1"); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}
