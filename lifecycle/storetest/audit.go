package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// Noted returns f with an entry in the log after it, for tests whose changes nobody ordered.
func Noted(f func(lifecycle.Tx) error) func(lifecycle.Tx) error {
	return func(tx lifecycle.Tx) error {
		return noted(tx, f(tx))
	}
}

// noted puts an entry into the log after a change that did not fail.
func noted(tx lifecycle.Tx, err error) error {
	if err != nil {
		return err
	}
	return tx.Append(note("test"))
}

func note(name audit.Name) *audit.Entry {
	return &audit.Entry{Action: audit.ConfigChanged, Object: audit.Object{Kind: audit.KindConfig, Name: name}, Details: audit.Details{Hash: audit.HashOf([]byte("test"))}}
}

// unaudited: whatever changes what the log tells of does not commit without an entry, and bookkeeping does.
func unaudited(t *testing.T, a, b lifecycle.Store) {
	ctx := context.Background()
	k, v := insert(t, a, "k")
	var grant int64
	root := lifecycle.KEK{Kind: lifecycle.KEKRoot, Name: "p/m1", ID: key.NewID(), KCV: []byte{1, 2, 3}}
	update(t, a, Noted(func(tx lifecycle.Tx) (err error) {
		if grant, err = tx.InsertGrant(key.Grant{Client: "c", Pattern: "*", Usages: key.Sign}); err != nil {
			return err
		}
		return errors.Join(tx.InsertClient(key.Client{Name: "c"}), tx.PutMember(lifecycle.MemberRecord{Pool: "p", Name: "m1"}), tx.PutKEK(root))
	}))
	before := epochOf(t, b)
	for name, f := range map[string]func(lifecycle.Tx) error{
		"InsertKey": func(tx lifecycle.Tx) error {
			return tx.InsertKey(key.Key{ID: key.NewID(), Name: "new", Algorithm: key.AES256, Pool: "p"})
		},
		"InsertVersion": func(tx lifecycle.Tx) error {
			return tx.InsertVersion(lifecycle.VersionRow{ID: key.NewID(), KeyID: k.ID, Number: 2, State: key.PreActive})
		},
		"SetPrimary": func(tx lifecycle.Tx) error { return tx.SetPrimary(k.ID, 0) },
		"SetState":   func(tx lifecycle.Tx) error { return tx.SetState(v, key.Suspended, time.Now()) },
		"SetMaterial": func(tx lifecycle.Tx) error {
			return tx.SetMaterial(v, lifecycle.Material{Master: []byte{1}, Blob: []byte{1}, Mechanism: 1})
		},
		"EraseMaterial": func(tx lifecycle.Tx) error { return tx.EraseMaterial(v) },
		"InsertClient":  func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: "new"}) },
		"UpdateClient":  func(tx lifecycle.Tx) error { return tx.UpdateClient(key.Client{Name: "c", Disabled: true}) },
		"DeleteClient":  func(tx lifecycle.Tx) error { return tx.DeleteClient("c") },
		"InsertGrant": func(tx lifecycle.Tx) error {
			_, err := tx.InsertGrant(key.Grant{Client: "c", Pattern: "x", Usages: key.Sign})
			return err
		},
		"DeleteGrant": func(tx lifecycle.Tx) error { return tx.DeleteGrant(grant) },
		"PutKEK": func(tx lifecycle.Tx) error {
			return tx.PutKEK(lifecycle.KEK{Kind: lifecycle.KEKPool, Name: "p", ID: key.NewID(), KCV: []byte{4, 5, 6}})
		},
		"DeleteKEK":    func(tx lifecycle.Tx) error { return tx.DeleteKEK(lifecycle.KEKRoot, "p/m1") },
		"PutMember":    func(tx lifecycle.Tx) error { return tx.PutMember(lifecycle.MemberRecord{Pool: "p", Name: "m2"}) },
		"DeleteMember": func(tx lifecycle.Tx) error { return tx.DeleteMember("p", "m1") },
	} {
		if err := a.Update(ctx, f); !errors.Is(err, lifecycle.ErrUnaudited) {
			t.Errorf("%s: %v, want ErrUnaudited", name, err)
		}
	}
	if e := epochOf(t, b); e != before {
		t.Error("a change without an entry was made")
	}
	turn := lifecycle.KEK{Kind: lifecycle.KEKTurn, Name: "p/m1", ID: key.NewID()}
	for name, f := range map[string]func(lifecycle.Tx) error{
		"uses":    func(tx lifecycle.Tx) error { _, err := tx.AddUses(v, 1); return err },
		"a lease": func(tx lifecycle.Tx) error { _, err := tx.AcquireLease("l", "h", time.Minute); return err },
		"a job": func(tx lifecycle.Tx) error {
			_, err := tx.InsertJob(lifecycle.NewJob{Target: "t", Kind: "k"})
			return err
		},
		"a KEK begun": func(tx lifecycle.Tx) error {
			return tx.PutKEK(lifecycle.KEK{Kind: lifecycle.KEKRoot, Name: "p/m9", ID: key.NewID()})
		},
		"a turn": func(tx lifecycle.Tx) error { return tx.PutKEK(turn) },
		"a turn's end": func(tx lifecycle.Tx) error {
			return errors.Join(tx.PutKEK(turn), tx.DeleteKEK(lifecycle.KEKTurn, "p/m1"))
		},
		"nothing changed": func(lifecycle.Tx) error { return nil },
	} {
		if err := a.Update(ctx, f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := a.View(ctx, func(tx lifecycle.Tx) error { return tx.Append(note("view")) }); err == nil {
		t.Error("a view appended to the log")
	}
}

// logged: the log begins with the store, entries come back in order, and its tree is that of its entries.
func logged(t *testing.T, a, b lifecycle.Store) {
	var begun int64
	view(t, b, func(tx lifecycle.Tx) (err error) { begun, err = tx.LogSize(); return err })
	if begun != 1 {
		t.Fatalf("a new store has a log of %d entries, want the one that begins it", begun)
	}
	const more = 450 // in more than one statement
	update(t, a, func(tx lifecycle.Tx) error {
		if err := tx.Append(note("first")); err != nil {
			return err
		}
		all := make([]*audit.Entry, more)
		for i := range all {
			all[i] = note(audit.Name(fmt.Sprintf("e%d", i)))
		}
		return tx.Append(all...)
	})
	boom := errors.New("boom")
	if err := a.Update(context.Background(), func(tx lifecycle.Tx) error { return errors.Join(tx.Append(note("failed")), boom) }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if size := CheckTree(t, b); size != begun+1+more {
		t.Errorf("the log has %d entries, want %d", size, begun+1+more)
	}
	update(t, b, func(tx lifecycle.Tx) error {
		return errors.Join(tx.PutCheckpoint(5, []byte("five")), tx.PutCheckpoint(3, []byte("three")), tx.PutLogKey("k"), tx.PutLogKey("k"))
	})
	view(t, a, func(tx lifecycle.Tx) error {
		page, err := tx.Entries(2, 3)
		if err != nil || len(page) != 3 {
			t.Fatalf("%d entries, %v", len(page), err)
		}
		if e, err := audit.Decode(page[0]); err != nil || e.Seq != 2 || e.Object.Name != "e0" || e.Actor.Auth != audit.BySystem || e.Node == "" || e.Time == 0 {
			t.Errorf("entry 2 is %+v, %v", e, err)
		}
		last, err1 := tx.LastCheckpoint()
		some, err2 := tx.Checkpoints(3, 10)
		keys, err3 := tx.LogKeys()
		if string(last) != "five" || len(some) != 1 || len(keys) != 1 || keys[0] != "k" {
			t.Errorf("%s, %s, %v", last, some, keys)
		}
		return errors.Join(err1, err2, err3)
	})
}

// CheckTree checks that the log is without gaps and that its stored tree is that of its entries. It returns its size.
func CheckTree(t *testing.T, s lifecycle.Store) (size int64) {
	t.Helper()
	view(t, s, func(tx lifecycle.Tx) error {
		var err error
		if size, err = tx.LogSize(); err != nil {
			return err
		}
		leaves, err := tx.Entries(0, int(size)+1)
		if err != nil {
			return err
		}
		var tree audit.Tree
		for i, l := range leaves {
			e, err := audit.Decode(l)
			if err != nil {
				return err
			}
			if int(e.Seq) != i || (e.Action == audit.LogBegun) != (i == 0) {
				t.Errorf("entry %d is %s with the number %d", i, e.Action, e.Seq)
			}
			if tree, _, err = tree.Append(e); err != nil {
				return err
			}
		}
		stored, err := audit.Resume(size, tx)
		if err == nil && (tree.Size() != size || stored.Root() != tree.Root()) {
			t.Errorf("the stored tree of %d entries is not that of the %d there are", size, tree.Size())
		}
		return err
	})
	return size
}

// appending: what many append at once is all there, one after the other.
func appending(t *testing.T, a, b lifecycle.Store) {
	const many, times = 6, 8
	before := CheckTree(t, a)
	at(t, many, func(i int) error {
		for n := range times {
			name := fmt.Sprintf("c%d-%d", i, n)
			err := []lifecycle.Store{a, b}[i%2].Update(context.Background(), func(tx lifecycle.Tx) error {
				if n%2 == 0 { // some change something too
					if err := tx.InsertClient(key.Client{Name: name}); err != nil {
						return err
					}
				}
				return tx.Append(note(audit.Name(name)))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if size := CheckTree(t, b); size != before+many*times {
		t.Errorf("the log has %d entries, want %d", size, before+many*times)
	}
}

// CheckLog checks that the log of a store is whole, that it says nothing that cannot be, and that it leads to the state that is in the store.
func CheckLog(t testing.TB, s lifecycle.Store) {
	t.Helper()
	err := s.View(context.Background(), func(tx lifecycle.Tx) error {
		size, err := tx.LogSize()
		if err != nil {
			return err
		}
		leaves, err := tx.Entries(0, int(size)+1)
		if err != nil {
			return err
		}
		r := audit.NewReplay()
		for i, l := range leaves {
			e, err := audit.Decode(l)
			if err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
			for _, p := range r.Apply(e) {
				t.Errorf("entry %d: %s: %s", i, p.Check, p.What)
			}
		}
		for _, p := range r.Finish() {
			t.Errorf("at the end: %s: %s", p.Check, p.What)
		}
		var want, got []string
		for f := range r.Facts() {
			b, err := f.Encode()
			if err != nil {
				return err
			}
			want = append(want, string(b))
		}
		for f, err := range lifecycle.Facts(tx) {
			if err != nil {
				return err
			}
			b, err := f.Encode()
			if err != nil {
				return err
			}
			got = append(got, string(b))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the state in the store is\n%s\nand from the log follows\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
