package pool

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// Whoever waits for a member sees how far it is.
func TestAJoiningMemberTellsHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Config{SlowStart: 2 * time.Second})
		defer p.Close()
		f := newFaulty("a")
		f.Inject(hsmtest.OnOpen, hsmtest.Fault{Delay: time.Second}) // every session takes a second
		provisioned := make(chan struct{})
		err := p.Add(MemberConfig{Name: "a", Sessions: 4, KEK: []byte("kek"),
			Open: func(context.Context) (hsm.Token, error) {
				time.Sleep(time.Second)
				return f, nil
			},
			Provision: func(_ context.Context, k hsm.Keeper) error {
				<-provisioned
				_, err := k.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: []byte("kek"), Token: true, May: hsm.MayUnwrap})
				return err
			}})
		if err != nil {
			t.Fatal(err)
		}
		want := func(after time.Duration, state State, doing string, open, wanted int, slow bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			m := p.Stat().Members[0]
			if m.State != state || m.Doing != doing || m.Sessions != open || m.Wanted != wanted || m.SlowStart != slow {
				t.Errorf("%s %q %d of %d, slow start %v; want %s %q %d of %d, %v", m.State, m.Doing, m.Sessions, m.Wanted, m.SlowStart, state, doing, open, wanted, slow)
			}
		}
		want(500*time.Millisecond, Joining, "opening the token", 0, 0, false)
		want(2*time.Second, Joining, "putting the pool KEK on the token", 0, 0, false)
		close(provisioned)
		want(500*time.Millisecond, Joining, "opening sessions", 1, 4, false)
		want(time.Second, Joining, "opening sessions", 2, 4, false)
		want(time.Second, Joining, "opening sessions", 3, 4, false)
		want(time.Second, Active, "", 4, 0, true)
		want(3*time.Second, Active, "", 4, 0, false)
	})
}

// A drain that could not wait for the work under way says so for as long as the member is drained.
func TestADrainThatGaveUpWorkSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Minute}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: 30 * time.Second})
		go func() { _, _ = p.Do(context.Background(), nil, random16) }()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := p.Drain(ctx, "a", true); err == nil {
			t.Error("the drain waited for nothing")
		}
		if m := p.Stat().Members[0]; m.State != Drained || !strings.Contains(m.Reason, "work under way") {
			t.Errorf("%s: %q", m.State, m.Reason)
		}
		a.Heal(hsmtest.OnDo)
		if err := p.Resume("a"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if err := p.Drain(context.Background(), "a", true); err != nil {
			t.Error(err)
		}
		if m := p.Stat().Members[0]; m.State != Drained || m.Reason != "" {
			t.Errorf("%s: %q", m.State, m.Reason)
		}
	})
}
