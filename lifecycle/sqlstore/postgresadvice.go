package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sqlstates says what errors of PostgreSQL mean for doing the transaction again, by code
// (https://www.postgresql.org/docs/current/errcodes-appendix.html). Those of class 08 are a lost link.
var sqlstates = map[string]trouble{
	"40001": conflict, // serialization_failure
	"40P01": conflict, // deadlock_detected
	"23505": perhaps,  // unique_violation: somebody else was first, and the second run sees that
	"25P02": perhaps,  // in_failed_sql_transaction: an error before this one was overlooked
	"25P03": lost,     // idle_in_transaction_session_timeout
	"55P03": conflict, // lock_not_available
	"57P01": lost,     // admin_shutdown
	"57P02": lost,     // crash_shutdown
	"57P03": lost,     // cannot_connect_now
	"57P05": lost,     // idle_session_timeout
	"53300": lost,     // too_many_connections
}

// troublePostgres classifies an error. What did not come from the database or the link to it is an answer.
func troublePostgres(err error) trouble {
	var e *pgconn.PgError
	var network net.Error
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return conflict // an error before this one was overlooked
	case errors.As(err, &e):
		if strings.HasPrefix(e.Code, "08") {
			return lost
		}
		return sqlstates[e.Code]
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &connect):
		return noTrouble
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, driver.ErrBadConn), errors.Is(err, pgconn.ErrConnClosed), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return lost
	}
	return noTrouble
}

// unsurePostgres reports whether a commit that failed with err may have taken place. An error that leaves the session alive says
// that it has not; a session's last words may come after the commit. What pgx says about being safe to retry is not believed: where the
// answer to a commit is lost it says "conn closed", as if nothing had been sent.
func unsurePostgres(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.SeverityUnlocalized != "ERROR"
	}
	return !errors.Is(err, pgx.ErrTxCommitRollback) && !errors.Is(err, sql.ErrTxDone)
}

// postgresAdvice says what to do about errors that a person has to deal with.
var postgresAdvice = map[string]string{
	"28P01": "the password was refused: see password_file",
	"28000": "the server does not let this user in: see its pg_hba.conf",
	"3D000": "there is no such database: make it (CREATE DATABASE … OWNER …)",
	"42501": "the user may not do this: make it the owner of the database",
	"53100": "the server's disk is full: make room on it",
	"53300": "the server has no connection left: raise its max_connections, or lower max_connections here",
	"25006": "the server cannot be written to: is it a standby? Name all servers, with target_session_attrs=read-write",
	"57P03": "the server is starting or shutting down",
}

// advisePostgres adds the advice to an error of PostgreSQL, and leaves every other as it is.
func advisePostgres(err error) error {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		if a, ok := postgresAdvice[e.Code]; ok {
			return fmt.Errorf("%s (%w)", a, err)
		}
	}
	return err
}
