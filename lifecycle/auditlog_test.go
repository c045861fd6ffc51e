package lifecycle_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/lifecycle/storetest"
)

func newLogKey(t *testing.T) *audit.LogKey {
	t.Helper()
	secret, err := audit.NewLogKey("node/test")
	must(t, err)
	k, err := audit.ParseLogKey(secret)
	must(t, err)
	return k
}

// logState returns the size of the log and of its last checkpoint, 0 where there is none.
func logState(t *testing.T, s lifecycle.Store) (size, signed int64) {
	t.Helper()
	must(t, s.View(context.Background(), func(tx lifecycle.Tx) (err error) {
		if size, err = tx.LogSize(); err != nil {
			return err
		}
		msg, err := tx.LastCheckpoint()
		if errors.Is(err, key.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c, err := audit.OpenCheckpoint(msg, nil)
		if err == nil {
			signed = c.Size
		}
		return err
	}))
	return size, signed
}

func nothing(lifecycle.Tx) error { return nil }

// A checkpoint is signed after a minute when anything was appended, at once when much was, at the end, and not for its own sake.
func TestCheckpointsAreSignedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "keyway.db"))
		must(t, err)
		a, err := lifecycle.OpenAuditLog(ctx, lifecycle.AuditLogConfig{Store: s, Key: newLogKey(t), Entries: 20})
		must(t, err)
		want := func(when string, size, signed int64) {
			t.Helper()
			synctest.Wait()
			if n, c := logState(t, s); n != size || c != signed {
				t.Errorf("%s: a log of %d entries with a checkpoint of %d, want %d and %d", when, n, c, size, signed)
			}
		}
		time.Sleep(55 * time.Second)
		want("before the minute", 2, 0) // the log began, the node started
		time.Sleep(10 * time.Second)
		want("after the minute", 3, 2)
		time.Sleep(10 * time.Minute)
		want("when nothing was appended", 3, 2)
		must(t, s.Update(ctx, storetest.Noted(nothing)))
		time.Sleep(10 * time.Second)
		want("soon after an entry", 4, 2)
		for range 19 {
			must(t, s.Update(ctx, storetest.Noted(nothing)))
		}
		time.Sleep(2 * time.Second)
		want("after many entries", 24, 23)
		must(t, a.Close(ctx))
		want("at the end", 26, 25) // and that the node stopped
		must(t, s.Close())
	})
}

// A node signs nothing that does not continue what it has signed, whatever the database says, and does so after a restart too.
func TestARewrittenLogIsNotSigned(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "keyway.db")
	s, err := sqlstore.Open(ctx, path)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	k := newLogKey(t)
	open := func() *lifecycle.AuditLog {
		a, err := lifecycle.OpenAuditLog(ctx, lifecycle.AuditLogConfig{Store: s, Key: k})
		must(t, err)
		t.Cleanup(func() { _ = a.Close(ctx) })
		return a
	}
	a := open()
	must(t, a.Sign(ctx))
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	_, err = db.Exec("UPDATE audit_hashes SET hash = randomblob(32) WHERE idx = 0 OR idx = 2") // of the first leaf, and of the first two
	must(t, err)
	must(t, s.Update(ctx, storetest.Noted(nothing)))
	for name, a := range map[string]*lifecycle.AuditLog{"the same process": a, "the next one": open()} {
		if err := a.Sign(ctx); !errors.Is(err, lifecycle.ErrRewritten) {
			t.Errorf("%s: %v, want ErrRewritten", name, err)
		}
		if err := a.Export(ctx, "test", 0, &bytes.Buffer{}); !errors.Is(err, lifecycle.ErrRewritten) {
			t.Errorf("%s: exporting: %v, want ErrRewritten", name, err)
		}
	}
}

// Nodes that share a store sign one log; each one's checkpoints are verified by its key.
func TestNodesSignOneLog(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	one, two := newLogKey(t), newLogKey(t)
	var logs []*lifecycle.AuditLog
	var trusted []audit.Verifier
	for _, k := range []*audit.LogKey{one, two} {
		a, err := lifecycle.OpenAuditLog(ctx, lifecycle.AuditLogConfig{Store: w.store, Key: k})
		must(t, err)
		t.Cleanup(func() { _ = a.Close(ctx) })
		logs = append(logs, a)
		v, err := audit.NewVerifier(k.VerifierKey())
		must(t, err)
		trusted = append(trusted, v)
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		_, err := w.manager.CreateKey(ctx, "anna", lifecycle.KeyRequest{Name: name, Algorithm: key.AES256})
		must(t, err)
		must(t, logs[i%2].Sign(ctx))
		must(t, logs[i%2].Sign(ctx)) // there is nothing to sign
	}
	var b bytes.Buffer
	must(t, logs[0].Export(ctx, "otto", 0, &b))
	r, err := audit.Verify(bytes.NewReader(b.Bytes()), audit.Options{Trusted: trusted})
	must(t, err)
	if !r.Verified || r.Checkpoints != 5 || r.Actions[audit.CheckpointSigned] != 4 {
		t.Errorf("%d checkpoints, %+v", r.Checkpoints, r.Failures)
	}
	if r, err := audit.Verify(&b, audit.Options{Trusted: trusted[:1]}); err != nil || r.Verified {
		t.Errorf("without trust in the other node: %+v, %v", r, err)
	}
}

// What is listed is all there is, page by page, and with a name only what is about that key.
func TestTheLogIsListed(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	a, err := lifecycle.OpenAuditLog(ctx, lifecycle.AuditLogConfig{Store: w.store, Key: newLogKey(t)})
	must(t, err)
	t.Cleanup(func() { _ = a.Close(ctx) })
	for _, name := range []string{"a", "b"} {
		_, err := w.manager.CreateKey(ctx, "anna", lifecycle.KeyRequest{Name: name, Algorithm: key.AES256})
		must(t, err)
	}
	read := func(limit int, name string) (all []*audit.Entry) {
		for after := int64(-1); ; {
			page, next, err := a.List(ctx, after, limit, name)
			must(t, err)
			if len(page) > limit {
				t.Fatalf("%d entries, want at most %d", len(page), limit)
			}
			for _, b := range page {
				e, err := audit.Decode(b)
				must(t, err)
				all = append(all, e)
			}
			if after = next; after < 0 {
				return all
			}
		}
	}
	size, _ := logState(t, w.store)
	for _, limit := range []int{1, 3, 1000} {
		if all := read(limit, ""); int64(len(all)) != size || all[size-1].Seq != audit.Number(size-1) {
			t.Errorf("%d entries in pages of %d, want %d", len(all), limit, size)
		}
		// Created, inserted, generated, activated, made the primary one.
		if all := read(limit, "b"); len(all) != 5 || all[0].Action != audit.KeyCreated || all[4].Action != audit.PrimarySet || all[3].Actor.Name != "anna" {
			t.Errorf("%d entries about b in pages of %d", len(all), limit)
		}
	}
}

// What becomes of clients and grants is in the log, with who ordered it and how that is known.
func TestTheLogTellsOfClientsAndGrants(t *testing.T) {
	ctx := lifecycle.WithAuth(context.Background(), audit.ByCertificate)
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}) // which compares the log with the state
	_, err := w.manager.CreateClient(ctx, "anna", key.Client{Name: "app", Groups: []string{"web"}, Rate: 2.5, Burst: 3})
	must(t, err)
	_, err = w.manager.CreateClient(ctx, "anna", key.Client{Name: "gone", CertHashes: []string{key.HashToken("certificate")}})
	must(t, err)
	_, err = w.manager.NewToken(ctx, "anna", "app")
	must(t, err)
	var ids []int64
	for _, g := range []key.Grant{{Client: "app", Pattern: "*", Usages: key.Sign}, {Group: "web", Pattern: "k*", Usages: key.Verify}} {
		g, err := w.manager.CreateGrant(ctx, "anna", g)
		must(t, err)
		ids = append(ids, g.ID)
	}
	must(t, w.manager.DeleteGrant(ctx, "anna", ids[0]))
	must(t, w.manager.DeleteClient(ctx, "anna", "gone"))
	for _, g := range []key.Grant{{Client: "app", Pattern: "with a space", Usages: key.Sign}, {Client: "app", Pattern: "schlüssel", Usages: key.Sign}} {
		if _, err := w.manager.CreateGrant(ctx, "anna", g); !errors.Is(err, lifecycle.ErrInvalid) {
			t.Errorf("pattern %q, which the log cannot write: %v, want ErrInvalid", g.Pattern, err)
		}
	}
	storetest.CheckLog(t, w.store)
	must(t, w.store.View(ctx, func(tx lifecycle.Tx) error {
		leaves, err := tx.Entries(1, 100)
		for _, l := range leaves {
			e, err := audit.Decode(l)
			must(t, err)
			if e.Actor != (audit.Actor{Name: "anna", Auth: audit.ByCertificate}) {
				t.Errorf("%s is said to be by %+v", e.Action, e.Actor)
			}
		}
		if len(leaves) != 7 {
			t.Errorf("%d entries, want 7", len(leaves))
		}
		return err
	}))
}
