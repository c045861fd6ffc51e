package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"modernc.org/sqlite"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/storetest"
)

func TestSQLiteIsAStore(t *testing.T) {
	storetest.Test(t, func(t *testing.T) (lifecycle.Store, lifecycle.Store) {
		path := filepath.Join(t.TempDir(), "keyway.db")
		return openFile(t, path), openFile(t, path)
	})
}

func openFile(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestTheFileIsItsOwnersOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyway.db")
	openFile(t, path)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", st.Mode().Perm())
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyway.db")
	s := openFile(t, path)
	if _, err := s.write.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)"); err != nil {
		t.Fatal(err)
	}
	if again, err := Open(context.Background(), path); err == nil {
		_ = again.Close()
		t.Fatal("a database of a newer program was opened")
	} else if !strings.Contains(err.Error(), "newer keyway") {
		t.Errorf("the message does not say what to do: %v", err)
	}
}

func TestADirectoryThatCannotBeMadeIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), filepath.Join(file, "keyway.db")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names %s", err, file)
	}
}

// Every connection of both pools has what durability needs; SQLite's own default for most of it is another.
func TestEveryConnectionIsDurable(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	ctx := context.Background()
	var conns []*sql.Conn
	for pool, n := range map[*sql.DB]int{s.read: 4, s.write: 1} {
		for range n { // held, so that each is another one
			c, err := pool.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
		}
	}
	for i, c := range conns {
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "secure_delete": "1", "busy_timeout": "10000"} {
			var got string
			if err := c.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("connection %d: %s is %q (%v), want %q", i, pragma, got, err, want)
			}
		}
	}
}

func TestADatabaseWhoseModeCannotBeChangedIsRefused(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	if _, err := s.write.Exec("PRAGMA synchronous = OFF"); err != nil {
		t.Fatal(err)
	}
	if err := s.prepare(context.Background(), t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "synchronous") {
		t.Errorf("a connection that does not sync: %v", err)
	}
}

func TestADamagedFileSaysWhatToDo(t *testing.T) {
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("text.db", bytes.Repeat([]byte("this is no database\n"), 500))
	if s, err := Open(context.Background(), path); err == nil {
		_ = s.Close()
		t.Error("a text file was opened")
	} else if !strings.Contains(err.Error(), "backup") || !strings.Contains(err.Error(), path) {
		t.Errorf("the message names neither the file nor what to do: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte("this is no database")) {
		t.Error("somebody else's file was changed")
	}

	// A database whose pages are overwritten but for the first.
	path = filepath.Join(t.TempDir(), "keyway.db")
	s := openFile(t, path)
	shared(t, s, key.NewID())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 3*4096 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for i := 4096; i < len(b); i++ {
		b[i] = 0xa5
	}
	bad := write("damaged.db", b)
	s, err = Open(context.Background(), bad)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
		err = s.View(context.Background(), func(tx lifecycle.Tx) error { _, err := tx.Key("shared"); return err })
	}
	if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a damaged file: %v", err)
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		t.Errorf("SQLite's own code is lost: %v", err)
	}
}

// What is destroyed is in no file any more: neither in a free page nor in the write-ahead log.
func TestErasedMaterialIsInNoFile(t *testing.T) {
	dir := t.TempDir()
	s := openFile(t, filepath.Join(dir, "keyway.db"))
	id := key.NewID()
	shared(t, s, id)
	marker := []byte("marker-of-a-wrapped-key-which-is-to-go")
	ctx := context.Background()
	for _, f := range []func(lifecycle.Tx) error{
		func(tx lifecycle.Tx) error {
			return tx.SetMaterial(id, lifecycle.Material{Master: marker, Blob: bytes.Repeat(marker, 200), Mechanism: 1}) // overflow pages too
		},
		func(tx lifecycle.Tx) error {
			if files := holding(t, dir, marker); len(files) == 0 {
				t.Error("the marker is nowhere before it is erased: the test shows nothing")
			}
			return tx.EraseMaterial(id)
		},
	} {
		if err := s.Update(ctx, storetest.Noted(f)); err != nil {
			t.Fatal(err)
		}
	}
	if files := holding(t, dir, marker); len(files) != 0 {
		t.Errorf("erased material is still in %v", files)
	}
	if v, err := versionOf(s, key.Ref{Name: "shared"}); err != nil || v.Blob != nil {
		t.Errorf("%+v, %v", v, err)
	}
}

func versionOf(s *Store, r key.Ref) (v *key.Version, err error) {
	err = s.View(context.Background(), func(tx lifecycle.Tx) error { v, err = tx.Version(r); return err })
	return v, err
}

// holding returns the files of dir that hold b.
func holding(t *testing.T, dir string, b []byte) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, b) {
			out = append(out, e.Name())
		}
	}
	return out
}

// A page holds each key with all its versions, in order, whatever the page begins with.
func TestPagesOfKeysWithTheirVersions(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	ctx := context.Background()
	const keys = 25
	err := s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error {
		for i := keys - 1; i >= 0; i-- { // not in the order of names
			k := key.Key{ID: key.NewID(), Name: fmt.Sprintf("k%02d", i), Algorithm: key.AES256, Pool: "default"}
			if err := tx.InsertKey(k); err != nil {
				return err
			}
			for n := i % 4; n > 0; n-- { // some have none
				if err := tx.InsertVersion(lifecycle.VersionRow{ID: key.NewID(), KeyID: k.ID, Number: uint32(n), State: key.PreActive}); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	after, seen := "", 0
	for {
		var page []*key.Key
		err := s.View(ctx, func(tx lifecycle.Tx) (err error) { page, err = tx.Keys(after, 7); return err })
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page {
			if k.Name != fmt.Sprintf("k%02d", seen) || len(k.Versions) != seen%4 {
				t.Errorf("key %d is %s with %d versions", seen, k.Name, len(k.Versions))
			}
			for i, v := range k.Versions {
				if v.Number != uint32(i+1) || v.KeyID != k.ID || v.Name != k.Name {
					t.Errorf("%s: version %d at place %d is %+v", k.Name, v.Number, i, v)
				}
			}
			seen++
		}
		if len(page) < 7 {
			break
		}
		after = page[6].Name
	}
	if seen != keys {
		t.Errorf("%d keys in all pages, want %d", seen, keys)
	}
}

// A database from before the log has one after it was opened: what is there was taken over, once, and what follows continues it.
func TestAnOlderDatabaseIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyway.db")
	s := openFile(t, path)
	ctx := context.Background()
	id := key.NewID()
	shared(t, s, id)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error {
		if _, err := tx.InsertGrant(key.Grant{Client: "app", Pattern: "*", Usages: key.Sign}); err != nil {
			return err
		}
		return errors.Join(tx.SetMaterial(id, lifecycle.Material{Master: []byte{1}, Blob: []byte{2}, Mechanism: 3, Public: []byte{4}}),
			tx.InsertClient(key.Client{Name: "app", Rate: 2.5, TokenHashes: []string{key.HashToken("t")}}),
			tx.PutKEK(lifecycle.KEK{Kind: lifecycle.KEKPool, Name: "a", ID: key.NewID(), KCV: []byte{1, 2, 3}}), tx.PutKEK(lifecycle.KEK{Kind: lifecycle.KEKRoot, Name: "a/begun", ID: key.NewID()}),
			// In the order of pool and name, and not in that of both joined.
			tx.PutMember(lifecycle.MemberRecord{Pool: "a", Name: "m", Drained: true}), tx.PutMember(lifecycle.MemberRecord{Pool: "a.b", Name: "m", Latched: "CKR_PIN_INCORRECT"}))
	})))
	must(s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) (err error) {
		for i := range 1200 { // more than one batch, and more than one page
			err = errors.Join(err, tx.InsertKey(key.Key{ID: key.NewID(), Name: fmt.Sprintf("k%04d", i), Algorithm: key.AES256, Usages: key.Wrap, Pool: "a"}))
		}
		return err
	})))
	for _, table := range []string{"audit_head", "audit_leaves", "audit_hashes", "audit_checkpoints", "audit_keys"} {
		_, err := s.write.Exec("DROP TABLE " + table)
		must(err)
	}
	_, err := s.write.Exec("DELETE FROM goose_db_version WHERE version_id = 3")
	must(err)
	must(s.Close())
	var sizes []int64
	for range 2 {
		s = openFile(t, path)
		storetest.CheckLog(t, s)
		must(s.View(ctx, func(tx lifecycle.Tx) error {
			n, err := tx.LogSize()
			sizes = append(sizes, n)
			return err
		}))
		must(s.Close())
	}
	if want := int64(1 + 1 + 1 + 1 + 1201 + 2 + 1); sizes[0] != want || sizes[1] != want {
		t.Errorf("the log has %v entries after each opening, want %d", sizes, want)
	}
}
