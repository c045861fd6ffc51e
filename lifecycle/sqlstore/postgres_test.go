package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/storetest"
	"keyway/lifecycle/storetest/pgtest"
)

func TestPostgresIsAStore(t *testing.T) {
	server := pgtest.Shared(t)
	storetest.Test(t, func(t *testing.T) (lifecycle.Store, lifecycle.Store) {
		dsn := server.DSN(server.Database(t))
		return openPostgres(t, Postgres{DSN: dsn}), openPostgres(t, Postgres{DSN: dsn})
	})
}

func openPostgres(t testing.TB, p Postgres) *Store {
	t.Helper()
	p.Unsafe = true // the shared server does not sync
	s, err := OpenPostgres(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// refused opens a database that must not be opened, and returns why.
func refused(t *testing.T, p Postgres) string {
	t.Helper()
	p.Unsafe = true
	s, err := OpenPostgres(context.Background(), p)
	if err == nil {
		_ = s.Close()
		t.Fatal("it was opened")
	}
	return err.Error()
}

func addClient(s *Store, name string) error {
	return s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: name}) }))
}

func hasClient(t *testing.T, s *Store, name string) bool {
	t.Helper()
	err := s.View(context.Background(), func(tx lifecycle.Tx) error { _, err := tx.Client(name); return err })
	if err != nil && !errors.Is(err, key.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestANewerPostgresSchemaIsRefused(t *testing.T) {
	server := pgtest.Shared(t)
	db := server.Database(t)
	openPostgres(t, Postgres{DSN: server.DSN(db)})
	server.SQL(t, db, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)")
	if said := refused(t, Postgres{DSN: server.DSN(db)}); !strings.Contains(said, "newer keyway") {
		t.Errorf("the message does not say what to do: %s", said)
	}
}

// Nodes that find an empty database at the same moment make its tables once.
func TestNodesMakeANewSchemaTogether(t *testing.T) {
	server := pgtest.Shared(t)
	dsn := server.DSN(server.Database(t))
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			s, err := OpenPostgres(context.Background(), Postgres{DSN: dsn, Unsafe: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := addClient(s, fmt.Sprint("c", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Every connection has what durability needs, even where the database's defaults are others.
func TestEveryPostgresConnectionIsDurable(t *testing.T) {
	server := pgtest.Shared(t)
	db := server.Database(t)
	for setting, value := range map[string]string{"synchronous_commit": "off", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0", "default_transaction_isolation": "'read committed'"} {
		server.SQL(t, "postgres", fmt.Sprintf("ALTER DATABASE %s SET %s = %s", db, setting, value))
	}
	s := openPostgres(t, Postgres{DSN: server.DSN(db)})
	err := s.Update(context.Background(), func(tx lifecycle.Tx) error {
		var level string
		err := tx.(*transaction).row("SHOW transaction_isolation").Scan(&level)
		if level != "serializable" {
			t.Errorf("changes are %s", level)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for pool, n := range map[*sql.DB]int{s.read: 8, s.write: maxWriters} {
		for range n { // held, so that each is another one
			c, err := pool.Conn(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for setting, want := range map[string]string{"synchronous_commit": "on", "idle_in_transaction_session_timeout": "5s", "lock_timeout": "10s"} {
				var got string
				if err := c.QueryRowContext(context.Background(), "SHOW "+setting).Scan(&got); err != nil || got != want {
					t.Errorf("%s is %q (%v), want %q", setting, got, err, want)
				}
			}
		}
	}
}

func TestAPostgresThatDoesNotSyncIsRefused(t *testing.T) {
	server := pgtest.Shared(t) // which does not
	s, err := OpenPostgres(context.Background(), Postgres{DSN: server.DSN(server.Database(t))})
	if err == nil {
		_ = s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "fsync") {
		t.Errorf("got %v, want that fsync is off", err)
	}
	openPostgres(t, Postgres{DSN: server.DSN(server.Database(t))})
	earnest := pgtest.New(t)
	if s, err = OpenPostgres(context.Background(), Postgres{DSN: earnest.DSN(earnest.Database(t))}); err != nil {
		t.Fatalf("a server that syncs: %v", err)
	}
	_ = s.Close()
}

// The password comes from its file, for each connection anew, and is in nothing that is said.
func TestThePasswordIsReadFromItsFile(t *testing.T) {
	server := pgtest.Shared(t)
	dsn, file := server.TCP(t, server.Database(t))
	var log bytes.Buffer
	p := Postgres{DSN: dsn, PasswordFile: file, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s := openPostgres(t, p)
	if err := addClient(s, "app"); err != nil {
		t.Fatal(err)
	}
	const wrong = "hunter2-which-is-wrong"
	if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	said := refused(t, p)
	if !strings.Contains(said, "password_file") {
		t.Errorf("a wrong password: %s", said)
	}
	if all := said + log.String() + fmt.Sprintf("%+v %#v", s, p); strings.Contains(all, wrong) || strings.Contains(all, pgtest.Password) {
		t.Errorf("a password is told: %s", all)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if said := refused(t, p); !strings.Contains(said, file) {
		t.Errorf("a file that is not there is not named: %s", said)
	}
	t.Setenv("PGPASSWORD", wrong)
	if said := refused(t, p); !strings.Contains(said, "PGPASSWORD") || strings.Contains(said, wrong) {
		t.Errorf("a password in the environment: %s", said)
	}
}

func TestADSNHasNoPasswordAndNoClearLink(t *testing.T) {
	const secret = "hunter2"
	for dsn, want := range map[string]error{
		"postgres://keyway@db.example/keyway?sslmode=verify-full": nil,
		"postgres://keyway@db.example/keyway?sslmode=disable":     nil,
		"postgres://keyway@127.0.0.1/keyway":                      nil,
		"host=/run/postgresql dbname=keyway":                      nil,
		"host=db.example dbname=keyway sslmode=require":           nil,
		"postgres://keyway:hunter2@127.0.0.1/keyway":              errDSNPassword,
		"postgres://keyway@127.0.0.1/keyway?password=hunter2":     errDSNPassword,
		"postgres://keyway@127.0.0.1/keyway?p%61ssword=hunter2":   errDSNPassword,
		"postgres://keyway@127.0.0.1/keyway?sslpassword=hunter2":  errDSNPassword,
		"host=127.0.0.1 password = hunter2":                       errDSNPassword,
		"password='hunter2'":                                      errDSNPassword,
		"postgres://keyway@db.example/keyway":                     errDSNClear,
		"postgres://keyway@db.example/keyway?sslmode=prefer":      errDSNClear,
		"postgres://keyway@127.0.0.1,db.example/keyway":           errDSNClear,
		"postgres://hunter2@127.0.0.1:hunter2/keyway":             errDSN,
		"hunter2": errDSN,
		"postgres://keyway@127.0.0.1:5432/keyway?sslmode=verify-full&port=abc": errDSN,
	} {
		err := CheckDSN(dsn)
		if !errors.Is(err, want) || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %v", dsn, err, want)
		}
	}
}

func TestWhatIsWrongInADSNIsTold(t *testing.T) {
	for dsn, want := range map[string]string{"host=127.0.0.1 sslmode=hunter2": "sslmode", "host=127.0.0.1 sslmode=verify-ca sslrootcert=/nowhere/ca.pem": "/nowhere/ca.pem"} {
		if err := CheckDSN(dsn); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

// A node that stands still in the middle of a change does not hold up the others for long, and does nothing by halves when it goes on.
func TestANodeThatStandsStillIsPassed(t *testing.T) {
	server := pgtest.Shared(t)
	dsn := server.DSN(server.Database(t))
	paused := openPostgres(t, Postgres{DSN: dsn, standing: 200 * time.Millisecond})
	other := openPostgres(t, Postgres{DSN: dsn})
	runs := 0
	err := paused.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
		runs++
		if err := tx.InsertClient(key.Client{Name: "slow"}); err != nil {
			return err
		}
		if runs > 1 {
			return nil
		}
		if err := addClient(other, "quick"); err != nil { // waits for the epoch until the server ends the first transaction
			t.Error(err)
		}
		_, err := tx.Client("slow")
		return err
	}))
	if err != nil || runs != 2 {
		t.Errorf("after %d runs: %v", runs, err)
	}
	if !hasClient(t, other, "quick") || !hasClient(t, other, "slow") {
		t.Error("one of two changes is missing")
	}
}
