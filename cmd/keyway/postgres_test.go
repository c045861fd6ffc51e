package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle/storetest/pgtest"
)

// moved backs a dev's store up and restores it where a configuration says, on the way seeing to what must not work.
func moved(t *testing.T, from, to string) {
	t.Helper()
	run := func(args ...string) (answer backupAnswer, said string) {
		t.Helper()
		c := exec.Command(program, append(args, "--output", "json")...)
		var errs strings.Builder
		c.Stderr = &errs
		out, err := c.Output()
		if err == nil {
			err = json.Unmarshal(out, &answer)
		}
		if err != nil {
			return answer, errs.String() + err.Error()
		}
		return answer, ""
	}
	file := filepath.Join(t.TempDir(), "keyway.backup")
	made, said := run("backup", file, "--config", from)
	if said != "" {
		t.Fatal(said)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", st, err)
	}
	if left, _ := filepath.Glob(file + "?*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for what, args := range map[string][]string{
		"is there already":      {"backup", file, "--config", from},
		"SHA-256":               {"restore", file, "--config", to, "--sha256", strings.Repeat("0", 64)},
		"something in this":     {"restore", file, "--config", from},
		"name the configuratio": {"backup", file + "2"},
		"does not begin as one": {"restore", from, "--config", to},
	} {
		if _, said := run(args...); !strings.Contains(said, what) {
			t.Errorf("keyway %v: %q, want %q", args, said, what)
		}
	}
	got, said := run("restore", file, "--config", to, "--sha256", made.SHA256)
	if said != "" || made.Rows["keys"] == 0 || got.Rows["keys"] != made.Rows["keys"] {
		t.Fatalf("%+v became %+v: %s", made, got, said)
	}
}

// onPostgres writes a configuration for the tokens of a dev, with a store on a server.
func onPostgres(t *testing.T, dir string, server *pgtest.Server, database string) string {
	t.Helper()
	dsn, password := server.TCP(t, database)
	b, err := os.ReadFile(nodeConfig(t, onEmbedded, dir, plainNode))
	if err != nil {
		t.Fatal(err)
	}
	sqlite := fmt.Sprintf("store: {path: %s}", filepath.Join(dir, "keyway.db"))
	text := strings.Replace(string(b), sqlite, fmt.Sprintf("store: {postgres: {dsn: '%s', password_file: %s}}", dsn, password), 1)
	if text == string(b) {
		t.Fatalf("the configuration has no %s", sqlite)
	}
	file := filepath.Join(dir, "postgres.yaml")
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

// Two nodes on one PostgreSQL, to which the store was moved: what is ordered on one is so on the other, they serve on while the database is away, and when it is back they
// take orders again.
func TestTwoNodesOnOnePostgres(t *testing.T) {
	server := pgtest.New(t)
	database := server.Database(t)
	dir := newDevDir(t, onEmbedded)
	config := onPostgres(t, dir, server, database)
	moved(t, nodeConfig(t, onEmbedded, dir, plainNode), config)
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
	soon(a, "demo-wrap", 200) // a key that came with the backup
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
