package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// migrate brings the schema up to date; the caller sees to it that nobody else does so too. A schema newer than this program is
// refused: it would write what the newer one does not expect.
func migrate(ctx context.Context, d goose.Dialect, db *sql.DB) error {
	p, err := provider(d, db)
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

// current returns nil where the schema is this program's, and changes nothing.
func current(ctx context.Context, d goose.Dialect, db *sql.DB) error {
	p, err := provider(d, db)
	if err != nil {
		return err
	}
	// Asked by hand: goose would make its table.
	var have int64
	if err := db.QueryRowContext(ctx, "SELECT MAX(version_id) FROM goose_db_version").Scan(&have); err != nil {
		return fmt.Errorf("it is no store of keyway's: %w", err)
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; have != newest {
		return fmt.Errorf("its schema is version %d and this program's is %d: use the keyway that runs on it", have, newest)
	}
	return nil
}

func provider(d goose.Dialect, db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, map[goose.Dialect]string{goose.DialectSQLite3: "migrations/sqlite", goose.DialectPostgres: "migrations/postgres"}[d])
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(d, db, dir)
}

// lock keeps other processes from preparing a database in dir at the same time: two that both find it empty would both
// make its tables. The lock ends with the process at the latest.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = d.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			_ = d.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			_ = d.Close()
			return nil, fmt.Errorf("another process is preparing a database in %s and does not come to an end: %w", dir, ctx.Err())
		}
	}
}
