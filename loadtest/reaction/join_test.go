//go:build linux && cgo

package reaction

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// TestPINTroubleLatchesTheMember: one try, whatever the code, and none after it; the latch is handed out to be stored.
func TestPINTroubleLatchesTheMember(t *testing.T) {
	for _, c := range []hsm.Code{
		hsm.PinIncorrect, hsm.PinInvalid, hsm.PinLenRange, hsm.PinExpired, hsm.PinLocked, hsm.PinTooWeak, hsm.UserPinNotInitialized,
		hsm.UserAnotherLoggedIn, hsm.UserTooManyTypes, hsm.UserTypeInvalid,
	} {
		t.Run(row{code: c, on: "C_Login"}.name(), func(t *testing.T) {
			t.Parallel()
			both(t, setup{refused: true, before: []faulthsm.Statement{always("refused", c, "C_Login")}}, func(r *rig) {
				r.latched(1)
				if !r.isolated {
					if n := r.logins(); n != 1 {
						r.Errorf("%d logins, want 1", n)
					}
				}
				if by, err := r.do("mac"); by != "b" || err != nil {
					r.Errorf("meanwhile: answered by %q, %v", by, err)
				}
			})
		})
	}
}

// latched waits until a is latched, after so many openings of its token.
func (r *rig) latched(opens int64) {
	r.Helper()
	r.until("a is latched and that was told", func() bool { return r.stat("a").State == pool.Latched && r.latches.Load() == 1 })
	if n := r.opens.Load(); n != opens {
		r.Errorf("the token was opened %d times, want %d", n, opens)
	}
	if n := r.log.count("member latched"); n != 1 {
		r.Errorf("%d alarms, want 1", n)
	}
}

// logins are the calls of C_Login in this process.
func (r *rig) logins() int64 {
	r.Helper()
	c, err := r.m.Conn(r.ctx(), os.Getpid())
	if err != nil {
		r.Fatal(err)
	}
	defer c.Close()
	s, err := c.Stats(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	return s["C_Login"].Calls
}

// wrongPINs is what the module counted, in all processes together.
func (r *rig) wrongPINs() int {
	r.Helper()
	b, err := os.ReadFile(r.m.State)
	if err != nil {
		r.Fatal(err)
	}
	all := 0
	for line := range strings.Lines(string(b)) { // one for each token it has seen
		var serial string
		var n int
		if k, _ := fmt.Sscanf(line, "wrong-pins %s %d", &serial, &n); k == 2 {
			all += n
		}
	}
	return all
}

// TestAWrongPINIsTriedOnceAndNeverTheLastTime on a token that locks after three: neither by itself, nor when an operator clears the
// latch without having mended anything but once.
func TestAWrongPINIsTriedOnceAndNeverTheLastTime(t *testing.T) {
	both(t, setup{refused: true, pin: "wrong", before: []faulthsm.Statement{faulthsm.PINTries(3)}}, func(r *rig) {
		if !r.isolated { // SoftHSM counts nothing, but remembers for ever that there was a wrong one; other rows use its token later
			r.Cleanup(func() {
				p := params{Module: r.at.Real, Label: r.at.Label, Vouched: true}
				if tok, err := pkcs11.Open(context.Background(), p.config(hsm.NewPIN([]byte(userPIN)))); err != nil {
					r.Error(err)
				} else if err := tok.Close(); err != nil {
					r.Error(err)
				}
			})
		}
		r.latched(1)
		if n := r.wrongPINs(); n != 1 {
			r.Fatalf("the token counted %d wrong PINs, want 1", n)
		}
		r.vouched = true // as a cleared latch has it
		for clears := 1; clears <= 3; clears++ {
			if err := r.pool.ClearLatch("a"); err != nil {
				r.Fatal(err)
			}
			r.until("a is latched again", func() bool { return r.latches.Load() == int64(1+clears) && r.stat("a").State == pool.Latched })
		}
		if n := r.wrongPINs(); n != 2 { // the last try is nobody's to risk
			r.Errorf("the token counted %d wrong PINs, want 2", n)
		}
	})
}

// TestAPINThatExpiresLatchesAMemberThatServes.
func TestAPINThatExpiresLatchesAMemberThatServes(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("mac")
		r.force(once("expired", hsm.PinExpired, "C_Sign"))
		if by, err := r.do("mac"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.latched(1)
	})
}

// TestAlreadyLoggedInIsSuccess: another session, or another program's thread, has logged in.
func TestAlreadyLoggedInIsSuccess(t *testing.T) {
	login := faulthsm.Rule{ID: "already", On: []string{"C_Login"}, Do: []faulthsm.Effect{faulthsm.Call(), faulthsm.Return(hsm.UserAlreadyLoggedIn)}}
	both(t, setup{before: []faulthsm.Statement{login}}, func(r *rig) {
		r.prefer("mac")
		if n := r.calls("C_Login"); n != 1 || r.fired("already") != 1 {
			r.Errorf("%d logins, want 1", n)
		}
	})
}

// TestATokenThatTakesFewerSessionsIsUsedWithThose: no more are asked for in a loop, when it joins or when one is lost.
func TestATokenThatTakesFewerSessionsIsUsedWithThose(t *testing.T) {
	for _, r := range []row{
		{code: hsm.SessionCount}, {code: hsm.DeviceMemory}, {code: hsm.ArgumentsBad, vendor: hsm.VendorCloudHSM}, {code: hsm.FunctionFailed, vendor: hsm.VendorCloudHSM},
	} {
		t.Run(r.name(), func(t *testing.T) {
			t.Parallel()
			// The login's session and two more.
			full := faulthsm.Rule{ID: "full", On: []string{"C_OpenSession"}, Skip: 3, Do: []faulthsm.Effect{faulthsm.Return(r.code)}}
			both(t, setup{vendor: r.vendor, sessions: 5, before: []faulthsm.Statement{full}}, func(rig *rig) {
				rig.prefer("mac")
				if s, n := rig.stat("a"), rig.calls("C_OpenSession"); s.Sessions != 2 || s.Permits != 2 || n != 4 {
					rig.Errorf("%d sessions, %d permits after %d tries; want 2, 2 and 4", s.Sessions, s.Permits, n)
				}
				rig.force(once("lost", hsm.SessionHandleInvalid, "C_Sign"))
				lost := time.Now()
				if by, err := rig.do("mac"); by != "b" || err != nil {
					rig.Errorf("with the session lost and no other to be had: answered by %q, %v", by, err)
				}
				rig.until("a goes on with what it has", func() bool { s := rig.stat("a"); return s.Sessions == 1 && s.Permits == 1 })
				rig.until("b is asked last", rig.b.asleep)
				// Once at the loss, again after a second less a quarter of jitter, and then less and less often.
				n, most := rig.calls("C_OpenSession")-4, 1+int64(time.Since(lost)/(750*time.Millisecond))
				if n < 1 || n > most {
					rig.Errorf("a session was asked for %d times within %s, want at most %d", n, time.Since(lost), most)
				}
				if by, err := rig.do("mac"); by != "a" || err != nil {
					rig.Errorf("answered by %q, %v", by, err)
				}
				rig.heal()
				rig.until("a has two sessions again", func() bool { s := rig.stat("a"); return s.Sessions == 2 && s.Permits == 2 })
				if s := rig.stat("a"); s.Epoch != 0 || s.Breaker != "closed" {
					rig.Errorf("epoch %d, breaker %s", s.Epoch, s.Breaker)
				}
			})
		})
	}
}

// TestATokenThatTakesNoSessionIsOpenedAnewLater, not at once.
func TestATokenThatTakesNoSessionIsOpenedAnewLater(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("mac")
		r.force(always("full", hsm.SessionCount, "C_OpenSession"), once("lost", hsm.SessionHandleInvalid, "C_Sign"))
		tries := r.calls("C_OpenSession")
		if by, err := r.do("mac"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.until("a is lost", func() bool { return r.stat("a").Epoch == 1 })
		if !r.isolated {
			if n := r.logins(); n != 1 {
				r.Errorf("%d logins at once, want none after the first", n)
			}
			c, _ := r.m.Conn(r.ctx(), os.Getpid())
			s, _ := c.Stats(r.ctx())
			if n := s["C_OpenSession"].Calls - tries; n != 1 {
				r.Errorf("%d sessions were asked for, want 1", n)
			}
			if err := c.Clear(r.ctx()); err != nil {
				r.Fatal(err)
			}
			_ = c.Close()
		}
		r.until("a serves again", func() bool { return r.stat("a").State == pool.Active })
	})
}

// TestABadArgumentOfOpenSessionIsTheDevicesElsewhere: only CloudHSM means capacity by it.
func TestABadArgumentOfOpenSessionIsTheDevicesElsewhere(t *testing.T) {
	full := faulthsm.Rule{ID: "full", On: []string{"C_OpenSession"}, Skip: 3, Do: []faulthsm.Effect{faulthsm.Return(hsm.ArgumentsBad)}}
	both(t, setup{sessions: 5, refused: true, before: []faulthsm.Statement{full}}, func(r *rig) {
		r.until("the second try", func() bool { return r.log.count("cannot open the member's token") >= 2 })
		if s := r.stat("a"); s.State != pool.Joining || !strings.Contains(s.Reason, "CKR_ARGUMENTS_BAD") || r.log.count("opening session 3 of 5") == 0 {
			r.Errorf("a is %s: %s", s.State, s.Reason)
		}
	})
}

// TestTriesToOpenATokenBecomeRarer.
func TestTriesToOpenATokenBecomeRarer(t *testing.T) {
	both(t, setup{refused: true, before: []faulthsm.Statement{always("broken", hsm.GeneralError, "C_Initialize")}}, func(r *rig) {
		begun := time.Now()
		defer func() {
			if d := time.Since(begun); d < 2*time.Second { // 1 s and 2 s, less a quarter of jitter and what passed before
				r.Errorf("three tries within %s", d)
			}
		}()
		r.until("three tries", func() bool { return r.log.count("cannot open the member's token") == 3 })
		for _, wait := range []string{"again_in=1s", "again_in=2s", "again_in=4s"} {
			if r.log.count(wait) != 1 {
				r.Errorf("no %s in the log:\n%s", wait, r.log)
			}
		}
	})
}
