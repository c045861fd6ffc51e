package lifecycle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

func TestCreateRefusesWhatMakesNoSense(t *testing.T) {
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	f := func(r lifecycle.KeyRequest, want error, text string) {
		t.Helper()
		before := w.token.made
		_, err := w.manager.CreateKey(context.Background(), "test", r)
		if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%+v: %v, want %v with %q", r, err, want, text)
		}
		if w.token.made != before {
			t.Errorf("%+v: a key was generated all the same", r)
		}
	}
	if _, err := w.manager.CreateKey(context.Background(), "test", lifecycle.KeyRequest{Name: "taken", Algorithm: key.AES256}); err != nil {
		t.Fatal(err)
	}
	f(lifecycle.KeyRequest{Name: "A", Algorithm: key.AES256}, lifecycle.ErrInvalid, "bad name")
	f(lifecycle.KeyRequest{Name: "k", Algorithm: "aes-512"}, lifecycle.ErrInvalid, "aes-256")
	f(lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256, Usages: key.Sign | key.Wrap}, lifecycle.ErrInvalid, "sign")
	f(lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256, Pool: "other"}, lifecycle.ErrInvalid, `"other"`)
	f(lifecycle.KeyRequest{Name: "taken", Algorithm: key.AES256}, lifecycle.ErrExists, "taken")
	m := lifecycle.NewManager(lifecycle.ManagerConfig{Store: w.store})
	if _, err := m.CreateKey(context.Background(), "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256}); !errors.Is(err, lifecycle.ErrNoCustody) {
		t.Errorf("without custody: %v", err)
	}
	if _, err := m.Rotate(context.Background(), "test", "taken"); !errors.Is(err, lifecycle.ErrNoCustody) {
		t.Errorf("without custody: %v", err)
	}
	if _, err := w.manager.Rotate(context.Background(), "test", "none"); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("rotating a key that is not there: %v", err)
	}
}

func TestAnUnfinishedKeyIsFinishedByTheSameRequestOnly(t *testing.T) {
	ctx := context.Background()
	f := &faults{}
	w := newWorks(t, openStore(t), soft.New("custody"), f).prepare(t)
	r := lifecycle.KeyRequest{Name: "k", Algorithm: key.RSA2048, Usages: key.Sign | key.Verify}
	f.at = f.step + 6 // past the intent and the look-ups, in the token
	if _, err := w.manager.CreateKey(ctx, "test", r); !errors.Is(err, errBoom) {
		t.Fatalf("the token failed, and CreateKey returned %v", err)
	}
	if k, err := w.manager.Key(ctx, "k"); err != nil || k.Primary != 0 || k.Versions[0].State != key.PreActive {
		t.Fatalf("after a failure there is %+v, %v", k, err)
	}
	other := r
	other.Usages = key.Encrypt | key.Decrypt
	if _, err := w.manager.CreateKey(ctx, "test", other); !errors.Is(err, lifecycle.ErrExists) {
		t.Errorf("another request went on with the first one's key: %v", err)
	}
	k, err := w.manager.CreateKey(ctx, "test", r)
	if err != nil || k.Primary != 1 || len(k.Versions) != 1 || k.Usages != r.Usages {
		t.Errorf("the same request again: %+v, %v", k, err)
	}
}

func TestRotationKeepsOldVersionsForWhatTheyProtected(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	if _, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256}); err != nil {
		t.Fatal(err)
	}
	for n := uint32(2); n <= 4; n++ {
		k, err := w.manager.Rotate(ctx, "test", "k")
		if err != nil {
			t.Fatal(err)
		}
		if k.Primary != n || len(k.Versions) != int(n) {
			t.Fatalf("after rotation: primary %d of %d versions, want %d", k.Primary, len(k.Versions), n)
		}
	}
	seen := map[string]bool{}
	for n := uint32(1); n <= 4; n++ {
		v := versionOf(t, w.store, key.Ref{Name: "k", Version: n})
		if seen[string(v.Blob)] {
			t.Errorf("version %d has the material of another", n)
		}
		seen[string(v.Blob)] = true
		if open, protect := v.Permits(key.Unwrap, time.Now()), v.Permits(key.Wrap, time.Now()); open != nil || (protect == nil) != (n == 4) {
			t.Errorf("version %d (%s): unwraps %v, wraps %v", n, v.State, open, protect)
		}
	}
}

func TestIllegalTransitionsAreRefusedAndChangeNothing(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	if _, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256}); err != nil {
		t.Fatal(err)
	}
	f := func(version uint32, e key.Event, want error) {
		t.Helper()
		before, err := w.manager.Key(ctx, "k")
		must(t, err)
		_, err = w.manager.Change(ctx, "test", key.Ref{Name: "k", Version: version}, e)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Fatalf("%s of version %d: %v, want %v", e, version, err, want)
		}
		if after, err := w.manager.Key(ctx, "k"); err != nil || want != nil && fmt.Sprintf("%+v", *after.Versions[0]) != fmt.Sprintf("%+v", *before.Versions[0]) {
			t.Errorf("a refused %s changed something: %+v", e, after.Versions[0])
		}
	}
	f(1, key.Resume, key.ErrTransition)
	f(1, key.Destroy, key.ErrTransition)
	f(1, key.Activate, lifecycle.ErrInvalid)
	f(2, key.Suspend, key.ErrNotFound)
	f(0, key.Suspend, nil)
	f(1, key.Suspend, key.ErrTransition)
	f(0, key.Resume, nil)
	f(0, key.Deactivate, nil)
	f(0, key.Resume, key.ErrState) // there is no primary version any more
	f(1, key.Destroy, nil)
	f(1, key.Destroy, key.ErrTransition)
	f(1, key.Compromise, nil)
	if v := versionOf(t, w.store, key.Ref{Name: "k", Version: 1}); v.Blob != nil || v.State != key.DestroyedCompromised {
		t.Errorf("the tombstone is %s with %d bytes of material", v.State, len(v.Blob))
	}
}

// What somebody has disabled opens nothing again because somebody else rotates the key.
func TestARotationLiftsNoSuspension(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	_, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256})
	must(t, err)
	old := key.Ref{Name: "k", Version: 1}
	_, err = w.manager.Change(ctx, "test", old, key.Suspend)
	must(t, err)
	k, err := w.manager.Rotate(ctx, "test", "k")
	must(t, err)
	if k.Primary != 2 || k.Versions[0].State != key.Suspended {
		t.Fatalf("version %d is primary, the first is %s", k.Primary, k.Versions[0].State)
	}
	if err := k.Versions[0].Permits(key.Decrypt, time.Now()); !errors.Is(err, key.ErrState) {
		t.Errorf("it opens things: %v", err)
	}
	// It cannot be active beside its successor; whoever wants it to open things again says so.
	if _, err := w.manager.Change(ctx, "test", old, key.Resume); !errors.Is(err, key.ErrState) || !strings.Contains(err.Error(), "deactivate it") {
		t.Errorf("resumed beside the primary version: %v", err)
	}
	k, err = w.manager.Change(ctx, "test", old, key.Deactivate)
	must(t, err)
	if err := k.Versions[0].Permits(key.Decrypt, time.Now()); err != nil || k.Primary != 2 {
		t.Errorf("deactivated: %v; version %d is primary", err, k.Primary)
	}
}

// Two processes that share a store may both go on with one unfinished version. The second to come must not replace what
// the first has made: it may have protected something by then.
func TestMaterialThatIsThereIsNeverReplaced(t *testing.T) {
	ctx := context.Background()
	store, tok := openStore(t), soft.New("custody")
	f := &faults{}
	w := newWorks(t, store, tok, f).prepare(t)
	if _, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256}); err != nil {
		t.Fatal(err)
	}
	f.at = f.step + 8 // the rotation is recorded and then stops
	if _, err := w.manager.Rotate(ctx, "test", "k"); !errors.Is(err, errBoom) {
		t.Fatal(err)
	}
	var blob []byte
	slow := newWorks(t, store, tok, &faults{})
	slow.custody = lifecycle.NewCustody(lifecycle.CustodyConfig{Store: store, Token: interposed{slow.token, func() {
		if blob == nil {
			k, err := w.manager.Rotate(ctx, "test", "k")
			if err != nil || k.Primary != 2 {
				t.Errorf("the other process: %+v, %v", k, err)
			}
			blob = versionOf(t, store, key.Ref{Name: "k", Version: 2}).Blob
		}
	}}})
	slow.manager = lifecycle.NewManager(lifecycle.ManagerConfig{Store: store, Custody: slow.custody})
	if _, err := slow.manager.Rotate(ctx, "test", "k"); !errors.Is(err, key.ErrState) {
		t.Errorf("the second to finish: %v, want ErrState", err)
	}
	if v := versionOf(t, store, key.Ref{Name: "k", Version: 2}); blob == nil || !bytes.Equal(v.Blob, blob) {
		t.Error("the material of a version in use was replaced")
	}
}

// interposed runs f after the token's work is done and before anybody hears of it.
type interposed struct {
	*bench
	f func()
}

func (i interposed) With(ctx context.Context, do func(hsm.Keeper) error) error {
	err := i.bench.With(ctx, do)
	i.f()
	return err
}

// Random orders, with failures in between: at no time is there more than one active primary version, a version out of its
// order, material where it must not be, or a change of material.
func TestOrdersInAnyOrderKeepTheInvariants(t *testing.T) {
	ctx := context.Background()
	f := &faults{}
	store := openStore(t)
	w := newWorks(t, store, soft.New("custody"), f).prepare(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		name := fmt.Sprintf("k%d", run)
		blobs := map[key.ID]string{}
		ended := map[key.ID]key.State{}
		for range rapid.IntRange(1, 10).Draw(rt, "orders") {
			f.at, f.after = 0, rapid.Bool().Draw(rt, "after")
			if rapid.IntRange(0, 2).Draw(rt, "fails") == 0 {
				f.at = f.step + rapid.IntRange(1, 8).Draw(rt, "at")
			}
			version := uint32(rapid.IntRange(0, 3).Draw(rt, "version"))
			switch o := rapid.SampledFrom([]string{"create", "rotate", "change", "change", "change"}).Draw(rt, "order"); o {
			case "create":
				_, _ = w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: name, Algorithm: key.AES256})
			case "rotate":
				_, _ = w.manager.Rotate(ctx, "test", name)
			default:
				e := key.Event(rapid.IntRange(int(key.Activate), int(key.Destroy)).Draw(rt, "event"))
				_, _ = w.manager.Change(ctx, "test", key.Ref{Name: name, Version: version}, e)
			}
			f.at = 0
			look(rt, store, name, blobs, ended)
		}
	})
}

// look checks one key against what was seen of it before.
func look(t *rapid.T, store lifecycle.Store, name string, blobs map[key.ID]string, ended map[key.ID]key.State) {
	var k *key.Key
	err := store.View(context.Background(), func(tx lifecycle.Tx) (err error) { k, err = tx.Key(name); return err })
	if errors.Is(err, key.ErrNotFound) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	active := 0
	for i, v := range k.Versions {
		if v.Number != uint32(i+1) {
			t.Fatalf("version %d stands at place %d", v.Number, i+1)
		}
		primary := v.Number == k.Primary
		if v.State == key.Active {
			active++
		}
		if primary && v.State != key.Active && v.State != key.Suspended {
			t.Fatalf("the primary version %d is %s", v.Number, v.State)
		}
		if !primary && v.State == key.Active {
			t.Fatalf("version %d is %s and not the primary one (%d)", v.Number, v.State, k.Primary)
		}
		bare := v.State == key.PreActive || v.State == key.Destroyed || v.State == key.DestroyedCompromised
		// A version that was never activated may be compromised or destroyed without having had material.
		if bare && v.Blob != nil || !bare && v.Blob == nil && v.State != key.Compromised {
			t.Fatalf("version %d is %s with %d bytes of material", v.Number, v.State, len(v.Blob))
		}
		if old, ok := blobs[v.ID]; ok && v.Blob != nil && old != string(v.Blob) {
			t.Fatalf("the material of version %d changed", v.Number)
		}
		if v.Blob != nil {
			blobs[v.ID] = string(v.Blob)
		}
		if s, ok := ended[v.ID]; ok && v.State != s && v.State != key.DestroyedCompromised {
			t.Fatalf("version %d was %s and is %s", v.Number, s, v.State)
		}
		if v.State == key.Destroyed || v.State == key.DestroyedCompromised {
			ended[v.ID] = v.State
		}
	}
	if active > 1 {
		t.Fatalf("%d versions are active", active)
	}
}
