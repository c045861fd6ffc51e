// Package storetest is the suite that every lifecycle.Store passes.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

// Test runs the suite. open returns two handles on one new, empty store, as two processes would have them.
func Test(t *testing.T, open func(*testing.T) (a, b lifecycle.Store)) {
	for name, f := range map[string]func(*testing.T, lifecycle.Store, lifecycle.Store){
		"KeysAndVersions": keys, "ChangesRaiseTheEpoch": epoch, "AFailedUpdateChangesNothing": rollback,
		"ViewsCannotChange": readOnly, "ClientsAndGrants": clients, "MembersAndKEKs": members, "WhatAMemberMustFit": fit, "KeysInUse": keysInUse, "UsesAdd": uses,
		"NothingIsChangedUnaudited": unaudited, "TheLogIsWhole": logged, "ManyAppendAtOnce": appending,
		"ChangesAtOnceAddUp": together, "ASlowChangeIsNotStarved": slow, "OneNameIsTakenOnce": oneName, "NamesSortByTheirBytes": order, "ChangesAreToldOf": told, "AnEndedContextChangesNothing": ended,
		"OneHoldsALease": leases, "OneOfManyGetsALease": competing, "ATakeOverWaitsForWhatIsFenced": fenced,
		"JobsOfATargetGoInOrder": jobs, "UnknownAndDeadJobs": unclear, "AClaimerThatCrashed": crashed, "JobsAreFenced": fencedJobs, "ManyClaimers": claimers,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t)
			f(t, a, b)
		})
	}
}

func update(t *testing.T, s lifecycle.Store, f func(lifecycle.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// change is update with an entry in the log.
func change(t *testing.T, s lifecycle.Store, f func(lifecycle.Tx) error) {
	t.Helper()
	update(t, s, Noted(f))
}

func view(t *testing.T, s lifecycle.Store, f func(lifecycle.Tx) error) {
	t.Helper()
	if err := s.View(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// insert puts a key called name with one version in.
func insert(t *testing.T, s lifecycle.Store, name string) (key.Key, key.ID) {
	t.Helper()
	k := key.Key{ID: key.NewID(), Name: name, Algorithm: key.AES256, Usages: key.Wrap | key.Unwrap, Pool: "default", Created: time.Now()}
	id := key.NewID()
	change(t, s, func(tx lifecycle.Tx) error {
		if err := tx.InsertKey(k); err != nil {
			return err
		}
		if err := tx.InsertVersion(lifecycle.VersionRow{ID: id, KeyID: k.ID, Number: 1, State: key.PreActive, Created: k.Created}); err != nil {
			return err
		}
		if err := tx.SetMaterial(id, lifecycle.Material{Master: []byte("master"), Blob: []byte("blob"), Mechanism: 0x2109}); err != nil {
			return err
		}
		if err := tx.SetState(id, key.Active, time.Now()); err != nil {
			return err
		}
		return tx.SetPrimary(k.ID, 1)
	})
	return k, id
}

func keys(t *testing.T, a, b lifecycle.Store) {
	k, id := insert(t, a, "k1")
	insert(t, a, "k2")
	view(t, b, func(tx lifecycle.Tx) error {
		v, err := tx.Version(key.Ref{Name: "k1"})
		if err != nil {
			return err
		}
		if v.ID != id || v.KeyID != k.ID || v.Number != 1 || v.State != key.Active || !bytes.Equal(v.Blob, []byte("blob")) || v.BlobMechanism != 0x2109 ||
			v.Usages != k.Usages || v.Algorithm != k.Algorithm || v.Pool != "default" || v.Created.UnixMilli() != k.Created.UnixMilli() {
			t.Errorf("version came back as %+v", v)
		}
		for _, r := range []key.Ref{{Name: "k1", Version: 2}, {Name: "none"}, {Name: "none", Version: 1}} {
			if _, err := tx.Version(r); !errors.Is(err, key.ErrNotFound) {
				t.Errorf("Version(%s): %v, want ErrNotFound", r, err)
			}
		}
		got, err := tx.Keys("k1", 10)
		if err == nil && (len(got) != 1 || got[0].Name != "k2" || len(got[0].Versions) != 1) {
			t.Errorf("Keys after k1: %+v", got)
		}
		return err
	})
	change(t, a, func(tx lifecycle.Tx) error {
		if err := tx.EraseMaterial(id); err != nil {
			return err
		}
		return tx.SetPrimary(k.ID, 0)
	})
	view(t, b, func(tx lifecycle.Tx) error {
		if _, err := tx.Version(key.Ref{Name: "k1"}); !errors.Is(err, key.ErrState) {
			t.Errorf("a key without a primary version: %v, want ErrState", err)
		}
		v, err := tx.Version(key.Ref{Name: "k1", Version: 1})
		if err == nil && v.Blob != nil {
			t.Error("erased material is still there")
		}
		return err
	})
	err := a.Update(context.Background(), Noted(func(tx lifecycle.Tx) error { return tx.InsertKey(key.Key{ID: key.NewID(), Name: "k2"}) }))
	if err == nil {
		t.Error("two keys of one name")
	}
}

func epochOf(t *testing.T, s lifecycle.Store) (e uint64) {
	t.Helper()
	view(t, s, func(tx lifecycle.Tx) (err error) { e, err = tx.Epoch(); return err })
	return e
}

func epoch(t *testing.T, a, b lifecycle.Store) {
	before := epochOf(t, b)
	_, id := insert(t, a, "k")
	after := epochOf(t, b)
	if after <= before {
		t.Errorf("a new key left the epoch at %d", after)
	}
	update(t, a, func(tx lifecycle.Tx) error { _, err := tx.AddUses(id, 10); return err })
	if e := epochOf(t, b); e != after {
		t.Errorf("counting uses raised the epoch from %d to %d: every gateway would drop its cache", after, e)
	}
}

func rollback(t *testing.T, a, b lifecycle.Store) {
	before := epochOf(t, a)
	boom := errors.New("boom")
	err := a.Update(context.Background(), func(tx lifecycle.Tx) error {
		if err := tx.InsertKey(key.Key{ID: key.NewID(), Name: "half"}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	view(t, b, func(tx lifecycle.Tx) error {
		if _, err := tx.Key("half"); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("half an update is there: %v", err)
		}
		return nil
	})
	if e := epochOf(t, b); e != before {
		t.Errorf("a failed update raised the epoch")
	}
}

func readOnly(t *testing.T, a, _ lifecycle.Store) {
	err := a.View(context.Background(), func(tx lifecycle.Tx) error { return tx.InsertKey(key.Key{ID: key.NewID(), Name: "x"}) })
	if err == nil {
		t.Error("a view changed the store")
	}
}

func clients(t *testing.T, a, b lifecycle.Store) {
	c := key.Client{Name: "app", Groups: []string{"web"}, TokenHashes: []string{"aa"}, Rate: 5}
	var id int64
	change(t, a, func(tx lifecycle.Tx) (err error) {
		if err := tx.InsertClient(c); err != nil {
			return err
		}
		id, err = tx.InsertGrant(key.Grant{Client: "app", Pattern: "*", Usages: key.Sign})
		return err
	})
	view(t, b, func(tx lifecycle.Tx) error {
		got, err := tx.Client("app")
		if err != nil {
			return err
		}
		if got.Rate != 5 || got.TokenHashes[0] != "aa" || got.Groups[0] != "web" {
			t.Errorf("client came back as %+v", got)
		}
		g, err := tx.Grants()
		if err == nil && (len(g) != 1 || g[0].ID != id || g[0].Usages != key.Sign) {
			t.Errorf("grants came back as %+v, want ID %d", g, id)
		}
		return err
	})
	c.Disabled = true
	change(t, a, func(tx lifecycle.Tx) error { return tx.UpdateClient(c) })
	change(t, a, func(tx lifecycle.Tx) error { return tx.DeleteGrant(id) })
	view(t, b, func(tx lifecycle.Tx) error {
		all, err := tx.Clients()
		if err == nil && (len(all) != 1 || !all[0].Disabled) {
			t.Errorf("clients: %+v", all)
		}
		return err
	})
	change(t, a, func(tx lifecycle.Tx) error { return tx.DeleteClient("app") })
	for name, f := range map[string]func(lifecycle.Tx) error{
		"client": func(tx lifecycle.Tx) error { return tx.DeleteClient("app") },
		"update": func(tx lifecycle.Tx) error { return tx.UpdateClient(c) },
		"grant":  func(tx lifecycle.Tx) error { return tx.DeleteGrant(id) },
	} {
		if err := a.Update(context.Background(), f); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("%s that is not there: %v, want ErrNotFound", name, err)
		}
	}
}

func members(t *testing.T, a, b lifecycle.Store) {
	kek := lifecycle.KEK{Kind: lifecycle.KEKPool, Name: "default", ID: key.NewID(), KCV: []byte{1, 2, 3}, Created: time.Now()}
	change(t, a, func(tx lifecycle.Tx) error {
		if err := tx.PutKEK(kek); err != nil {
			return err
		}
		return tx.PutMember(lifecycle.MemberRecord{Pool: "default", Name: "m1", Driver: "soft", Sessions: 4})
	})
	view(t, b, func(tx lifecycle.Tx) error {
		k, err := tx.KEK(lifecycle.KEKPool, "default")
		if err != nil {
			return err
		}
		if k.ID != kek.ID || !bytes.Equal(k.KCV, kek.KCV) {
			t.Errorf("KEK came back as %+v", k)
		}
		if _, err := tx.KEK(lifecycle.KEKRoot, "default"); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("a KEK of another kind: %v", err)
		}
		m, err := tx.Members("default")
		if err == nil && (len(m) != 1 || m[0].Sessions != 4) {
			t.Errorf("members came back as %+v", m)
		}
		return err
	})
	change(t, a, func(tx lifecycle.Tx) error { return tx.DeleteMember("default", "m1") })
}

func fit(t *testing.T, a, b lifecycle.Store) {
	root := func(name string) lifecycle.KEK {
		return lifecycle.KEK{Kind: lifecycle.KEKRoot, Name: name, ID: key.NewID(), KCV: []byte{1, 2, 3}, Created: time.UnixMilli(5).UTC()}
	}
	two, one := root("p/m2"), root("p/m1")
	change(t, a, func(tx lifecycle.Tx) error {
		for _, k := range []lifecycle.KEK{two, one, {Kind: lifecycle.KEKPool, Name: "p", ID: key.NewID()}} {
			if err := tx.PutKEK(k); err != nil {
				return err
			}
		}
		return errors.Join(
			tx.PutMember(lifecycle.MemberRecord{Pool: "p", Name: "m2"}), tx.PutMember(lifecycle.MemberRecord{Pool: "q", Name: "m0"}), tx.PutMember(lifecycle.MemberRecord{Pool: "p", Name: "m1"}))
	})
	view(t, b, func(tx lifecycle.Tx) error {
		got, err := tx.KEKs(lifecycle.KEKRoot)
		if err == nil && !reflect.DeepEqual(got, []lifecycle.KEK{one, two}) {
			t.Errorf("Root KEKs came back as %+v", got)
		}
		all, err2 := tx.AllMembers()
		if err2 == nil && (len(all) != 3 || all[0].Name != "m1" || all[1].Name != "m2" || all[2].Pool != "q") {
			t.Errorf("all members came back as %+v", all)
		}
		return errors.Join(err, err2)
	})
	change(t, b, func(tx lifecycle.Tx) error { return tx.DeleteKEK(lifecycle.KEKRoot, "p/m1") })
	if err := a.Update(context.Background(), func(tx lifecycle.Tx) error { return tx.DeleteKEK(lifecycle.KEKRoot, "p/m1") }); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("a KEK that is not there: %v, want ErrNotFound", err)
	}
	view(t, a, func(tx lifecycle.Tx) error {
		got, err := tx.KEKs(lifecycle.KEKRoot)
		if err == nil && (len(got) != 1 || got[0].Name != "p/m2") {
			t.Errorf("after one was deleted: %+v", got)
		}
		return err
	})
}

func keysInUse(t *testing.T, a, b lifecycle.Store) {
	for _, r := range []struct {
		name, pool string
		algorithm  key.Algorithm
		usages     key.Usage
		material   int // versions that have some
		versions   int
	}{
		{"sign-b", "p", key.ECP256, key.Sign | key.Verify, 1, 2}, {"sign-a", "p", key.ECP256, key.Sign | key.Verify, 1, 1},
		{"rsa-sign", "p", key.RSA2048, key.Sign, 1, 1}, {"rsa-open", "p", key.RSA2048, key.Decrypt, 1, 1},
		{"gone", "p", key.Ed25519, key.Sign, 0, 2}, {"elsewhere", "q", key.Ed25519, key.Sign, 1, 1},
	} {
		k := key.Key{ID: key.NewID(), Name: r.name, Algorithm: r.algorithm, Usages: r.usages, Pool: r.pool, Created: time.Now()}
		change(t, a, func(tx lifecycle.Tx) error {
			err := tx.InsertKey(k)
			for n := 1; n <= r.versions; n++ {
				id := key.NewID()
				err = errors.Join(err, tx.InsertVersion(lifecycle.VersionRow{ID: id, KeyID: k.ID, Number: uint32(n), State: key.PreActive, Created: time.Now()}))
				if n <= r.material {
					err = errors.Join(err, tx.SetMaterial(id, lifecycle.Material{Master: []byte{1}, Blob: []byte{2}, Mechanism: 1}))
				}
			}
			return err
		})
	}
	view(t, b, func(tx lifecycle.Tx) error {
		got, err := tx.KeysInUse("p")
		want := []lifecycle.KeysInUse{
			{Algorithm: key.ECP256, Usages: key.Sign | key.Verify, Count: 2, Example: "sign-a"},
			{Algorithm: key.RSA2048, Usages: key.Sign, Count: 1, Example: "rsa-sign"}, {Algorithm: key.RSA2048, Usages: key.Decrypt, Count: 1, Example: "rsa-open"},
		}
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("keys in use: %+v\nwant %+v", got, want)
		}
		return err
	})
}

func uses(t *testing.T, a, b lifecycle.Store) {
	_, id := insert(t, a, "k")
	var total uint64
	for _, s := range []lifecycle.Store{a, b, a} {
		update(t, s, func(tx lifecycle.Tx) (err error) { total, err = tx.AddUses(id, 1<<31); return err })
	}
	if total != 3<<31 {
		t.Errorf("total %d, want %d", total, uint64(3)<<31)
	}
}
