//go:build linux && cgo

package faulthsm

import (
	"context"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
)

// lostLogin checks that a session and its token behave as not logged in, and that opening the token again mends it.
func lostLogin(t *testing.T, r *rig, s hsm.Keeper, key hsm.Handle) {
	t.Helper()
	op := mac(key)
	if err := s.Do(op); codeOf(err) != hsm.UserNotLoggedIn || hsm.FaultOf(err) != hsm.Stale {
		t.Errorf("an operation without login: %v", err)
	}
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.UserNotLoggedIn {
		t.Errorf("another session without login: %v", err)
	}
	_ = r.tok.Close()
	r.open()
	s = r.session()
	if got := r.macs(s, r.generate(s, macSpec), 2); len(got) != 0 {
		t.Errorf("after logging in again operations %v failed", got)
	}
}

func TestLogoutByARule(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.add(Rule{ID: "drop", On: []string{"C_SignInit"}, Nth: 3, Do: []Effect{Logout()}})
	if got := r.macs(s, key, 2); len(got) != 0 {
		t.Fatalf("operations %v failed before the login was dropped", got)
	}
	lostLogin(t, r, s, key)
}

func TestLogoutAtOnce(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	if err := r.conn.Now(r.ctx(), Logout()); err != nil {
		t.Fatal(err)
	}
	lostLogin(t, r, s, key)
}

func TestLogoutWithACodeOfItsOwn(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	// DATA_INVALID is nothing SoftHSM would say to this, and the driver keeps its session.
	if err := r.conn.Now(r.ctx(), LogoutWith(hsm.DataInvalid)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if op := mac(key); s.Do(op) != nil || codeOf(op.Err) != hsm.DataInvalid {
			t.Errorf("an operation after the login was dropped: %v", op.Err)
		}
	}
	_ = r.tok.Close()
	r.open() // which logs in
	s = r.session()
	if got := r.macs(s, r.generate(s, macSpec), 2); len(got) != 0 {
		t.Errorf("after logging in again operations %v failed", got)
	}
	if st := r.status(); st.Statements != 0 || st.TokenAbsent {
		t.Errorf("something is left: %+v", st)
	}
}

func TestCloseSession(t *testing.T) {
	r := softHSM(t)
	s, other := r.session(), r.session()
	key, key2 := r.generate(s, macSpec), r.generate(other, macSpec)
	before := r.status()
	r.add(Rule{ID: "one", On: []string{"C_Sign"}, Times: 1, Do: []Effect{CloseSession()}})
	if err := s.Do(mac(key)); codeOf(err) != hsm.SessionHandleInvalid {
		t.Errorf("the session that was closed under the call: %v", err)
	}
	if got := r.macs(other, key2, 2); len(got) != 0 {
		t.Errorf("operations %v of another session failed", got)
	}
	if st := r.status(); st.Sessions != before.Sessions-1 || st.SessionObjects != before.SessionObjects-1 {
		t.Errorf("sessions %d → %d, session objects %d → %d", before.Sessions, st.Sessions, before.SessionObjects, st.SessionObjects)
	}
}

func TestCloseSessions(t *testing.T) {
	r := softHSM(t)
	a, b := r.session(), r.session()
	key := r.generate(a, macSpec)
	r.add(Rule{ID: "all", On: []string{"C_SignInit"}, Times: 1, Do: []Effect{CloseSessions()}})
	if err := a.Do(mac(key)); codeOf(err) != hsm.SessionHandleInvalid {
		t.Errorf("the session of the call: %v", err)
	}
	if err := b.Do(mac(key)); codeOf(err) != hsm.SessionHandleInvalid {
		t.Errorf("another session: %v", err)
	}
	if st := r.status(); st.Sessions != 0 || st.SessionObjects != 0 {
		t.Errorf("%d sessions, %d objects are left", st.Sessions, st.SessionObjects)
	}
	// Closing the last session logs out, as everywhere.
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.UserNotLoggedIn {
		t.Errorf("a new session: %v", err)
	}
	_ = r.tok.Close()
	r.open()
	a = r.session()
	if err := r.conn.Now(r.ctx(), CloseSessions()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Generate(macSpec); codeOf(err) != hsm.SessionHandleInvalid {
		t.Errorf("after now close-sessions: %v", err)
	}
}

func forgetObjects(t *testing.T, r *rig) {
	s := r.session()
	spec := macSpec
	spec.ID, spec.Token = []byte("forget"), true
	old := r.generate(s, spec)
	defer func() {
		if h, err := s.Find(hsm.ClassSecret, spec.ID); err != nil || s.Destroy(h) != nil {
			t.Errorf("tidying up: %v", err)
		}
	}()
	for round := 1; round <= 2; round++ {
		r.macs(s, old, 1) // so that the driver knows the key
		if err := r.conn.Now(r.ctx(), ForgetObjects()); err != nil {
			t.Fatal(err)
		}
		op := mac(old)
		if err := s.Do(op); err != nil || codeOf(op.Err) != hsm.KeyHandleInvalid {
			t.Errorf("an old handle: %v, %v", err, op.Err)
		}
		if err := s.Destroy(old); codeOf(err) != hsm.ObjectHandleInvalid {
			t.Errorf("destroying an old handle: %v", err)
		}
		h, err := s.Find(hsm.ClassSecret, spec.ID)
		if err != nil || h == old {
			t.Fatalf("found again as %d (was %d): %v", h, old, err)
		}
		if got := r.macs(s, h, 2); len(got) != 0 {
			t.Errorf("with the new handle operations %v failed", got)
		}
		if e := r.status().ObjectEpoch; e != round {
			t.Errorf("epoch %d, want %d", e, round)
		}
		old = h
	}
}

func TestForgetObjects(t *testing.T) { forgetObjects(t, softHSM(t)) }

func TestTokenAbsent(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.add(Token{Absent: true})
	if !r.status().TokenAbsent {
		t.Error("status says it is there")
	}
	if err := s.Do(mac(key)); codeOf(err) != hsm.DeviceRemoved {
		t.Errorf("an operation on a token that is away: %v", err)
	}
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.TokenNotPresent {
		t.Errorf("a new session on a token that is away: %v", err)
	}
	if _, err := pkcs11.Open(context.Background(), r.cfg); codeOf(err) != hsm.TokenNotPresent {
		t.Errorf("opening a token that is away: %v", err)
	}
	r.remove("token")
	if st := r.status(); st.TokenAbsent || st.Sessions != 0 {
		t.Errorf("after it came back: %+v; its sessions should be dead", st)
	}
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.UserNotLoggedIn {
		t.Errorf("a session after it came back: %v", err)
	}
	_ = r.tok.Close()
	r.open()
	s = r.session()
	if got := r.macs(s, r.generate(s, macSpec), 2); len(got) != 0 {
		t.Errorf("after opening it again operations %v failed", got)
	}
}

func TestSlotsOfATokenThatIsAbsent(t *testing.T) {
	r := softHSM(t)
	f := func(want string, statements ...Statement) {
		t.Helper()
		if err := r.m.Apply(r.ctx(), statements...); err != nil {
			t.Fatal(err)
		}
		out, err := command(t, nil, probePath(t), r.m.Path, "slots", "-")
		if got := strings.TrimSpace(out); err != nil || got != want {
			t.Errorf("slots with a token, all slots, slots that say they have one: %q, want %q; %v", got, want, err)
		}
	}
	f("some some some")
	f("none some none", Token{Absent: true})
	f("some some some", Token{})
}

func TestRemoveTokenByARuleAndReturnIt(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.add(Rule{ID: "pull", On: []string{"C_Sign"}, Nth: 2, Do: []Effect{RemoveToken(0)}})
	r.macs(s, key, 1)
	if err := s.Do(mac(key)); codeOf(err) != hsm.DeviceRemoved {
		t.Errorf("the call in which the token was pulled out: %v", err)
	}
	if err := r.conn.ReturnToken(r.ctx()); err != nil {
		t.Fatal(err)
	}
	_ = r.tok.Close()
	r.open()

	// And for a time only.
	begun := time.Now()
	if err := r.conn.Now(r.ctx(), RemoveToken(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_ = r.tok.Close()
	for {
		tok, err := pkcs11.Open(r.ctx(), r.cfg)
		if err == nil {
			_ = tok.Close()
			break
		}
		if codeOf(err) != hsm.TokenNotPresent {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if d := time.Since(begun); d < 50*time.Millisecond {
		t.Errorf("it was back after %s", d)
	}
}
