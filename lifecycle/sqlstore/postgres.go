package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"keyway/lifecycle"
)

// Postgres says how a PostgreSQL database is reached.
type Postgres struct {
	// DSN is a URL (postgres://user@host:port/database?sslmode=verify-full) or key=value pairs, without a password. What it leaves out
	// comes from a service file, ~/.pgpass and PG… variables, as libpq has it.
	DSN string
	// PasswordFile holds the password; it is read for every connection, so that a new one needs no restart. "" leaves it to .pgpass and
	// certificates.
	PasswordFile string
	// MaxConns bounds the connections that read. Default 8. Beside them at most 4 write and one listens.
	MaxConns int
	// AsIs refuses a schema that is not this program's, older or newer, instead of bringing it up to date.
	AsIs bool
	// Unsafe accepts a server that does not sync to its disk. For tests only.
	Unsafe bool
	Log    *slog.Logger

	// standing is how long a transaction of a node that stands still may hold up the others. Default 5 s.
	standing time.Duration
}

const (
	maxWriters  = 4
	connectTime = 5 * time.Second
	// deadLink is how long sent data may go unacknowledged before a link counts as lost.
	deadLink = 15 * time.Second
	// channel is what changes are told on.
	channel = "keyway"
	// migrating is the advisory lock that a node holds while it brings the schema up to date.
	migrating = 0x6b6579776179 // "keyway"
)

var postgresDialect = &dialect{
	numbered: true,
	view:     &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
	update:   &sql.TxOptions{Isolation: sql.LevelSerializable},
	raise:    "WITH raised AS (UPDATE epoch SET epoch = epoch + 1 RETURNING epoch) SELECT pg_notify('" + channel + "', epoch::text) FROM raised",
	// LOCK takes no snapshot: the transaction sees what those did that it waited for.
	among: "LOCK TABLE turn IN ROW SHARE MODE",
	alone: "LOCK TABLE turn IN EXCLUSIVE MODE",
	claim: " FOR UPDATE OF j SKIP LOCKED",
	// What the unique index holds, the epoch, stays as it is; the expiry may be changed by others.
	share: " FOR KEY SHARE",
	clock: "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
	sequences: []string{
		"SELECT setval(pg_get_serial_sequence('grants', 'id'), (SELECT COALESCE(MAX(id), 0) + 1 FROM grants), false)",
		"SELECT setval(pg_get_serial_sequence('jobs', 'id'), (SELECT COALESCE(MAX(id), 0) + 1 FROM jobs), false)",
	},
	learn:   "ANALYZE keys, versions",
	trouble: troublePostgres,
	unsure:  unsurePostgres,
	advise:  advisePostgres,
}

// OpenPostgres opens a PostgreSQL database and brings its schema up to date. A schema newer than this program is refused, and so is
// a server that does not keep what it has acknowledged. No error names the password.
func OpenPostgres(ctx context.Context, p Postgres) (*Store, error) {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if p.MaxConns == 0 {
		p.MaxConns = 8
	}
	if p.standing == 0 {
		p.standing = 5 * time.Second
	}
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	options := []stdlib.OptionOpenDB{stdlib.OptionBeforeConnect(p.password), stdlib.OptionAfterConnect(p.settings)}
	pool := func(n int) *sql.DB {
		db := stdlib.OpenDB(*cfg, options...)
		db.SetMaxOpenConns(n)
		db.SetMaxIdleConns(n)
		db.SetConnMaxIdleTime(5 * time.Minute)
		db.SetConnMaxLifetime(30 * time.Minute) // so that a node finds its way back after a fail-over
		return db
	}
	s := &Store{read: pool(p.MaxConns), write: pool(maxWriters), dialect: postgresDialect, node: lifecycle.HostNode()}
	s.feed = newFeed(func(ctx context.Context) (*pgx.Conn, error) {
		c := cfg.Copy()
		if err := p.password(ctx, c); err != nil {
			return nil, err
		}
		return pgx.ConnectConfig(ctx, c)
	})
	if err := s.preparePostgres(ctx, p); err != nil {
		if t := troublePostgres(err); t == lost {
			err = fmt.Errorf("%w: %w", lifecycle.ErrUnavailable, err)
		}
		return nil, errors.Join(fmt.Errorf("store: PostgreSQL at %s: %w", where(cfg), advisePostgres(err)), s.Close())
	}
	return s, nil
}

// where names the database, without user and password.
func where(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s, port %d, database %s", c.Host, c.Port, c.Database)
}

func (p *Postgres) config() (*pgx.ConnConfig, error) {
	if err := CheckDSN(p.DSN); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if os.Getenv("PGPASSWORD") != "" {
		return nil, errors.New("store: the environment has a PGPASSWORD, which every process of this user can read: put the password into a file and name that")
	}
	cfg, err := pgx.ParseConfig(p.DSN)
	if err != nil {
		return nil, fmt.Errorf("store: %w", unparsed(err))
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "keyway"
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTime
	}
	// A host that has vanished must not hold up whoever waits for its answer.
	dialer := &net.Dialer{
		Timeout:         cfg.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) (err error) {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			set := func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadLink.Milliseconds()))
			}
			return errors.Join(c.Control(set), err)
		},
	}
	cfg.DialFunc = dialer.DialContext
	return cfg, nil
}

// password reads the password anew.
func (p *Postgres) password(_ context.Context, c *pgx.ConnConfig) error {
	if p.PasswordFile == "" {
		return nil
	}
	b, err := os.ReadFile(p.PasswordFile)
	if err != nil {
		return fmt.Errorf("the database's password: %w", err)
	}
	c.Password = strings.TrimRight(string(b), "\r\n")
	return nil
}

// settings gives each connection what Keyway relies on, whatever the server's defaults are: a commit is acknowledged when it is on the
// disk; a node that is stopped in the middle of a transaction does not hold up the others for long; a client that has vanished is noticed; and a page of
// keys is found by its indexes: with the default price of a page all versions are read for it, which take longer the more there are.
func (p *Postgres) settings(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),
		set_config('idle_in_transaction_session_timeout', $1, false), set_config('lock_timeout', '10s', false),
		set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false),
		set_config('random_page_cost', '1.1', false)`,
		fmt.Sprintf("%dms", p.standing.Milliseconds()))
	return err
}

// preparePostgres checks that the server is what was asked for, and brings the schema up to date.
func (s *Store) preparePostgres(ctx context.Context, p Postgres) error {
	var version, encoding, fsync, pages, commit string
	var standby bool
	err := s.write.QueryRowContext(ctx, `SELECT current_setting('server_version'), current_setting('server_encoding'), current_setting('fsync'),
		current_setting('full_page_writes'), current_setting('synchronous_commit'), pg_is_in_recovery()`).Scan(&version, &encoding, &fsync, &pages, &commit, &standby)
	switch {
	case err != nil:
		return err
	case standby:
		return errors.New("this server is a standby, which cannot be written to: name the primary, or all of them with target_session_attrs=read-write")
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s: make one with ENCODING 'UTF8'", encoding)
	case !p.Unsafe && (fsync != "on" || pages != "on"):
		return fmt.Errorf("the server has fsync = %s and full_page_writes = %s: a power cut may lose keys that were acknowledged; turn both on", fsync, pages)
	case commit == "off":
		return errors.New("synchronous_commit is off and cannot be turned on: see which setting of the server, role or database forbids it")
	}
	if p.AsIs {
		return current(ctx, goose.DialectPostgres, s.write)
	}
	// The lock is in one connection, and goes with it should this process end.
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := conn.ExecContext(wait, "SET lock_timeout = 0"); err != nil {
		return err
	}
	if _, err := conn.ExecContext(wait, "SELECT pg_advisory_lock($1)", int64(migrating)); err != nil {
		return fmt.Errorf("waiting for another node that brings the schema up to date: %w", err)
	}
	defer func() { // the connection goes back to its pool
		ctx := context.WithoutCancel(ctx)
		_, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", int64(migrating))
		if err == nil {
			_, err = conn.ExecContext(ctx, "SET lock_timeout = '10s'")
		}
		if err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // not back into the pool as it is
		}
	}()
	if err := migrate(ctx, goose.DialectPostgres, s.write); err != nil {
		return err
	}
	return lifecycle.BeginLog(ctx, s)
}
