//go:build !race

package pool

import (
	"context"
	"testing"
	"time"

	"keyway/hsm"
)

// instant is a token that answers at once, so that what is measured is the pool.
type instant struct{}

type instantSession struct{ out []byte }

func (t *instant) OpenSession(context.Context) (hsm.Session, error) {
	return &instantSession{make([]byte, 16)}, nil
}
func (t *instant) Info() hsm.Info { return hsm.Info{} }
func (t *instant) Close() error   { return nil }

func (s *instantSession) Do(op *hsm.Op) error {
	op.Out, op.Err = append(op.Out[:0], s.out...), nil
	return nil
}
func (s *instantSession) Find(hsm.Class, []byte) (hsm.Handle, error) { return 1, nil }
func (s *instantSession) Close() error                               { return nil }

func instantPool(tb testing.TB) *Pool {
	tb.Helper()
	p, err := New(Config{Name: "bench"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.Close() })
	for _, n := range []string{"a", "b", "c"} {
		if err := p.Add(MemberConfig{Name: n, Open: func(context.Context) (hsm.Token, error) { return &instant{}, nil }}); err != nil {
			tb.Fatal(err)
		}
	}
	if err := p.Wait(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestDoAllocatesLittle(t *testing.T) {
	p := instantPool(t)
	k := &Key{ID: [16]byte{1}}
	in := make([]byte, 32)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := testing.AllocsPerRun(2000, func() {
		if _, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, In: in}); err != nil {
			t.Fatal(err)
		}
	})
	if n > 6 {
		t.Errorf("%.1f allocations for one operation, at most 6 are promised", n)
	}
}

func TestObservationsAllocateNothing(t *testing.T) {
	m := newMemberMetrics("pool", "member")
	n := testing.AllocsPerRun(1000, func() {
		m.record(hsm.OpSign, time.Microsecond, time.Millisecond, 0)
		m.record(hsm.OpRandom, time.Microsecond, time.Millisecond, hsm.Locked)
		m.record(hsm.OpKind(200), time.Microsecond, time.Millisecond, 0) // of none that there is
	})
	if n > 0 {
		t.Errorf("%.1f allocations for three observations", n)
	}
}

func BenchmarkDo(b *testing.B) {
	p := instantPool(b)
	k := &Key{ID: [16]byte{1}}
	in := make([]byte, 32)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, In: in}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
