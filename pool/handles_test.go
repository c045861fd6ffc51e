package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// cramped is a token with room for a few objects, whose calls take a millisecond each. It answers with the ID of the key that
// was used. One call in so many loses its session, with the objects that were made in it.
type cramped struct {
	room   int
	losing int
	calls  atomic.Int64

	mu      sync.Mutex
	objects map[hsm.Handle]crampedObject
	next    hsm.Handle
	most    int
}

type crampedObject struct {
	id    key.ID
	owner *crampedSession
}

type crampedSession struct {
	hsm.Keeper // nil: what the pool does not use here
	t          *cramped
	closed     bool
}

func (t *cramped) Info() hsm.Info { return hsm.Info{} }
func (t *cramped) Close() error   { return nil }
func (t *cramped) OpenSession(context.Context) (hsm.Session, error) {
	return &crampedSession{t: t}, nil
}

func (s *crampedSession) Find(hsm.Class, []byte) (hsm.Handle, error) { return 1, nil }

func (s *crampedSession) Close() error {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.closed = true
	for h, o := range s.t.objects {
		if o.owner == s {
			delete(s.t.objects, h)
		}
	}
	return nil
}

func (s *crampedSession) Do(op *hsm.Op) error {
	time.Sleep(time.Millisecond)
	if op.Kind == hsm.OpRandom {
		op.Out = append(op.Out[:0], make([]byte, op.Len)...)
		return nil
	}
	if n := s.t.calls.Add(1); s.t.losing > 0 && n%int64(s.t.losing) == 0 {
		_ = s.Close()
		op.Err = &hsm.Error{Code: hsm.SessionHandleInvalid, Function: hsm.FnSign}
		return op.Err
	}
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	o, ok := s.t.objects[op.Key]
	if !ok {
		op.Err = &hsm.Error{Code: hsm.KeyHandleInvalid, Function: hsm.FnSign}
		return nil
	}
	op.Out = append(op.Out[:0], o.id[:]...)
	return nil
}

func (s *crampedSession) UnwrapKey(_ hsm.Handle, _ hsm.Mechanism, _ []byte, spec hsm.Spec) (hsm.Handle, error) {
	time.Sleep(time.Millisecond)
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if len(s.t.objects) >= s.t.room {
		return 0, &hsm.Error{Code: hsm.DeviceMemory, Function: hsm.FnUnwrap}
	}
	s.t.next++
	s.t.objects[s.t.next] = crampedObject{key.ID(spec.ID), s}
	s.t.most = max(s.t.most, len(s.t.objects))
	return s.t.next, nil
}

func (s *crampedSession) Destroy(h hsm.Handle) error {
	time.Sleep(time.Millisecond)
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	delete(s.t.objects, h)
	return nil
}

// askCramped lets callers ask for many keys at a time, and returns how often a key was loaded for each operation.
func askCramped(t *testing.T, tok *cramped, sessions, handles, keys, callers, each int) float64 {
	t.Helper()
	p, err := New(Config{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	tok.objects = map[hsm.Handle]crampedObject{}
	err = p.Add(MemberConfig{Name: "a", Sessions: sessions, Handles: handles, KEK: []byte("kek"), Open: func(context.Context) (hsm.Token, error) { return tok, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range callers {
		r := rand.New(rand.NewPCG(uint64(i), 0))
		wg.Go(func() {
			for range each {
				k := &Key{ID: key.ID([]byte(fmt.Sprintf("key-%012d", r.IntN(keys)))), Blob: []byte{1}}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				out, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, In: []byte("x")})
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("an operation was not done within a minute: %v", err)
					return
				}
				if tok.losing > 0 && errors.Is(err, ErrDevice) {
					continue // two sessions were lost under it, one after the other
				}
				if err != nil || !bytes.Equal(out, k.ID[:]) {
					t.Errorf("with key %s: %q, %v", k.ID[:], out, err)
				}
			}
		})
	}
	wg.Wait()
	s := p.Stat().Members[0]
	if tok.most > handles || s.Handles > handles {
		t.Errorf("%d objects were on the token and %d are cached, %d are allowed", tok.most, s.Handles, handles)
	}
	if h := p.find("a").gen.Load().handles; h.taken != h.len() {
		t.Errorf("%d places are taken by %d keys", h.taken, h.len())
	}
	return float64(s.Loads) / float64(callers*each)
}

func TestManyKeysShareFewHandles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if loads := askCramped(t, &cramped{room: 64}, 16, 64, 1000, 100, 50); loads < 0.8 || loads > 1 {
			t.Errorf("%.2f loads for each operation with room for 6 %% of the keys", loads)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if loads := askCramped(t, &cramped{room: 64}, 16, 64, 64, 100, 50); loads*5000 > 64 {
			t.Errorf("%.2f loads for each operation though every key has room", loads)
		}
	})
}

// Sessions with every handle in use by others wait for one, and neither fail nor take more room than the token has.
func TestMoreSessionsThanHandlesWaitForOne(t *testing.T) {
	for _, handles := range []int{1, 8} {
		synctest.Test(t, func(t *testing.T) {
			askCramped(t, &cramped{room: handles}, 16, handles, 100, 64, 50)
		})
	}
}

// A place in the cache is given back whichever way its key is lost.
func TestLostSessionsGiveTheirHandlesBack(t *testing.T) {
	for _, handles := range []int{1, 8, 32} {
		synctest.Test(t, func(t *testing.T) {
			askCramped(t, &cramped{room: handles, losing: 50}, 16, handles, 100, 64, 50)
		})
	}
}
