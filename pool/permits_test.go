package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
)

// throttled is a token that does so many calls at once, of 5 ms each, and says that it is busy above.
type throttled struct {
	atOnce          atomic.Int64
	inside          atomic.Int64
	served, refused atomic.Int64
}

type throttledSession struct{ *throttled }

func (t *throttled) Info() hsm.Info { return hsm.Info{} }
func (t *throttled) Close() error   { return nil }
func (t *throttled) OpenSession(context.Context) (hsm.Session, error) {
	return throttledSession{t}, nil
}
func (s throttledSession) Find(hsm.Class, []byte) (hsm.Handle, error) { return 1, nil }

func (s throttledSession) Do(op *hsm.Op) error {
	defer s.inside.Add(-1)
	if s.inside.Add(1) > s.atOnce.Load() {
		s.refused.Add(1)
		op.Err = &hsm.Error{Code: hsm.FunctionFailed, Function: hsm.FnRandom, Vendor: hsm.VendorCloudHSM}
		return nil
	}
	time.Sleep(5 * time.Millisecond)
	op.Out, op.Err = append(op.Out[:0], make([]byte, op.Len)...), nil
	s.served.Add(1)
	return nil
}

func TestTheLimitOfABusyTokenIsFoundAndFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tok := &throttled{}
		tok.atOnce.Store(10)
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 64, Open: func(context.Context) (hsm.Token, error) { return tok, nil }}); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err != nil { // a canary is part of joining
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := p.Do(t.Context(), nil, random16); err != nil {
						failed.Add(1)
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
		}
		// Within a second after the token's limit has changed, and then for ten seconds.
		for _, n := range []int64{10, 40, 4, 64} {
			refused, failures := tok.refused.Load(), failed.Load()
			tok.atOnce.Store(n)
			time.Sleep(6 * time.Second) // the wall is tried every 5 s at least
			if r, f := tok.refused.Load()-refused, failed.Load()-failures; r > 40 || f > 10 {
				t.Errorf("until it was found that the token does %d at once, %d calls too many were made and %d requests failed", n, r, f)
			}
			served := tok.served.Load()
			refused, failures = tok.refused.Load(), failed.Load()
			time.Sleep(10 * time.Second)
			served, refused, failures = tok.served.Load()-served, tok.refused.Load()-refused, failed.Load()-failures
			if want := 10 * 200 * n; served < want*98/100 {
				t.Errorf("a token that does %d at once did %d of %d, with %d permits in the end", n, served, want, p.Stat().Members[0].Permits)
			}
			if refused > 30 || failures > 0 {
				t.Errorf("a token that does %d at once was asked too much %d times; %d requests failed", n, refused, failures)
			}
		}
		close(stop)
		wg.Wait()
	})
}

func (s throttledSession) Close() error { return nil }
