package sqlstore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyway/lifecycle"
	"keyway/lifecycle/storetest"
)

func TestSQLiteIsAStore(t *testing.T) {
	storetest.Test(t, func(t *testing.T) (lifecycle.Store, lifecycle.Store) {
		path := filepath.Join(t.TempDir(), "keyway.db")
		return open(t, path), open(t, path)
	})
}

func open(t *testing.T, path string) *Store {
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
	open(t, path)
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
	s := open(t, path)
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
