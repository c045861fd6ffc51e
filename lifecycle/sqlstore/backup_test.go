package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/storetest"
	"keyway/lifecycle/storetest/pgtest"
)

// databases are the ways to get an empty store.
func databases(t *testing.T) map[string]func() *Store {
	return map[string]func() *Store{
		"sqlite": func() *Store { return openFile(t, filepath.Join(t.TempDir(), "keyway.db")) },
		"postgres": func() *Store {
			server := pgtest.Shared(t)
			return openPostgres(t, Postgres{DSN: server.DSN(server.Database(t))})
		},
	}
}

// populate puts something into every table.
func populate(t *testing.T, s *Store) {
	t.Helper()
	ctx := context.Background()
	var gone int64
	for _, f := range []func(lifecycle.Tx) error{
		func(tx lifecycle.Tx) error {
			for i := range 5 {
				k := key.Key{ID: key.NewID(), Name: fmt.Sprintf("key-%d", i), Algorithm: key.AES256, Usages: key.Wrap, Pool: "default", Created: time.Now()}
				v := lifecycle.VersionRow{ID: key.NewID(), KeyID: k.ID, Number: 1, State: key.Active, Created: time.Now()}
				m := lifecycle.Material{Master: []byte{0, 1, 2, 0xff}, Blob: bytes.Repeat([]byte{byte(i)}, 40), Mechanism: 0x80000001}
				if err := errors.Join(tx.InsertKey(k), tx.InsertVersion(v), tx.SetMaterial(v.ID, m), tx.SetPrimary(k.ID, 1)); err != nil {
					return err
				}
				if _, err := tx.AddUses(v.ID, 1<<31); err != nil {
					return err
				}
			}
			return tx.InsertClient(key.Client{Name: "app", Groups: []string{"ü\"\n"}})
		},
		func(tx lifecycle.Tx) error {
			for range 3 {
				id, err := tx.InsertGrant(key.Grant{Client: "app", Pattern: "*", Usages: key.Sign})
				if err != nil {
					return err
				}
				gone = id - 1
			}
			return tx.DeleteGrant(gone)
		},
		func(tx lifecycle.Tx) error {
			return errors.Join(tx.PutKEK(lifecycle.KEK{Kind: lifecycle.KEKPool, Name: "default", ID: key.NewID()}), tx.PutMember(lifecycle.MemberRecord{Pool: "default", Name: "m1"}))
		},
		func(tx lifecycle.Tx) error {
			l, err := tx.AcquireLease("manager", "node", time.Hour)
			if err != nil {
				return err
			}
			for range 2 {
				if _, err := tx.InsertJob(lifecycle.NewJob{Target: "t", Kind: "install", Payload: []byte("p")}); err != nil {
					return err
				}
			}
			_, err = tx.ClaimJobs(l, 1, time.Hour)
			return err
		},
		func(tx lifecycle.Tx) error {
			return errors.Join(tx.PutCheckpoint(2, []byte("two\n")), tx.PutLogKey("node"))
		},
	} {
		if err := s.Update(ctx, storetest.Noted(f)); err != nil {
			t.Fatal(err)
		}
	}
}

func backup(t *testing.T, s *Store) (string, BackupSummary) {
	t.Helper()
	var b bytes.Buffer
	sum, err := s.Backup(context.Background(), &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), sum
}

// content is a backup's lines that must be the same in every store: neither epochs, nor when it was taken.
func content(backup string) []string {
	var out []string
	table := ""
	for _, l := range strings.Split(strings.TrimSpace(backup), "\n")[1:] {
		if strings.HasPrefix(l, `{"table":`) {
			table = l
		}
		// That a backup was restored is in the log.
		if strings.HasPrefix(l, "[") && !strings.Contains(table, `"audit_h`) && !strings.Contains(l, `backup-restored`) && !strings.Contains(table, `"epoch","columns"`) && !strings.Contains(table, `"leases","columns"`) {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}

// A backup of either database is restored into either, with all that was in it.
func TestABackupIsRestoredIntoEitherDatabase(t *testing.T) {
	ctx := context.Background()
	for from, open := range databases(t) {
		s := open()
		populate(t, s)
		text, sum := backup(t, s)
		if len(content(text)) < 5+5+1+1+2+1+2 || sum.Rows["versions"] != 5 {
			t.Fatalf("%s: the backup has %v", from, sum.Rows)
		}
		for _, table := range backupTables {
			if sum.Rows[table] == 0 {
				t.Errorf("%s: the test has nothing in %s", from, table)
			}
		}
		for to, open := range databases(t) {
			r := open()
			got, err := r.Restore(ctx, strings.NewReader(text), sum.SHA256)
			if err != nil {
				t.Errorf("%s to %s: %v", from, to, err)
				continue
			}
			again, _ := backup(t, r)
			storetest.CheckTree(t, r)
			if !slices.Equal(content(again), content(text)) || got.Rows["keys"] != 5 {
				t.Errorf("%s to %s:\n%s\nbecame\n%s", from, to, text, again)
			}
			err = r.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error {
				v, err := tx.Version(key.Ref{Name: "key-3"})
				if err != nil {
					return err
				}
				if n, err := tx.AddUses(v.ID, 0); err != nil || n != 1<<31 || v.BlobMechanism != 0x80000001 {
					t.Errorf("%s to %s: %d uses, %+v, %v", from, to, n, v, err)
				}
				if e, err := tx.Epoch(); err != nil || e < restored {
					t.Errorf("%s to %s: the epoch is %d, which nodes may have seen: %v", from, to, e, err)
				}
				if l, err := tx.AcquireLease("manager", "node", time.Hour); err != nil || l.Epoch < restored {
					t.Errorf("%s to %s: the lease is %+v, whose epoch listeners may have seen: %v", from, to, l, err)
				}
				if _, err := tx.InsertGrant(key.Grant{Client: "app", Pattern: "x", Usages: key.Sign}); err != nil {
					return err
				}
				_, err = tx.InsertJob(lifecycle.NewJob{Target: "t", Kind: "after"})
				return err
			}))
			if err != nil {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
	}
}

// No table is forgotten.
func TestABackupHasEveryTable(t *testing.T) {
	s := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	all, err := s.tables(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range all {
		if table != "goose_db_version" && !strings.HasPrefix(table, "sqlite_") && !slices.Contains(backupTables, table) {
			t.Errorf("table %s is in no backup", table)
		}
	}
}

func TestADamagedBackupRestoresNothing(t *testing.T) {
	ctx := context.Background()
	source := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	populate(t, source)
	text, sum := backup(t, source)
	lines := strings.SplitAfter(text, "\n")
	lines = lines[:len(lines)-1]
	without := func(i int) string { return strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "") }
	bad := map[string]string{
		"nothing": "", "no backup": "hello\n", "something after it": text + "\n", "twice": text + text,
		"a newer form":     strings.Replace(text, `{"keyway_backup":1`, `{"keyway_backup":2`, 1),
		"a newer schema":   strings.Replace(text, `"schema":`, `"schema":9`, 1),
		"another value":    strings.Replace(text, `"key-3"`, `"key-9"`, 1),
		"another table":    strings.Replace(text, `{"table":"jobs"`, `{"table":"goose_db_version"`, 1),
		"another column":   strings.Replace(text, `"name"`, `"name) VALUES (1); --"`, 1),
		"too few values":   strings.Replace(text, `,"default",`, `,`, 1),
		"no bytes":         strings.Replace(text, `{"b":"`, `{"b":"*`, 1),
		"a fraction":       strings.Replace(text, `2147483648`, `2147483648.5`, 1),
		"another end":      strings.Replace(text, sum.SHA256, strings.Repeat("0", 64), 1),
		"other row counts": strings.Replace(text, `"keys":5`, `"keys":6`, 1),
	}
	// Names are never SQL, even where the digest is right.
	bad["a column that is SQL"] = signed(strings.Replace(text, `"primary_version","created"]`, `"primary_version","created) SELECT ?,?,?,?,?,?,? --"]`, 1), sum.SHA256)
	bad["a table that is SQL"] = signed(strings.Replace(text, `{"table":"keys"`, `{"table":"keys (id,name,algorithm,usages,pool,primary_version,created) SELECT ?,?,?,?,?,?,? --"`, 1), sum.SHA256)
	for i := range lines {
		bad[fmt.Sprintf("cut before line %d", i)] = strings.Join(lines[:i], "")
		bad[fmt.Sprintf("cut in line %d", i)] = strings.Join(lines[:i], "") + lines[i][:len(lines[i])/2]
		bad[fmt.Sprintf("without line %d", i)] = without(i)
	}
	for name, open := range databases(t) {
		s := open()
		for what, b := range bad {
			if name == "postgres" && strings.Contains(what, " line ") && !strings.Contains(what, "without line 1") {
				continue // SQLite has had them all
			}
			if b == text {
				t.Fatalf("%s is the backup itself", what)
			}
			if _, err := s.Restore(ctx, strings.NewReader(b), ""); err == nil {
				t.Fatalf("%s: a backup with %s was restored", name, what)
			} else if !errors.Is(err, ErrBackup) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if _, err := s.Restore(ctx, strings.NewReader(text), strings.Repeat("0", 64)); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: another digest than was asked for: %v", name, err)
		}
		if _, err := s.Restore(ctx, strings.NewReader(text), sum.SHA256); err != nil {
			t.Errorf("%s: the right one at last: %v", name, err)
		}
		if _, err := s.Restore(ctx, strings.NewReader(text), ""); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("%s: a second time: %v", name, err)
		}
	}
}

// signed gives a changed backup the digest that it needs.
func signed(text, old string) string {
	body := text[:strings.LastIndex(strings.TrimSpace(text), "\n")+1]
	return strings.Replace(text, old, fmt.Sprintf("%x", sha256.Sum256([]byte(body))), 1)
}

// Of two that restore at once, one does.
func TestTwoRestoresAtOnce(t *testing.T) {
	source := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	populate(t, source)
	text, _ := backup(t, source)
	for name, open := range databases(t) {
		s := open()
		var done, refused atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				switch _, err := s.Restore(context.Background(), strings.NewReader(text), ""); {
				case err == nil:
					done.Add(1)
				case errors.Is(err, ErrNotEmpty):
					refused.Add(1)
				default:
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if done.Load() != 1 || refused.Load() != 3 {
			t.Errorf("%s: %d restored and %d were refused", name, done.Load(), refused.Load())
		}
	}
}

// slowly writes slowly, and lets others change the store meanwhile.
type slowly struct {
	bytes.Buffer
	between func()
}

func (s *slowly) Write(b []byte) (int, error) {
	s.between()
	return s.Buffer.Write(b)
}

// A backup is of one moment, though the store is changed while it is taken.
func TestABackupIsOfOneMoment(t *testing.T) {
	for name, open := range databases(t) {
		s := open()
		n := 0
		add := func() {
			n++
			err := s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
				for i := range 1500 { // more than is buffered of each table
					k := key.Key{ID: key.NewID(), Name: fmt.Sprintf("k%d-%d", n, i), Algorithm: key.AES256, Pool: "default"}
					v := lifecycle.VersionRow{ID: key.NewID(), KeyID: k.ID, Number: 1, State: key.Active}
					if err := errors.Join(tx.InsertKey(k), tx.InsertVersion(v), tx.SetMaterial(v.ID, lifecycle.Material{Blob: make([]byte, 300)})); err != nil {
						return err
					}
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
		}
		add()
		w := &slowly{between: func() {
			if n < 4 {
				add()
			}
		}}
		sum, err := s.Backup(context.Background(), w)
		if err != nil {
			t.Fatal(err)
		}
		if n < 3 {
			t.Errorf("%s: the store was changed %d times only: the test shows nothing", name, n-1)
		}
		if sum.Rows["keys"] != 1500 || sum.Rows["versions"] != 1500 {
			t.Errorf("%s: %d keys with %d versions, want the 1500 there were when it began", name, sum.Rows["keys"], sum.Rows["versions"])
		}
	}
}

// A database is backed up as it is, and not brought up to date on the way.
func TestOpeningAsIsChangesNothing(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "keyway.db")
	if s, err := OpenAsIs(ctx, path); err == nil {
		_ = s.Close()
		t.Error("a file that is not there was opened")
	}
	s := openFile(t, path)
	if again, err := OpenAsIs(ctx, path); err != nil {
		t.Error(err)
	} else {
		_ = again.Close()
	}
	if _, err := s.write.Exec("DELETE FROM goose_db_version WHERE version_id > 1"); err != nil {
		t.Fatal(err)
	}
	if again, err := OpenAsIs(ctx, path); err == nil {
		_ = again.Close()
		t.Error("an older schema was opened")
	}
	server := pgtest.Shared(t)
	db := server.Database(t)
	if again, err := OpenPostgres(ctx, Postgres{DSN: server.DSN(db), Unsafe: true, AsIs: true}); err == nil {
		_ = again.Close()
		t.Error("an empty database was opened")
	}
	openPostgres(t, Postgres{DSN: server.DSN(db)})
	openPostgres(t, Postgres{DSN: server.DSN(db), AsIs: true})
}

// A backup from before there was a log begins one with what it holds; a store whose log tells of anything is not empty.
func TestABackupFromBeforeTheLogBeginsOne(t *testing.T) {
	ctx := context.Background()
	source := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	populate(t, source)
	text, sum := backup(t, source)
	lines := strings.SplitAfter(text, "\n")
	end := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, `{"table":"audit_`) })
	for i, l := range lines {
		if strings.HasPrefix(l, `["app",`) {
			lines[i] = `["app","{\"name\":\"app\"}"]` + "\n" // its group has no name that the log could write
		}
	}
	old := strings.Join(lines[:end], "")
	for table := range sum.Rows {
		if strings.HasPrefix(table, "audit_") {
			delete(sum.Rows, table)
		}
	}
	sum.SHA256 = fmt.Sprintf("%x", sha256.Sum256([]byte(old)))
	last, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	old += string(last) + "\n"
	r := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	if _, err := r.Restore(ctx, strings.NewReader(old), sum.SHA256); err != nil {
		t.Fatal(err)
	}
	storetest.CheckLog(t, r)

	used := openFile(t, filepath.Join(t.TempDir(), "keyway.db"))
	if err := used.Update(ctx, storetest.Noted(func(lifecycle.Tx) error { return nil })); err != nil {
		t.Fatal(err)
	}
	if _, err := used.Restore(ctx, strings.NewReader(text), ""); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("over a log that tells of something: %v, want ErrNotEmpty", err)
	}
}
