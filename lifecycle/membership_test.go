package lifecycle_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// site is a pool with its membership, on tokens in memory that outlive it as real ones do.
type site struct {
	t      *testing.T
	works  *works
	store  lifecycle.Store
	mu     *sync.Mutex          // one for all processes that share the tokens
	tokens map[string]hsm.Token // by member
	opened map[string]int       // by member: how often its token was opened
	vouch  map[string]int       // and how often with somebody's word for the PIN
	refuse map[string]error     // by member: what opening it ends with
	alone  bool                 // there is no custody token
	pool   *pool.Pool
	m      *lifecycle.Membership
}

func newSite(t *testing.T) *site {
	s := &site{t: t, mu: &sync.Mutex{}, store: openStore(t), tokens: map[string]hsm.Token{}, opened: map[string]int{}, vouch: map[string]int{}, refuse: map[string]error{}}
	s.works = newWorks(t, s.store, soft.New("custody"), &faults{}).prepare(t)
	s.start()
	return s
}

// lasting keeps a token through its closing.
type lasting struct{ hsm.Token }

func (lasting) Close() error { return nil }

func (s *site) open(r lifecycle.MemberRecord) func(context.Context) (hsm.Token, error) {
	return func(ctx context.Context) (hsm.Token, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opened[r.Name]++
		if hsm.IsVouched(ctx) {
			s.vouch[r.Name]++
		}
		if err := s.refuse[r.Name]; err != nil {
			return nil, err
		}
		if s.tokens[r.Name] == nil {
			s.tokens[r.Name] = soft.New(r.Name)
		}
		return lasting{s.tokens[r.Name]}, nil
	}
}

// start is the start of a process.
func (s *site) start() {
	s.t.Helper()
	var err error
	s.pool, err = pool.New(pool.Config{Name: "default"})
	must(s.t, err)
	s.m = lifecycle.NewMembership(lifecycle.MembershipConfig{Store: s.store, Pool: s.pool, PoolName: "default", KEK: s.works.kek, Custody: s.custody(), Open: s.open})
	must(s.t, s.m.Load(context.Background()))
	s.t.Cleanup(func() { _ = s.pool.Close() })
}

// custody is the works', unless the site has none.
func (s *site) custody() *lifecycle.Custody {
	if s.alone {
		return nil
	}
	return s.works.custody
}

// restart ends the process and starts the next one.
func (s *site) restart() {
	s.t.Helper()
	must(s.t, s.pool.Close())
	s.start()
}

func (s *site) add(name string) {
	s.t.Helper()
	added, err := s.m.Add(context.Background(), "test", s.record(name), lifecycle.AddOptions{})
	must(s.t, err)
	if added.There || len(added.Found) == 0 {
		s.t.Errorf("%s: %+v", name, added)
	}
}

// plant stores a member without trying it, as the configuration file does.
func (s *site) plant(name string) {
	s.t.Helper()
	_, err := lifecycle.RecordMembers(context.Background(), s.store, "default", []lifecycle.MemberRecord{s.record(name)}, nil)
	must(s.t, err)
	must(s.t, s.m.Reconcile(context.Background()))
}

func (s *site) record(name string) lifecycle.MemberRecord {
	return lifecycle.MemberRecord{Name: name, Driver: "soft", TokenDir: "/tokens", TokenLabel: name, PINFile: "/pins/" + name, Sessions: 2}
}

// settled waits until no member is on its way, and returns the members' states.
func (s *site) settled() map[string]pool.State {
	s.t.Helper()
	synctest.Wait()
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
	out := map[string]pool.State{}
	for _, m := range s.m.Stat().Members {
		out[m.Name] = m.State
	}
	return out
}

func (s *site) want(states map[string]pool.State) {
	s.t.Helper()
	got := s.settled()
	if len(got) != len(states) {
		s.t.Errorf("members %v, want %v", got, states)
	}
	for n, st := range states {
		if got[n] != st {
			s.t.Errorf("%s is %q, want %q", n, got[n], st)
		}
	}
}

func TestMembersComeGoAndAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := newSite(t)
		s.add("m1")
		s.add("m2")
		s.add("m3")
		s.want(map[string]pool.State{"m1": pool.Active, "m2": pool.Active, "m3": pool.Active})
		must(t, s.m.Drain(ctx, "test", "m1", lifecycle.Order{}))
		must(t, s.m.Remove(ctx, "test", "m3", lifecycle.Order{}))
		s.want(map[string]pool.State{"m1": pool.Drained, "m2": pool.Active})
		s.restart()
		s.want(map[string]pool.State{"m1": pool.Drained, "m2": pool.Active})
		if err := s.m.Drain(ctx, "test", "m2", lifecycle.Order{}); !errors.Is(err, pool.ErrLastMember) {
			t.Errorf("draining the last member: %v", err)
		}
		if err := s.m.Remove(ctx, "test", "m2", lifecycle.Order{}); !errors.Is(err, pool.ErrLastMember) {
			t.Errorf("removing the last member: %v", err)
		}
		s.want(map[string]pool.State{"m1": pool.Drained, "m2": pool.Active})
		must(t, s.m.Resume(ctx, "test", "m1"))
		s.want(map[string]pool.State{"m1": pool.Active, "m2": pool.Active})
		s.restart()
		s.want(map[string]pool.State{"m1": pool.Active, "m2": pool.Active})
		must(t, s.m.Remove(ctx, "test", "m1", lifecycle.Order{}))
		must(t, s.m.Remove(ctx, "test", "m2", lifecycle.Order{Force: true}))
		s.want(map[string]pool.State{})
		s.restart()
		s.want(map[string]pool.State{})
	})
}

func TestALatchOutlivesTheProcessUntilItIsCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := newSite(t)
		s.refuse["m1"] = &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
		s.plant("m1")
		s.want(map[string]pool.State{"m1": pool.Latched})
		time.Sleep(time.Hour)
		s.restart()
		s.want(map[string]pool.State{"m1": pool.Latched})
		if n := s.opened["m1"]; n != 1 {
			t.Errorf("the wrong PIN was tried %d times", n)
		}
		if err := s.m.Resume(ctx, "test", "m1"); !errors.Is(err, pool.ErrMember) || !strings.Contains(err.Error(), "latch") {
			t.Errorf("resuming a latched member: %v", err)
		}
		// Cleared with the PIN as wrong as before: one more try, latched and stored again.
		must(t, s.m.ClearLatch(ctx, "test", "m1"))
		s.want(map[string]pool.State{"m1": pool.Latched})
		s.restart()
		s.want(map[string]pool.State{"m1": pool.Latched})
		if n, v := s.opened["m1"], s.vouch["m1"]; n != 2 || v != 1 {
			t.Errorf("the PIN was tried %d times, %d with somebody's word for it; want 2 and 1", n, v)
		}
		s.mu.Lock()
		delete(s.refuse, "m1")
		s.mu.Unlock()
		must(t, s.m.ClearLatch(ctx, "test", "m1"))
		s.want(map[string]pool.State{"m1": pool.Active})
		must(t, s.m.ClearLatch(ctx, "test", "m1")) // nothing is to be done
		s.restart()
		s.want(map[string]pool.State{"m1": pool.Active})
		if n, v := s.opened["m1"], s.vouch["m1"]; n != 4 || v != 2 {
			t.Errorf("the PIN was tried %d times, %d with somebody's word for it; want 4 and 2", n, v)
		}
	})
}

func TestALatchedMemberCanBeRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.refuse["m1"] = &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
		s.plant("m1")
		s.want(map[string]pool.State{"m1": pool.Latched})
		must(t, s.m.Remove(context.Background(), "test", "m1", lifecycle.Order{}))
		s.restart()
		s.want(map[string]pool.State{})
	})
}

func TestWrongRecordsAndStrangersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := newSite(t)
		s.add("m1")
		s.want(map[string]pool.State{"m1": pool.Active})
		if _, err := s.m.Add(ctx, "test", lifecycle.MemberRecord{Name: "m2", Driver: "usb"}, lifecycle.AddOptions{}); !errors.Is(err, lifecycle.ErrInvalid) || !strings.Contains(err.Error(), "driver") || !strings.Contains(err.Error(), "pin_file") {
			t.Errorf("a record with two faults: %v", err)
		}
		for what, err := range map[string]error{
			"drain": s.m.Drain(ctx, "test", "m9", lifecycle.Order{Force: true}), "resume": s.m.Resume(ctx, "test", "m9"), "remove": s.m.Remove(ctx, "test", "m9", lifecycle.Order{Force: true}),
		} {
			if !errors.Is(err, pool.ErrMember) {
				t.Errorf("%s of a stranger: %v", what, err)
			}
		}
		if err := s.m.ClearLatch(ctx, "test", "m9"); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("clear-latch of a stranger: %v", err)
		}
		s.want(map[string]pool.State{"m1": pool.Active})
	})
}

func TestCheckNamesEveryWrongField(t *testing.T) {
	good := lifecycle.MemberRecord{Name: "m1", Driver: "pkcs11", Module: "/lib/x.so", TokenLabel: "t", PINFile: "/pin"}
	f := func(change func(*lifecycle.MemberRecord), fields ...string) {
		t.Helper()
		r := good
		change(&r)
		err := r.Check()
		if (err == nil) != (len(fields) == 0) {
			t.Errorf("%+v: %v", r, err)
			return
		}
		for _, n := range fields {
			if !strings.Contains(err.Error(), n) {
				t.Errorf("%v does not name %s", err, n)
			}
		}
	}
	f(func(*lifecycle.MemberRecord) {})
	f(func(r *lifecycle.MemberRecord) { r.Isolation = "none" })
	f(func(r *lifecycle.MemberRecord) { *r = lifecycle.MemberRecord{} }, "name", "driver", "pin_file")
	f(func(r *lifecycle.MemberRecord) { r.Module = filepath.Base(r.Module) }, "module")
	f(func(r *lifecycle.MemberRecord) { r.TokenLabel = "" }, "token_label")
	f(func(r *lifecycle.MemberRecord) { r.TokenLabel, r.TokenSerial = "", "12" })
	f(func(r *lifecycle.MemberRecord) { r.PINFile = "pin" }, "pin_file")
	f(func(r *lifecycle.MemberRecord) { r.Isolation = "vm" }, "isolation")
	f(func(r *lifecycle.MemberRecord) { r.Sessions = -1 }, "sessions")
	f(func(r *lifecycle.MemberRecord) { r.Driver, r.TokenDir = "soft", "rel" }, "token_dir")
}

func TestMembersJoinWithTheirRecordedShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.add("m1")
		s.want(map[string]pool.State{"m1": pool.Active})
		if got := s.m.Stat().Members[0].Sessions; got != 2 {
			t.Errorf("%d sessions, want the record's 2", got)
		}
		records, err := s.m.Records(context.Background())
		if err != nil || !slices.ContainsFunc(records, func(r lifecycle.MemberRecord) bool { return r.Name == "m1" && r.Pool == "default" }) {
			t.Errorf("stored: %+v, %v", records, err)
		}
	})
}
