package pool

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// asking sends n operations, one each every, with a deadline of five seconds, and returns how long each took.
func asking(t *testing.T, p *Pool, n int, every time.Duration, op hsm.Op) []time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			begun := time.Now()
			if _, err := p.Do(ctx, nil, op); err != nil {
				t.Error(err)
			}
			took[i] = time.Since(begun)
		})
		time.Sleep(every)
	}
	all.Wait()
	return took
}

func slower(took []time.Duration, than time.Duration) (n int) {
	for _, d := range took {
		if d > than {
			n++
		}
	}
	return n
}

// trio is a pool of three members with 16 sessions whose operations take a millisecond, and which it knows. The caller closes it.
func trio(t *testing.T, cfg Config) (*Pool, []*hsmtest.Faulty) {
	t.Helper()
	cfg.Name = "test"
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tokens := []*hsmtest.Faulty{newFaulty("a"), newFaulty("b"), newFaulty("c")}
	for i, f := range tokens {
		if err := p.Add(MemberConfig{Name: string(rune('a' + i)), Sessions: 16, Open: opened(f)}); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	for _, f := range tokens {
		doing(f, hsmtest.Fault{Delay: time.Millisecond})
	}
	asking(t, p, 600, 3*time.Millisecond, random16)
	return p, tokens
}

// Who is sent to a member that hangs is served by another long before half of its time is over, and few are sent there.
func TestCallersOfAMemberThatBeginsToHangAreSentOnSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tokens := trio(t, Config{OpTimeout: time.Minute})
		defer p.Close()
		before := p.Stat().Retries
		release := make(chan struct{})
		doing(tokens[0], hsmtest.Fault{Until: release})
		took := asking(t, p, 1500, 3*time.Millisecond, random16)
		if n := slower(took, outlierMin+2*watchEvery); n > 0 {
			t.Errorf("%d callers were sent on later than after %s", n, outlierMin+2*watchEvery)
		}
		if n := slower(took, 10*time.Millisecond); n == 0 || n > 1500/100 {
			t.Errorf("%d of 1500 callers waited for a member that hangs, at most one in a hundred should", n)
		}
		if n := p.Stat().Retries - before; n > 1500/100 {
			t.Errorf("%d retries", n)
		}
		close(release)
	})
}

// Where everything has become slow, another try makes it slower.
func TestWhereEveryMemberIsSlowNobodyIsSentOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tokens := trio(t, Config{RetryRatio: 1})
		defer p.Close()
		before := p.Stat().Retries
		for _, f := range tokens {
			doing(f, hsmtest.Fault{Delay: 300 * time.Millisecond})
		}
		asking(t, p, 3000, 10*time.Millisecond, random16)
		if n := p.Stat().Retries - before; n > 3000/10 {
			t.Errorf("%d second tries of 3000 operations, though every member is as slow as the others", n)
		}
		synctest.Wait()
	})
}

// While nobody answers, there is nobody to send callers to.
func TestWhileNoMemberAnswersNobodyIsSentOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tokens := trio(t, Config{RetryRatio: 1})
		defer p.Close()
		before := p.Stat().Retries
		release := make(chan struct{})
		for _, f := range tokens {
			doing(f, hsmtest.Fault{Until: release})
		}
		time.AfterFunc(time.Second+watchEvery/4, func() { close(release) }) // not at the moment the watchers look
		asking(t, p, 40, 10*time.Millisecond, random16)
		if n := p.Stat().Retries - before; n > 3 { // one to each that had nothing to do yet
			t.Errorf("%d of 40 operations were tried again", n)
		}
	})
}

// Who was sent on only to find that the others fail is served by the member that was slow.
func TestWhoWasSentOnComesBackWhenTheOthersFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tokens := trio(t, Config{RetryRatio: 1})
		defer p.Close()
		for _, f := range tokens[1:] { // they answer, so that they are sent callers, but with nothing: and their breakers hear nothing of it
			doing(f, hsmtest.Fault{Err: &hsm.Error{Code: hsm.MechanismInvalid, Function: hsm.FnSign}})
		}
		for range 40 { // one slow one now and then, so that the pace stays what it is
			doing(tokens[0], hsmtest.Fault{Delay: 200 * time.Millisecond})
			asking(t, p, 1, time.Millisecond, random16)
			doing(tokens[0], hsmtest.Fault{Delay: time.Millisecond})
			asking(t, p, 20, 5*time.Millisecond, random16)
			time.Sleep(2 * avoidMax) // nobody is avoided any more
		}
		if p.Stat().Members[0].Slow == 0 {
			t.Error("nobody was sent on: this shows nothing")
		}
	})
}

// A member whose callers wait behind calls that give no answers sends them on as well.
func TestCallersBehindCallsThatHangAreSentOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Name: "test", OpTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		a, b := newFaulty("a"), newFaulty("b")
		for i, f := range []*hsmtest.Faulty{a, b} {
			if err := p.Add(MemberConfig{Name: string(rune('a' + i)), Sessions: 2, Open: opened(f)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // until it serves
			doing(f, hsmtest.Fault{Delay: time.Millisecond})
		}
		release := make(chan struct{})
		defer close(release)
		doing(a, hsmtest.Fault{Until: release}) // nothing is known of its pace yet: only silence tells
		took := asking(t, p, 100, time.Millisecond, random16)
		if n := slower(took, silence+2*watchEvery); n > 0 {
			t.Errorf("%d callers were not sent on when the member was silent", n)
		}
	})
}

// An operation that takes long by its nature is no outlier, and the silence beside it is none.
func TestWhatAlwaysTakesLongIsDoneOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, tokens := trio(t, Config{RetryRatio: 1})
		defer p.Close()
		long := hsm.Op{Kind: hsm.OpRandom, Len: 4096} // of another sort than what trio asked for, and of its class
		for _, f := range tokens {
			doing(f, hsmtest.Fault{Delay: 900 * time.Millisecond})
		}
		asking(t, p, 30, time.Second, long) // until each has done some
		before := p.Stat().Retries
		asking(t, p, 300, time.Second, long)
		if n := p.Stat().Retries - before; n > 0 {
			t.Errorf("%d of 300 were begun twice", n)
		}
	})
}

// lacking is a token without a mechanism.
type lacking struct {
	*hsmtest.Faulty
	mech hsm.MechanismType
}

func (l lacking) Info() hsm.Info {
	i := l.Faulty.Info()
	i.Mechanisms = maps.Clone(i.Mechanisms)
	delete(i.Mechanisms, l.mech)
	return i
}

// The only member with a mechanism is waited for, however long it takes: another could only refuse.
func TestNobodyIsSentOnToAMemberThatLacksTheMechanism(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		a, b := newFaulty("a"), newFaulty("b")
		if err := p.Add(MemberConfig{Name: "a", Open: opened(a)}); err != nil {
			t.Fatal(err)
		}
		if err := p.Add(MemberConfig{Name: "b", Open: func(context.Context) (hsm.Token, error) { return lacking{b, hsm.SHA256HMAC}, nil }}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		op := hsm.Op{Kind: hsm.OpRandom, Len: 16, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}}
		doing(a, hsmtest.Fault{Delay: time.Millisecond})
		asking(t, p, 2*paceKnown, time.Millisecond, op)
		doing(a, hsmtest.Fault{Delay: 4 * time.Second}) // of the five that callers have
		asking(t, p, 3, time.Millisecond, op)
		if s := p.Stat().Members[0]; s.Slow != 0 {
			t.Errorf("%d were sent on", s.Slow)
		}
	})
}

// The estimate settles where about one in a hundred is above.
func TestPaceIsWhatNearlyAllStayBelow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, scale := range []time.Duration{time.Microsecond, 100 * time.Millisecond} { // and it follows a change, either way
		for _, again := range []time.Duration{1, 20, 1} {
			var p pace
			above, n := 0, 0
			for i := range 60_000 {
				d := time.Duration(r.ExpFloat64() * float64(scale*again))
				if i > 20_000 {
					n++
					if d > p.times(1) {
						above++
					}
				}
				p.observe(d, int64(i)*int64(5*time.Millisecond))
			}
			if share := float64(above) / float64(n); share < 0.005 || share > 0.02 {
				t.Errorf("%s: %.2f %% are above the estimate %s, want about 1 %%", scale*again, 100*share, p.times(1))
			}
		}
	}
	var seldom pace // one bad moment of what is seldom done is not remembered for hours
	seldom.observe(5*time.Second, 0)
	for i := range 20 {
		seldom.observe(time.Millisecond, int64(i+1)*int64(time.Second))
	}
	if d := seldom.times(1); d > 10*time.Millisecond {
		t.Errorf("20 seconds after a slow operation the estimate is %s", d)
	}
	var back pace // a hung token that is back answers all at once
	for i := range 1000 {
		back.observe(time.Millisecond, int64(i)*int64(time.Millisecond))
	}
	for range 64 {
		back.observe(5*time.Second, int64(time.Second))
	}
	if d := back.times(1); d > 2*time.Millisecond {
		t.Errorf("after 64 late answers at once the estimate is %s", d)
	}
	var p pace
	if p.outlier() != 0 {
		t.Error("a pace without observations has outliers")
	}
	for range paceKnown {
		p.observe(time.Second, 1)
	}
	if p.outlier() != outlierTimes*time.Second {
		t.Errorf("of operations of a second outliers take %s", p.outlier())
	}
}

// Operations that take longer by their nature have places of their own.
func TestSortsAreToldApart(t *testing.T) {
	rsa := func(bits int) *Key { return &Key{Spec: hsm.Spec{Type: hsm.KeyRSA, Bits: bits}} }
	ec := func(bits int) *Key { return &Key{Spec: hsm.Spec{Type: hsm.KeyEC, Bits: bits}} }
	aes := &Key{Spec: hsm.Spec{Type: hsm.KeyAES, Bits: 256}}
	mac := &Key{Spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 256}}
	seen := map[sort]int{}
	for i, x := range []struct {
		k  *Key
		op hsm.Op
	}{
		{rsa(2048), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.RSAPKCSPSS}}}, {rsa(3072), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.RSAPKCSPSS}}},
		{rsa(4096), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.RSAPKCSPSS}}}, {rsa(4096), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.RSAPKCS}}},
		{ec(256), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}}}, {ec(384), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}}}, {ec(521), hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}}},
		{mac, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}}}, {aes, hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}}},
		{aes, hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, In: make([]byte, 64<<10)}}, {nil, hsm.Op{Kind: hsm.OpRandom, Len: 16}},
	} {
		s := sortOf(x.k, &x.op, classOf(x.op.Kind))
		if other, taken := seen[s]; taken || s >= sorts {
			t.Errorf("operations %d and %d share place %d", other, i, s)
		}
		seen[s] = i
	}
}
