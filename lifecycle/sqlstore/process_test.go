package sqlstore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/storetest"
	"keyway/lifecycle/storetest/pgtest"
)

// childEnv in the environment makes the test binary another process that works on the file it names.
const childEnv = "KEYWAY_STORE_TEST"

// changes is how many updates each process makes.
const changes = 100

func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		code := m.Run()
		pgtest.Stop()
		os.Exit(code)
	}
	if err := work(path, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// work counts uses of every version that is there, and makes keys of its own.
func work(path, name string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	for i := range changes {
		err := s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error {
			v, err := tx.Version(key.Ref{Name: "shared"})
			if err != nil {
				return err
			}
			if _, err := tx.AddUses(v.ID, 1); err != nil {
				return err
			}
			return tx.InsertKey(key.Key{ID: key.NewID(), Name: fmt.Sprintf("%s-%03d", name, i), Algorithm: key.AES256, Pool: "default", Created: time.Now()})
		}))
		if err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
	}
	return s.Close()
}

// child starts another process.
func child(t *testing.T, path, name string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, name)
	c.Env = append(os.Environ(), childEnv+"="+path)
	c.Stderr = &strings.Builder{}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func end(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Wait(); err != nil {
		t.Errorf("%s: %v: %s", c.Args[1], err, c.Stderr)
	}
}

func TestProcessesShareOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyway.db")
	s := openFile(t, path)
	id := key.NewID()
	before := shared(t, s, id)
	one, two := child(t, path, "one"), child(t, path, "two")
	if err := work(path, "three"); err != nil {
		t.Error(err)
	}
	end(t, one)
	end(t, two)
	err := s.View(context.Background(), func(tx lifecycle.Tx) error {
		epoch, err := tx.Epoch()
		if err != nil {
			return err
		}
		if epoch != before+3*changes {
			t.Errorf("the epoch rose by %d, want %d: gateways would miss changes", epoch-before, 3*changes)
		}
		all, err := tx.Keys("", 10*changes)
		if err == nil && len(all) != 3*changes+1 {
			t.Errorf("%d keys, want %d", len(all), 3*changes+1)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(context.Background(), func(tx lifecycle.Tx) error {
		total, err := tx.AddUses(id, 0)
		if err == nil && total != 3*changes {
			t.Errorf("%d uses were counted, want %d: AES-GCM's bound would be passed unseen", total, 3*changes)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// shared puts the key "shared" in and returns the epoch.
func shared(t *testing.T, s *Store, id key.ID) (epoch uint64) {
	t.Helper()
	err := s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
		k := key.Key{ID: key.NewID(), Name: "shared", Algorithm: key.AES256, Usages: key.Wrap | key.Unwrap, Pool: "default", Created: time.Now()}
		if err := tx.InsertKey(k); err != nil {
			return err
		}
		if err := tx.InsertVersion(lifecycle.VersionRow{ID: id, KeyID: k.ID, Number: 1, State: key.Active, Created: k.Created}); err != nil {
			return err
		}
		return tx.SetPrimary(k.ID, 1)
	}))
	if err == nil {
		err = s.View(context.Background(), func(tx lifecycle.Tx) (err error) { epoch, err = tx.Epoch(); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	return epoch
}

// Processes that find the file empty at the same moment make its tables once.
func TestProcessesMakeANewFileTogether(t *testing.T) {
	for round := range 3 {
		path := filepath.Join(t.TempDir(), "keyway.db")
		var all []*exec.Cmd
		for i := range 4 {
			all = append(all, child(t, path, strconv.Itoa(i)))
		}
		for _, c := range all {
			_ = c.Wait()
			// The file has no key "shared", which is the one thing that may be missing.
			if said := c.Stderr.(*strings.Builder).String(); !strings.Contains(said, key.ErrNotFound.Error()) {
				t.Errorf("round %d: %s", round, said)
			}
		}
	}
}
