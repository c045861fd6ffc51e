package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"keyway/lifecycle"
)

// sqliteDialect: there is one writer, which waits for the others' when it begins, so that nothing is ever in conflict.
var sqliteDialect = &dialect{
	raise:   "UPDATE epoch SET epoch = epoch + 1",
	trouble: func(error) trouble { return noTrouble },
	unsure:  func(error) bool { return false },
	advise:  adviseSQLite,
	erased:  truncate,
}

// Open opens the database file at path, makes it (mode 0600) when it is not there, and brings
// its schema up to date. A schema newer than this program is refused. Several processes on one machine may share the file.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := makeFile(path); err != nil {
		return nil, fmt.Errorf("store %s: %w: give a directory that exists and that this user may write to", path, err)
	}
	return open(ctx, path, func(s *Store) error {
		if err := migrate(ctx, goose.DialectSQLite3, s.write); err != nil {
			return err
		}
		return lifecycle.BeginLog(ctx, s)
	})
}

// OpenAsIs opens the database file at path, which must be there, and refuses a schema that is not this program's, older or newer,
// instead of bringing it up to date.
func OpenAsIs(ctx context.Context, path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return open(ctx, path, func(s *Store) error { return current(ctx, goose.DialectSQLite3, s.write) })
}

func open(ctx context.Context, path string, schema func(*Store) error) (*Store, error) {
	write, err := sql.Open("sqlite", dsn(path, "immediate"))
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	write.SetMaxOpenConns(1) // SQLite has one writer anyway, and waiting here is fairer than in its lock
	read, err := sql.Open("sqlite", dsn(path, "deferred"))
	if err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	read.SetMaxOpenConns(4)
	read.SetMaxIdleConns(4)
	s := &Store{read: read, write: write, dialect: sqliteDialect, node: lifecycle.HostNode()}
	if err := s.prepare(ctx, filepath.Dir(path), schema); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", path, adviseSQLite(err)), s.Close())
	}
	return s, nil
}

// makeFile makes the file with its mode before SQLite would make it with the umask's. A file that is there is not
// even opened: closing it again would take away every lock that this process has on it (POSIX locks work so).
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// dsn names the database with what every connection to it wants: secure_delete, because a destroyed key's blob must
// not stay in a free page.
func dsn(path, lock string) string {
	q := url.Values{"_txlock": {lock}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "secure_delete(ON)"}}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// prepare checks that the database is what was asked for, and then its schema.
func (s *Store) prepare(ctx context.Context, dir string, schema func(*Store) error) error {
	// Turning a new file to WAL does not wait for others who do the same, and neither does making its tables.
	unlock, err := lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	// Read back: a file system that cannot do WAL answers with another mode and no error.
	for _, want := range []struct{ pragma, value string }{{"journal_mode", "wal"}, {"synchronous", "2"}, {"foreign_keys", "1"}, {"secure_delete", "1"}} {
		var got string
		if err := s.write.QueryRowContext(ctx, "PRAGMA "+want.pragma).Scan(&got); err != nil {
			return err
		}
		if got != want.value {
			return fmt.Errorf("the database's %s is %q and cannot be made %q; is it on a network file system?", want.pragma, got, want.value)
		}
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	return schema(s)
}

// look reads the first page of every table, so that a damaged file is noticed as such and at once. Checking all
// of a large file would keep the program from starting.
func (s *Store) look(ctx context.Context) error {
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		var n int
		err := s.write.QueryRowContext(ctx, "SELECT 1 FROM "+strconv.Quote(t)+" LIMIT 1").Scan(&n)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	return nil
}

func (s *Store) tables(ctx context.Context) (out []string, err error) {
	rows, err := s.write.QueryContext(ctx, "SELECT name FROM sqlite_schema WHERE type = 'table'")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t string
		if err := rows.Scan(&t); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, rows.Err()
}

// truncate empties the write-ahead log, in which what was erased still stands. Where a reader is in the way the log
// is emptied after a later change; what is erased there is wrapped in any case.
func truncate(ctx context.Context, db *sql.DB) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, _ = db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
}
