package sqlstore

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/storetest"
	"keyway/lifecycle/storetest/pgtest"
)

// benchmarks runs f on both databases, which sync in earnest.
func benchmarks(b *testing.B, f func(b *testing.B, s *Store)) {
	b.Run("sqlite", func(b *testing.B) { f(b, openFile(b, filepath.Join(b.TempDir(), "keyway.db"))) })
	b.Run("postgres", func(b *testing.B) {
		server := pgtest.New(b)
		dsn, password := server.TCP(b, server.Database(b))
		s, err := OpenPostgres(context.Background(), Postgres{DSN: dsn, PasswordFile: password})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		f(b, s)
	})
}

// benchVersions puts n keys in, each with a version, and returns the versions' IDs.
func benchVersions(b *testing.B, s *Store, n int) []key.ID {
	b.Helper()
	ids := make([]key.ID, n)
	const batch = 5000
	for from := 0; from < n; from += batch {
		err := s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
			for i := from; i < min(n, from+batch); i++ {
				k := key.Key{ID: key.NewID(), Name: fmt.Sprintf("k%07d", i), Algorithm: key.AES256, Pool: "default", Created: time.Now()}
				ids[i] = key.NewID()
				if err := tx.InsertKey(k); err != nil {
					return err
				}
				if err := tx.InsertVersion(lifecycle.VersionRow{ID: ids[i], KeyID: k.ID, Number: 1, State: key.Active, Created: k.Created}); err != nil {
					return err
				}
				if err := tx.SetMaterial(ids[i], lifecycle.Material{Master: make([]byte, 40), Blob: make([]byte, 40), Mechanism: 1}); err != nil {
					return err
				}
				if err := tx.SetPrimary(k.ID, 1); err != nil {
					return err
				}
			}
			return nil
		}))
		if err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

// BenchmarkUpdate counts uses of a version in a transaction of its own: one after the other, eight at once each of its own version, and
// eight at once that raise the epoch, which meet there.
func BenchmarkUpdate(b *testing.B) {
	ctx := context.Background()
	benchmarks(b, func(b *testing.B, s *Store) {
		ids := benchVersions(b, s, 64)
		uses := func(b *testing.B, id key.ID) {
			if err := s.Update(ctx, func(tx lifecycle.Tx) error { _, err := tx.AddUses(id, 1); return err }); err != nil {
				b.Error(err)
			}
		}
		b.Run("one", func(b *testing.B) {
			for b.Loop() {
				uses(b, ids[0])
			}
		})
		next := make(chan key.ID, len(ids))
		for _, id := range ids {
			next <- id
		}
		b.Run("eight", func(b *testing.B) {
			b.SetParallelism(4) // of two processors
			b.RunParallel(func(p *testing.PB) {
				id := <-next
				for p.Next() {
					uses(b, id)
				}
				next <- id
			})
		})
		b.Run("eight-epoch", func(b *testing.B) {
			b.SetParallelism(4)
			b.RunParallel(func(p *testing.PB) {
				id := <-next
				for p.Next() {
					if err := s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error { return tx.SetState(id, key.Active, time.Now()) })); err != nil {
						b.Error(err)
					}
				}
				next <- id
			})
		})
	})
}

// BenchmarkVersion reads one of 1,000 versions, as a gateway does for a key that it does not know.
func BenchmarkVersion(b *testing.B) {
	benchmarks(b, func(b *testing.B, s *Store) {
		benchVersions(b, s, 1000)
		i := 0
		for b.Loop() {
			i = (i + 1) % 1000
			if err := s.View(context.Background(), func(tx lifecycle.Tx) error { _, err := tx.Version(key.Ref{Name: fmt.Sprintf("k%07d", i)}); return err }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPages reads pages of 1,000 of 100,000 keys, with their versions.
func BenchmarkPages(b *testing.B) {
	benchmarks(b, func(b *testing.B, s *Store) {
		benchVersions(b, s, 100_000)
		if s.dialect.learn != "" {
			if _, err := s.write.Exec(s.dialect.learn); err != nil {
				b.Fatal(err)
			}
		}
		after := ""
		for b.Loop() {
			var page []*key.Key
			if err := s.View(context.Background(), func(tx lifecycle.Tx) (err error) { page, err = tx.Keys(after, 1000); return err }); err != nil {
				b.Fatal(err)
			}
			after = ""
			if len(page) == 1000 {
				after = page[999].Name
			}
		}
	})
}

// A page is found by the index of names, however many keys there are: neither are all read nor are they sorted.
func TestAPageIsFoundByItsIndex(t *testing.T) {
	server := pgtest.Shared(t)
	db := server.Database(t)
	s := openPostgres(t, Postgres{DSN: server.DSN(db)})
	server.SQL(t, db, `INSERT INTO keys (id, name, algorithm, usages, pool, created) SELECT decode(lpad(to_hex(i), 32, '0'), 'hex'), 'k' || lpad(i::text, 7, '0'), 'aes-256', 1, 'default', 0 FROM generate_series(1, 20000) i`)
	server.SQL(t, db, `INSERT INTO versions (id, key_id, number, state, state_at, created) SELECT id, id, 1, 'active', 0, 0 FROM keys`)
	server.SQL(t, db, "ANALYZE")
	for _, query := range []string{
		"SELECT id, name FROM keys WHERE name > 'k0010000' ORDER BY name LIMIT 100",
		"SELECT " + versionColumns + " FROM keys k JOIN versions v ON v.key_id = k.id WHERE k.name > 'k0010000' AND k.name <= 'k0010100' ORDER BY k.name, v.number",
		"SELECT " + versionColumns + " FROM keys k JOIN versions v ON v.key_id = k.id AND v.number = k.primary_version WHERE k.name = 'k0010000'",
	} {
		err := s.View(context.Background(), func(tx lifecycle.Tx) error {
			rows, err := tx.(*transaction).rows("EXPLAIN " + query)
			if err != nil {
				return err
			}
			defer rows.Close()
			var plan []string
			for rows.Next() {
				var l string
				if err := rows.Scan(&l); err != nil {
					return err
				}
				plan = append(plan, l)
			}
			if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan") || !strings.Contains(text, "keys_name_key") {
				t.Errorf("%s:\n%s", query, text)
			}
			return rows.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
