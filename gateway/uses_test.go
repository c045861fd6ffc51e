package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle/key"
)

func TestUsesAreSetAsideBeforeTheyAreUsed(t *testing.T) {
	sh := &shelf{used: map[key.ID]uint64{}, most: 1 << 32}
	c := newUseCounter(sh, 10)
	id := key.NewID()
	want := uint64(0)
	for i := range uint64(100_000) {
		if err := c.take(context.Background(), id); err != nil {
			t.Fatal(err)
		}
		if i == want {
			want += firstBlock << blocksUntil(want)
		}
		if sh.used[id] != want || sh.used[id] <= i {
			t.Fatalf("use %d: %d were set aside, want %d", i, sh.used[id], want)
		}
	}
}

// blocksUntil is how many blocks, each twice the one before, make up n.
func blocksUntil(n uint64) (blocks int) {
	for sum := uint64(0); sum < n; blocks++ {
		sum += firstBlock << blocks
	}
	return blocks
}

func TestUsesEndAtTheLimit(t *testing.T) {
	sh := &shelf{used: map[key.ID]uint64{}, most: 1 << 32}
	id, other := key.NewID(), key.NewID()
	sh.used[id] = 1<<32 - 1500
	c := newUseCounter(sh, 10)
	var granted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				if err := c.take(context.Background(), id); err == nil {
					granted.Add(1)
				} else if errors.Is(err, key.ErrState) && outward(err).Kind == KeyState {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if granted.Load() != 1500 || refused.Load() != 900 {
		t.Errorf("%d uses granted and %d refused, with 1500 left", granted.Load(), refused.Load())
	}
	if err := c.take(context.Background(), other); err != nil {
		t.Errorf("another version: %v", err)
	}
}

func TestForgettingACountRepeatsNothing(t *testing.T) {
	sh := &shelf{used: map[key.ID]uint64{}, most: 1 << 32}
	c := newUseCounter(sh, 2)
	ids := []key.ID{key.NewID(), key.NewID(), key.NewID(), key.NewID()}
	taken := map[key.ID]uint64{}
	for range 50 {
		for _, id := range ids {
			if err := c.take(context.Background(), id); err != nil {
				t.Fatal(err)
			}
			if taken[id]++; taken[id] > sh.used[id] {
				t.Fatal("more uses than were set aside")
			}
			if len(c.blocks) > 2 {
				t.Fatalf("%d counts are kept, 2 may be", len(c.blocks))
			}
		}
	}
}

func TestNobodyWaitsForTheCountLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := &shelf{used: map[key.ID]uint64{}, most: 1 << 32, hangs: make(chan struct{})}
		c := newUseCounter(sh, 10)
		id := key.NewID()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				may := time.Second
				if i == 0 {
					may = time.Minute // this one asks the store, the others wait for it
				}
				ctx, cancel := context.WithTimeout(context.Background(), may)
				defer cancel()
				begun := time.Now()
				if err := c.take(ctx, id); outward(err).Kind != Deadline || time.Since(begun) != may {
					t.Errorf("%v after %s", err, time.Since(begun))
				}
			})
		}
		wg.Wait()
		close(sh.hangs)
		sh.fails = errBoom
		if e := outward(c.take(context.Background(), id)); e.Kind != Unavailable || !errors.Is(e, errBoom) {
			t.Errorf("with the store down: %v", e)
		}
		sh.fails = nil
		if err := c.take(context.Background(), id); err != nil {
			t.Errorf("with the store back: %v", err)
		}
	})
}

// Every call that encrypts with AES-GCM counts, and no other.
func TestEveryEncryptionIsCounted(t *testing.T) {
	g := newGate(t, nil)
	id := g.shelf.keys["k-wrap"].Versions[0].ID
	left := func() int64 { return g.s.uses.block(id).left.Load() }
	k := b64("0123456789abcdef")
	enc := g.ok("k-wrap", "encrypt", `{"plaintext":%q}`, k)["ciphertext"]
	had := left()
	f := func(n int64, op, format string, a ...any) {
		t.Helper()
		g.ok("k-wrap", op, format, a...)
		if got := had - left(); got != n {
			t.Errorf("%s counted %d uses, want %d", op, got, n)
		}
		had = left()
	}
	f(1, "encrypt", `{"plaintext":%q}`, k)
	f(1, "wrap", `{"plaintext_key":%q}`, k)
	f(1, "rewrap", `{"ciphertext":%q}`, enc)
	f(1, "datakey", `{}`)
	f(0, "decrypt", `{"ciphertext":%q}`, enc)
	f(0, "wrap", `{"plaintext_key":%q,"format":"aes-kw"}`, k)
	g.shelf.most = firstBlock
	g.s.uses.block(id).left.Store(0)
	g.refused(g.key("k-wrap", "encrypt", `{"plaintext":"aGk="}`), KeyState, "used up")
}
