package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/sqlstore"
	"keyway/lifecycle/storetest/pgtest"
)

// carry puts what a dev has made, but for its keys, into another store: the KEKs that its tokens hold, its client and its grants.
func carry(t *testing.T, from string, to *sqlstore.Store) {
	t.Helper()
	ctx := context.Background()
	dev, err := sqlstore.Open(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	err = dev.View(ctx, func(old lifecycle.Tx) error {
		return to.Update(ctx, func(tx lifecycle.Tx) error {
			for _, kind := range []lifecycle.KEKKind{lifecycle.KEKCustody, lifecycle.KEKPool, lifecycle.KEKRoot} {
				keks, err := old.KEKs(kind)
				if err != nil {
					return err
				}
				for _, k := range keks {
					if err := tx.PutKEK(k); err != nil {
						return err
					}
				}
			}
			clients, err := old.Clients()
			if err != nil {
				return err
			}
			for _, c := range clients {
				if err := tx.InsertClient(c); err != nil {
					return err
				}
			}
			grants, err := old.Grants()
			if err != nil {
				return err
			}
			for _, g := range grants {
				if _, err := tx.InsertGrant(g); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onPostgres writes a configuration for the tokens of a dev, with a store on a server.
func onPostgres(t *testing.T, dir string, server *pgtest.Server, database string) string {
	t.Helper()
	dsn, password := server.TCP(t, database)
	file := nodeConfig(t, onEmbedded, dir, plainNode)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sqlite := fmt.Sprintf("store: {path: %s}", filepath.Join(dir, "keyway.db"))
	text := strings.Replace(string(b), sqlite, fmt.Sprintf("store: {postgres: {dsn: '%s', password_file: %s}}", dsn, password), 1)
	if text == string(b) {
		t.Fatalf("the configuration has no %s", sqlite)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// command runs one of the operators' commands against a node.
func (r *running) command(args ...string) (answer map[string]any, said string) {
	r.t.Helper()
	c := exec.Command(program, append(args, "--admin-url", r.admin, "--admin-token-file", filepath.Join(r.dir, "admin-token"), "--output", "json")...)
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return nil, errs.String() + err.Error()
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		r.t.Fatalf("keyway %v: %q: %v", args, out, err)
	}
	return answer, ""
}

// Two nodes on one PostgreSQL: what is ordered on one is so on the other, they serve on while the database is away, and when it is back they
// take orders again.
func TestTwoNodesOnOnePostgres(t *testing.T) {
	server := pgtest.New(t)
	database := server.Database(t)
	dir := newDevDir(t, onEmbedded)
	store, err := sqlstore.OpenPostgres(context.Background(), sqlstore.Postgres{DSN: server.DSN(database)})
	if err != nil {
		t.Fatal(err)
	}
	carry(t, filepath.Join(dir, "keyway.db"), store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	config := onPostgres(t, dir, server, database)
	a, b := startServe(t, dir, config), startServe(t, dir, config)
	a.readyz()
	b.readyz()
	order := func(r *running, args ...string) {
		t.Helper()
		if _, said := r.command(args...); said != "" {
			t.Fatalf("keyway %v: %s", args, said)
		}
	}
	wraps := func(r *running, name string) int { status, _ := r.post(name+"/wrap", manyWrap); return status }
	soon := func(r *running, name string, want int) {
		t.Helper()
		begun := time.Now()
		r.within(10*time.Second, fmt.Sprintf("answering %d for %s", want, name), func() bool { return wraps(r, name) == want })
		t.Logf("%d for %s after %s", want, name, time.Since(begun).Round(time.Millisecond))
	}
	order(a, "key", "create", "demo-one", "--algorithm", "aes-256")
	soon(b, "demo-one", 200)
	order(b, "key", "create", "demo-two", "--algorithm", "aes-256")
	soon(a, "demo-two", 200)
	order(b, "key", "disable", "demo-two") // which a has in its cache
	soon(a, "demo-two", 409)
	time.Sleep(2 * time.Second)          // both have heard of the change
	for _, r := range []*running{a, b} { // what a node knows is what it was asked for since
		soon(r, "demo-one", 200)
		soon(r, "demo-two", 409)
	}

	server.Kill()
	for _, r := range []*running{a, b} {
		for range 50 {
			if got := wraps(r, "demo-one"); got != 200 {
				t.Fatalf("without its database a node answers %d for a key that it knows", got)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if got := wraps(r, "demo-two"); got != 409 {
			t.Errorf("a disabled key answers %d while the database is away", got)
		}
	}
	if _, said := a.command("key", "create", "demo-three", "--algorithm", "aes-256"); !strings.Contains(said, "the store does not answer") {
		t.Errorf("a key made without a database: %q", said)
	}
	if strings.Contains(a.log.String()+b.log.String(), pgtest.Password) {
		t.Error("the password is in a log")
	}

	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	a.within(30*time.Second, "taking orders", func() bool {
		_, said := a.command("key", "create", "demo-three", "--algorithm", "aes-256")
		return said == ""
	})
	soon(b, "demo-three", 200)
	order(a, "key", "enable", "demo-two")
	soon(b, "demo-two", 200)
	order(a, "key", "disable", "demo-two")
	soon(b, "demo-two", 409)
}
