package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// known is all that a refusal must leave as it was: the store, by its epoch too, and the pool.
type known struct {
	Epoch   uint64
	Members []lifecycle.MemberRecord
	KEKs    []lifecycle.KEK
	Keys    []lifecycle.KeysInUse
	Pool    map[string]pool.State
}

func knows(t *testing.T, s lifecycle.Store, m *lifecycle.Membership) (k known) {
	t.Helper()
	must(t, s.View(context.Background(), func(tx lifecycle.Tx) (err error) {
		k = known{Pool: map[string]pool.State{}}
		if k.Epoch, err = tx.Epoch(); err != nil {
			return err
		}
		for _, kind := range []lifecycle.KEKKind{lifecycle.KEKCustody, lifecycle.KEKPool, lifecycle.KEKRoot} {
			some, err := tx.KEKs(kind)
			if err != nil {
				return err
			}
			k.KEKs = append(k.KEKs, some...)
		}
		if k.Keys, err = tx.KeysInUse("default"); err != nil {
			return err
		}
		k.Members, err = tx.AllMembers()
		return err
	}))
	for _, x := range m.Stat().Members {
		k.Pool[x.Name] = x.State
	}
	return k
}

// misfits adds a member that must be refused for a cause, in words that name it, with all as it was.
func misfits(t *testing.T, store lifecycle.Store, m *lifecycle.Membership, r lifecycle.MemberRecord, o lifecycle.AddOptions, cause lifecycle.Cause, words ...string) {
	t.Helper()
	before := knows(t, store, m)
	added, err := m.Add(context.Background(), "test", r, o)
	var bad *lifecycle.Misfit
	if !errors.As(err, &bad) || bad.Cause != cause || bad.Member != r.Name {
		t.Errorf("%+v, %v; want a misfit because of %s", added, err, cause)
		return
	}
	for _, w := range append(words, r.Name) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
	if after := knows(t, store, m); !reflect.DeepEqual(after, before) {
		t.Errorf("after %v:\n%+v\nbefore:\n%+v", err, after, before)
	}
	if found, trying := m.Trying(r.Name); trying {
		t.Errorf("%s is still being tried: %q", r.Name, found)
	}
}

func (s *site) misfit(name string, cause lifecycle.Cause, words ...string) {
	s.t.Helper()
	misfits(s.t, s.store, s.m, s.record(name), lifecycle.AddOptions{}, cause, words...)
}

// put puts a key on a member's token before it joins.
func (s *site) put(name string, id key.ID, b byte) {
	s.t.Helper()
	sess, err := s.tokens[name].OpenSession(context.Background())
	must(s.t, err)
	defer sess.Close()
	_, err = sess.(hsm.Keeper).Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: id[:], Label: "put", Token: true, May: hsm.MayUnwrap | hsm.MaySign}, slices.Repeat([]byte{b}, 32))
	must(s.t, err)
}

// until waits, on the real clock, until a member is in a state.
func (s *site) until(name string, state pool.State) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for _, m := range s.m.Stat().Members {
			if m.Name == name && m.State == state {
				return
			}
			if time.Now().After(deadline) {
				s.t.Fatalf("%+v, want %s to be %s", s.m.Stat().Members, name, state)
			}
		}
	}
}

// What is on a token says whose it is, in whatever words it is named.
func TestATokenThatIsSomethingElseIsRefused(t *testing.T) {
	everyToken(t, func(t *testing.T, make func(string) hsm.Token) {
		ctx := context.Background()
		s := newSite(t)
		for _, n := range []string{"m1", "m2", "m3", "m4", "m5"} {
			s.tokens[n] = make(n)
		}
		other, err := s.works.custody.EnsurePool(ctx, "other")
		must(t, err)
		s.put("m2", other.ID, 1)
		s.misfit("m2", lifecycle.CauseOtherKEK, "the KEK of pool other", other.ID.String())
		s.put("m3", s.works.kek.ID, 2)
		s.misfit("m3", lifecycle.CauseKEKDiffers, "pool default", s.works.kek.ID.String(), fmt.Sprintf("not %X", s.works.kek.KCV))

		s.add("m1")
		s.until("m1", pool.Active)
		s.tokens["again"] = s.tokens["m1"]
		s.misfit("again", lifecycle.CauseTaken, "member m1 of pool default")
		must(t, s.m.Drain(ctx, "test", "m1", lifecycle.Order{Force: true})) // nothing shows its serial number now
		s.misfit("again", lifecycle.CauseTaken, "member m1 of pool default")
		must(t, s.m.Remove(ctx, "test", "m1", lifecycle.Order{}))
		s.add("again") // it holds the pool's KEK and is nobody's
		s.until("again", pool.Active)

		// The custody token holds every KEK, and is no member.
		s.tokens["m4"] = s.works.token.token
		s.misfit("m4", lifecycle.CauseOtherKEK, "custody token")

		// A token that was replaced: its name knows another one, until that is forgotten.
		s.add("m5")
		s.until("m5", pool.Active)
		must(t, s.m.Remove(ctx, "test", "m5", lifecycle.Order{}))
		s.tokens["m5"] = make("new")
		s.misfit("m5", lifecycle.CauseNoRoot, "does not hold the Root KEK", "keyway member remove m5 --forget-token")
		root := s.root("default/m5")
		s.put("m5", root.ID, 3)
		s.misfit("m5", lifecycle.CauseKEKDiffers, "the Root KEK of default/m5")
		s.tokens["m5"] = make("newer")
		must(t, s.m.Remove(ctx, "test", "m5", lifecycle.Order{ForgetToken: true}))
		if err := s.works.token.With(ctx, func(k hsm.Keeper) error { _, err := k.Find(hsm.ClassSecret, root.ID[:]); return err }); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("custody still holds the Root KEK that was forgotten: %v", err)
		}
		if err := s.m.Remove(ctx, "test", "m5", lifecycle.Order{ForgetToken: true}); !errors.Is(err, key.ErrNotFound) {
			t.Errorf("forgetting once more: %v", err)
		}
		s.add("m5")
		s.until("m5", pool.Active)
		if s.root("default/m5").ID == root.ID {
			t.Error("the new token has the old one's Root KEK")
		}
		// With the member, in one order; others keep theirs.
		must(t, s.m.Remove(ctx, "test", "m5", lifecycle.Order{ForgetToken: true}))
		if names := s.roots(); !slices.Equal(names, []string{"default/m1"}) {
			t.Errorf("Root KEKs are known of %v", names)
		}
	})
}

func (s *site) root(name string) (k *lifecycle.KEK) {
	s.t.Helper()
	must(s.t, s.store.View(context.Background(), func(tx lifecycle.Tx) (err error) { k, err = tx.KEK(lifecycle.KEKRoot, name); return err }))
	return k
}

func (s *site) roots() (names []string) {
	s.t.Helper()
	must(s.t, s.store.View(context.Background(), func(tx lifecycle.Tx) error {
		all, err := tx.KEKs(lifecycle.KEKRoot)
		for _, k := range all {
			names = append(names, k.Name)
		}
		return err
	}))
	return names
}

func TestATokenThatCannotBeGivenTheKEKIsRefused(t *testing.T) {
	s := newSite(t)
	s.works.custody = lifecycle.NewCustody(lifecycle.CustodyConfig{Token: s.works.token, Store: s.store}) // no auto_root
	s.restart()
	s.misfit("m1", lifecycle.CauseNoRoot, "no Root KEK", "ceremony")
	s.alone = true
	s.restart()
	s.misfit("m1", lifecycle.CauseNoRoot, "no custody token")
	s.alone = false
	s.works.custody = lifecycle.NewCustody(lifecycle.CustodyConfig{Token: s.works.token, Store: s.store, AutoRoot: true})
	s.restart()
	s.tokens["m1"] = lacking{soft.New("m1"), []hsm.MechanismType{hsm.RSAPKCSOAEP}}
	s.misfit("m1", lifecycle.CauseNoRoot, "CKM_RSA_PKCS_OAEP")
}

// lacking is a token without some mechanisms, or with a serial number of its own.
type lacking struct {
	hsm.Token
	lacks []hsm.MechanismType
}

func (l lacking) Info() hsm.Info {
	i := l.Token.Info()
	i.Mechanisms = maps.Clone(i.Mechanisms)
	for _, m := range l.lacks {
		delete(i.Mechanisms, m)
	}
	if !i.Has(hsm.RSAPKCSOAEP) {
		i.OAEPHashes = nil
	}
	return i
}

func TestMechanismsAreThoseOfThePoolsKeys(t *testing.T) {
	s := newSite(t)
	with := func(lacks ...hsm.MechanismType) { s.tokens["m1"] = lacking{soft.New("m1"), lacks} }
	for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESCMAC} {
		with(m)
		misfits(t, s.store, s.m, s.record("m1"), lifecycle.AddOptions{Partial: true}, lifecycle.CauseMechanisms, m.String(), "no key could be loaded")
	}
	everything := []hsm.MechanismType{hsm.AESGCM, hsm.ECDSA, hsm.EDDSA, hsm.RSAPKCS, hsm.RSAPKCSPSS, hsm.SHA256HMAC, hsm.SHA384HMAC, hsm.SHA512HMAC}
	make := func(name string, a key.Algorithm, u key.Usage) {
		t.Helper()
		_, err := s.works.manager.CreateKey(context.Background(), "test", lifecycle.KeyRequest{Name: name, Algorithm: a, Usages: u})
		must(t, err)
	}
	make("sign", key.ECP256, 0)
	make("sign2", key.ECP256, 0)
	make("mac", key.HMACSHA384, 0)
	for _, c := range []struct {
		lacks hsm.MechanismType
		word  string
	}{{hsm.ECDSA, "2 keys of ec-p256, such as sign"}, {hsm.SHA384HMAC, "mac (hmac-sha-384)"}} {
		with(c.lacks)
		s.misfit("m1", lifecycle.CauseMechanisms, c.lacks.String(), c.word, "--partial")
	}
	// Both are told, and what no key needs is not asked for.
	with(everything...)
	s.misfit("m1", lifecycle.CauseMechanisms, "CKM_ECDSA", "CKM_SHA384_HMAC")
	with(hsm.SHA256HMAC, hsm.EDDSA, hsm.RSAPKCS)
	s.add("m1")
	s.until("m1", pool.Active)

	// What a pool offers only as a whole: AES_KEY_WRAP_KWP, and each hash of OAEP.
	make("wrap", key.AES256, 0)
	make("open", key.RSA2048, key.Decrypt)
	s.tokens["m2"] = lacking{soft.New("m2"), []hsm.MechanismType{hsm.AESKeyWrapKWP, hsm.RSAPKCSOAEP}}
	s.misfit("m2", lifecycle.CauseMechanisms, "CKM_AES_KEY_WRAP_KWP, needed by wrap (aes-256), which the whole pool would then refuse", "CKM_RSA_PKCS_OAEP with keys of 2048 bits", "CKM_RSA_PKCS_OAEP with sha2-256")
	added, err := s.m.Add(context.Background(), "test", s.record("m3"), lifecycle.AddOptions{})
	if err != nil || !slices.Contains(added.Found, "it has every mechanism that the pool's keys need") {
		t.Errorf("%+v, %v", added, err)
	}
	s.tokens["m2"] = lacking{soft.New("m2"), []hsm.MechanismType{hsm.ECDSA}}
	added, err = s.m.Add(context.Background(), "test", s.record("m2"), lifecycle.AddOptions{Partial: true})
	if err != nil || !slices.ContainsFunc(added.Found, func(f string) bool {
		return strings.Contains(f, "it lacks CKM_ECDSA with keys of 256 bits, needed by 2 keys")
	}) {
		t.Errorf("%+v, %v", added, err)
	}
}

func TestATrialHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		p, err := pool.New(pool.Config{Name: "default"})
		must(t, err)
		defer p.Close()
		s.m = lifecycle.NewMembership(lifecycle.MembershipConfig{Store: s.store, Pool: p, PoolName: "default", KEK: s.works.kek, Custody: s.works.custody,
			Open: func(lifecycle.MemberRecord) func(context.Context) (hsm.Token, error) {
				return func(ctx context.Context) (hsm.Token, error) {
					<-ctx.Done()
					return nil, context.Cause(ctx)
				}
			}})
		begun := time.Now()
		go func() {
			time.Sleep(10 * time.Second)
			if found, trying := s.m.Trying("m1"); !trying || len(found) != 1 || !strings.Contains(found[0], "opening the token") {
				t.Errorf("while it is tried: %v %q", trying, found)
			}
		}()
		s.misfit("m1", lifecycle.CauseTime, "45s")
		if d := time.Since(begun); d != 45*time.Second {
			t.Errorf("it took %s", d)
		}
	})
}

func TestAddingAgainIsDoneAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := newSite(t)
		s.add("m1")
		s.want(map[string]pool.State{"m1": pool.Active})
		opened, before := s.opened["m1"], knows(t, s.store, s.m)
		r := s.record("m1")
		r.Isolation = "worker" // which is what none means
		added, err := s.m.Add(ctx, "test", r, lifecycle.AddOptions{})
		if err != nil || !added.There {
			t.Errorf("the same member again: %+v, %v", added, err)
		}
		r.PINFile, r.Sessions = "/elsewhere", 9
		if _, err := s.m.Add(ctx, "test", r, lifecycle.AddOptions{}); !errors.Is(err, lifecycle.ErrExists) || !strings.Contains(err.Error(), "pin_file, sessions") {
			t.Errorf("with other settings: %v", err)
		}
		if s.opened["m1"] != opened || !reflect.DeepEqual(knows(t, s.store, s.m), before) {
			t.Errorf("the token was opened %d times, %+v", s.opened["m1"]-opened, knows(t, s.store, s.m))
		}
		// So is what has been done of any other order: nothing is written.
		must(t, s.m.Resume(ctx, "test", "m1"))
		must(t, s.m.ClearLatch(ctx, "test", "m1"))
		if after := knows(t, s.store, s.m); !reflect.DeepEqual(after, before) {
			t.Errorf("resuming what is active and clearing no latch: %+v, was %+v", after, before)
		}
		must(t, s.m.Drain(ctx, "test", "m1", lifecycle.Order{Force: true}))
		before = knows(t, s.store, s.m)
		must(t, s.m.Drain(ctx, "test", "m1", lifecycle.Order{}))
		if after := knows(t, s.store, s.m); !reflect.DeepEqual(after, before) {
			t.Errorf("draining what is drained: %+v, was %+v", after, before)
		}
	})
}

// A PIN that the token refused is not tried again by adding the member again, under whatever name.
func TestARefusedPINIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := newSite(t)
		s.refuse["m1"] = &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
		tries := func(want int) {
			t.Helper()
			if s.opened["m1"] != want {
				t.Errorf("the PIN was tried %d times, want %d", s.opened["m1"], want)
			}
		}
		s.misfit("m1", lifecycle.CausePIN, "CKR_PIN_INCORRECT", "/pins/m1", "--force")
		tries(1)
		s.misfit("m1", lifecycle.CausePINKnown, "/pins/m1", "--force")
		tries(1)
		misfits(t, s.store, s.m, s.record("m1"), lifecycle.AddOptions{Force: true}, lifecycle.CausePIN)
		tries(2)
		if s.vouch["m1"] != 1 {
			t.Errorf("the forced try was vouched for %d times", s.vouch["m1"])
		}
		// A member that latched and was removed is the same token with the same PIN.
		s.refuse["m2"] = s.refuse["m1"]
		s.plant("m2")
		s.want(map[string]pool.State{"m2": pool.Latched})
		must(t, s.m.Remove(ctx, "test", "m2", lifecycle.Order{}))
		s.misfit("m2", lifecycle.CausePINKnown)
		// It is right now, and somebody says so.
		delete(s.refuse, "m1")
		_, err := s.m.Add(ctx, "test", s.record("m1"), lifecycle.AddOptions{Force: true})
		must(t, err)
		s.want(map[string]pool.State{"m1": pool.Active})
	})
}

func TestOrdersGoOnInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := newSite(t)
		defer s.m.Close()
		s.add("m1")
		s.add("m2")
		s.want(map[string]pool.State{"m1": pool.Active, "m2": pool.Active})
		release := make(chan struct{})
		busy := make(chan error)
		go func() { busy <- s.pool.With(ctx, func(hsm.Keeper) error { <-release; return nil }) }()
		synctest.Wait()
		name := "m1"
		for _, m := range s.m.Stat().Members {
			if m.Busy > 0 {
				name = m.Name
			}
		}
		must(t, s.m.Drain(ctx, "test", name, lifecycle.Order{NoWait: true}))
		time.Sleep(time.Second)
		begun := time.Now()
		must(t, s.m.Remove(ctx, "test", name, lifecycle.Order{NoWait: true}))
		if d := time.Since(begun); d > 0 {
			t.Errorf("an order that is not waited for took %s, since another one is under way", d)
		}
		must(t, s.m.Reconcile(ctx)) // which leaves it alone
		for _, m := range s.m.Stat().Members {
			if m.Name == name && m.State != pool.Draining {
				t.Errorf("with work under way it is %s", m.State)
			}
		}
		close(release)
		must(t, <-busy)
		other := map[string]string{"m1": "m2", "m2": "m1"}[name]
		time.Sleep(time.Second)
		s.want(map[string]pool.State{other: pool.Active})
		if err := s.m.Drain(ctx, "test", other, lifecycle.Order{NoWait: true}); !errors.Is(err, pool.ErrLastMember) {
			t.Errorf("the last one: %v", err)
		}
		must(t, s.m.Drain(ctx, "test", other, lifecycle.Order{NoWait: true, Force: true}))
		time.Sleep(time.Second)
		s.want(map[string]pool.State{other: pool.Drained})
	})
}
