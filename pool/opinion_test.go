package pool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// residentKey makes a key for MACs on each token, under the same ID.
func residentKey(t *testing.T, tokens ...*hsmtest.Faulty) *Key {
	t.Helper()
	k := &Key{ID: [16]byte{7}, Spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign, Token: true}}
	for _, f := range tokens {
		s, err := f.OpenSession(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		spec := k.Spec
		spec.ID = k.ID[:]
		if _, err := s.(hsm.Keeper).Generate(spec); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func mac(t *testing.T, p *Pool, k *Key) error {
	_, err := p.Do(t.Context(), k, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("message")})
	return err
}

// Ambiguous codes of an operation that the canary does not try are no proof that the caller is to blame, and neither is it
// that the token did other operations a moment ago.
func TestACallerIsBlamedOnlyWhenNoOtherMemberDoesIt(t *testing.T) {
	bad := func(f hsm.Function) hsmtest.Fault {
		return hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: f}}
	}
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newFaulty("a"), newFaulty("b"), newFaulty("c")
		k := residentKey(t, a, b, c)
		p := newPool(t, Config{}, a, b, c)
		defer p.Close()
		for range 50 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []*hsmtest.Faulty{a, b} {
			f.Inject(hsmtest.OnSign, bad(hsm.FnSign))
		}
		for i := range 500 {
			if err := mac(t, p, k); err != nil {
				t.Fatalf("operation %d: %v, though c can do it", i, err)
			}
			time.Sleep(3 * time.Millisecond)
		}
		for _, m := range p.Stat().Members[:2] {
			if m.Failures == 0 {
				t.Errorf("%s failed and nobody counted it", m.Name)
			}
		}
		// When all say so it is the caller, and none of them is tripped.
		c.Inject(hsmtest.OnSign, bad(hsm.FnSign))
		for range 500 {
			if err := mac(t, p, k); hsm.FaultOf(err) != hsm.Caller {
				t.Fatalf("%v, want the caller's fault", err)
			}
			time.Sleep(3 * time.Millisecond)
		}
		for _, m := range p.Stat().Members {
			if m.Breaker != "closed" {
				t.Errorf("%s: breaker %s", m.Name, m.Breaker)
			}
		}
	})
}

// A token that begins to answer everything ambiguously did well a moment ago, which is no proof against a caller.
func TestATokenThatBeginsToFailAmbiguouslyIsJudgedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Fatal(err)
		}
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt}})
		if _, err := p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt}); hsm.FaultOf(err) == hsm.Caller {
			t.Errorf("%v: the caller is blamed for a token that fails", err)
		}
	})
}

// Who is asked for another opinion and hangs does not cost the caller the answer there is.
func TestAnotherOpinionThatNeverComesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		k := residentKey(t, a, b)
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		release := make(chan struct{})
		a.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnSign}})
		b.Inject(hsmtest.OnSign, hsmtest.Fault{Until: release})
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			_, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("message")})
			if ctx.Err() != nil || hsm.FaultOf(err) != hsm.Caller {
				t.Errorf("%v, want the blame that a gave", err)
			}
			cancel()
		}
		close(release)
	})
}

// Where two agree, the third one is waited for no longer than an operation may take.
func TestAThirdOpinionIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		release := make(chan struct{})
		defer close(release)
		doing(a, hsmtest.Fault{Until: release})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		o := opinion{blame: hsm.ErrInput, n: 2}
		begun := time.Now()
		op := random16
		_, _, err := o.do(ctx, (*p.members.Load())[0], p.newJob("", nil, &op, ClassEncrypt))
		if d := time.Since(begun); err != errLate || d > silence {
			t.Errorf("%v after %s", err, d)
		}
	})
}

// Where two agree, a third one that hangs is not waited for.
func TestTwoOpinionsAreEnoughWhereTheThirdMemberHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := []*hsmtest.Faulty{newFaulty("a"), newFaulty("b"), newFaulty("c")}
		k := residentKey(t, tokens...)
		p := newPool(t, Config{}, tokens...)
		defer p.Close()
		for _, f := range tokens[:2] {
			f.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnSign}})
		}
		release := make(chan struct{})
		defer close(release)
		doing(tokens[2], hsmtest.Fault{Until: release})
		waited := 0
		for i := range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			begun := time.Now()
			_, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("message")})
			if took := time.Since(begun); hsm.FaultOf(err) != hsm.Caller || i > 0 && took > 2*silence {
				t.Errorf("request %d: %v after %s", i, err, took)
			} else if took > 0 {
				waited++
			}
			cancel()
			time.Sleep(100 * time.Millisecond)
		}
		if waited > 5 {
			t.Errorf("%d of 50 callers waited for a member that gives no answers", waited)
		}
	})
}

// A third member is asked at the expense of the retry budget when the second one's opinion did not come.
func TestWhatFollowsAnOpinionThatNeverCameIsPaid(t *testing.T) {
	seen := 0
	for range 60 { // who is asked first, and who second, is chance
		synctest.Test(t, func(t *testing.T) {
			a, b, c := newFaulty("a"), newFaulty("b"), newFaulty("c")
			k := residentKey(t, a, b, c)
			p := newPool(t, Config{}, a, b, c)
			defer p.Close()
			release := make(chan struct{})
			defer close(release)
			a.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnSign}})
			b.Inject(hsmtest.OnSign, hsmtest.Fault{Until: release})
			p.budget.saved = -1e9
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			begun := time.Now()
			_, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("message")})
			switch took := time.Since(begun); {
			case err == nil && took >= time.Second:
				t.Errorf("after %s c was asked, and nothing paid for it", took)
			case hsm.FaultOf(err) == hsm.Caller && took >= time.Second:
				seen++
			}
		})
	}
	if seen == 0 && !t.Failed() {
		t.Error("no second opinion was waited for in vain: this test shows nothing")
	}
}
