//go:build linux && cgo

package reaction

import (
	"errors"
	"os"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// back waits until a serves in another epoch and answers right.
func (r *rig) back(epoch uint64, ask string) {
	r.Helper()
	r.until("a serves in another epoch", func() bool { s := r.stat("a"); return s.Epoch > epoch && s.State == pool.Active && s.Sessions > 0 })
	r.until("b is asked last", func() bool { return r.alone || r.b.asleep() })
	r.until("a answers", func() bool {
		by, err := r.do(ask)
		if err != nil {
			r.Fatal(err)
		}
		return by == "a"
	})
}

// TestWhatATokenLoses: sessions, the login, handles, itself, in earnest; and the real library says what it says.
func TestWhatATokenLoses(t *testing.T) {
	for _, c := range []struct {
		name    string
		effect  faulthsm.Effect
		by      string
		epoch   uint64
		reloads bool
	}{
		{"one session", faulthsm.CloseSession(), "a", 0, true},
		{"all sessions", faulthsm.CloseSessions(), "b", 1, true},
		{"the login", faulthsm.Logout(), "b", 1, true},
		{"the login, and it says so", faulthsm.LogoutWith(hsm.UserNotLoggedIn), "b", 1, true},
		// As NSS 3.87 does with a key on the token, where it does not end the process.
		{"the login, and it says something else", faulthsm.Logout() + " then " + faulthsm.Return(hsm.KeySizeRange), "b", 1, true},
		{"the handles", faulthsm.ForgetObjects(), "a", 0, true},
		{"the token", faulthsm.RemoveToken(100 * time.Millisecond), "b", 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			both(t, setup{sessions: 1}, func(r *rig) {
				r.prefer("sign")
				loads := r.stat("a").Loads
				r.force(faulthsm.Rule{ID: "lose", On: []string{"C_SignInit"}, Times: 1, Do: []faulthsm.Effect{c.effect}})
				by, err := r.do("sign")
				if by != c.by || err != nil {
					r.Errorf("answered by %q, %v; want %s", by, err, c.by)
				}
				if c.epoch > 0 {
					r.back(0, "sign")
				}
				s := r.stat("a")
				if s.Epoch != c.epoch || s.Breaker != "closed" || s.State != pool.Active {
					r.Errorf("epoch %d, breaker %s, %s; want epoch %d", s.Epoch, s.Breaker, s.State, c.epoch)
				}
				if (s.Loads > loads) != c.reloads {
					r.Errorf("%d loads after %d", s.Loads, loads)
				}
				if n := r.log.count("cannot be used on this member"); n != 0 || s.Unusable != 0 {
					r.Errorf("the key was blamed: %d alarms, %d operations", n, s.Unusable)
				}
				if n := r.opens.Load(); uint64(n) != 1+c.epoch {
					r.Errorf("the token was opened %d times", n)
				}
			})
		})
	}
}

// TestALibraryThatLostTheLoginsSessionIsOpenedAnew: it may have been started anew under our feet, and then a handle that is cached
// names something else.
func TestALibraryThatLostTheLoginsSessionIsOpenedAnew(t *testing.T) {
	alone(t, setup{isolated: true}, func(r *rig) {
		r.prefer("mac")
		login := uint64(1) // SoftHSM counts its sessions from 1 in each process
		r.force(once("lost", hsm.SessionHandleInvalid, "C_Sign"),
			faulthsm.Rule{ID: "login", On: []string{"C_GetSessionInfo"}, Session: &login, Do: []faulthsm.Effect{faulthsm.Return(hsm.SessionHandleInvalid)}})
		if by, err := r.do("mac"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.back(0, "mac")
		if n := r.log.count("the library lost the session that keeps the login"); n == 0 {
			r.Errorf("for another reason:\n%s", r.log)
		}
	})
}

// TestNSSLosesItsLogin: NSS 3.87 goes on with what is loaded, and then nothing more can be. With a key on the token it says
// CKR_KEY_SIZE_RANGE or ends the process.
func TestNSSLosesItsLogin(t *testing.T) {
	alone(t, setup{nss: true, isolated: true}, func(r *rig) {
		r.prefer("mac")
		if err := r.conn().Now(r.ctx(), faulthsm.Logout()); err != nil {
			r.Fatal(err)
		}
		// What is loaded goes on working; what must be loaded does not.
		if by, err := r.do("sign"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.back(0, "sign")
		if s := r.stat("a"); s.Unusable != 0 || s.Epoch != 1 {
			r.Errorf("%d operations were the key's trouble, epoch %d", s.Unusable, s.Epoch)
		}
	})
}

// TestNSSSpeaksPlainly: what is ambiguous on SoftHSM is said with its own code, and no canary is asked.
func TestNSSSpeaksPlainly(t *testing.T) {
	both(t, setup{nss: true, alone: true}, func(r *rig) {
		r.prefer("decrypt")
		asked := r.calls("C_GenerateRandom")
		for range 8 {
			if _, err := r.do("tampered"); hsm.FaultOf(err) != hsm.Caller {
				r.Errorf("a forgery: %v (%s)", err, hsm.FaultOf(err))
			}
		}
		if n := r.calls("C_GenerateRandom") - asked; n != 0 {
			r.Errorf("%d canaries", n)
		}
		for _, ask := range []string{"encrypt", "decrypt", "mac", "sign"} {
			if by, err := r.do(ask); by != "a" || err != nil {
				r.Errorf("%s: answered by %q, %v", ask, by, err)
			}
		}
	})
}

// TestATokenThatIsAwayIsOpenedWhenItIsBack.
func TestATokenThatIsAwayIsOpenedWhenItIsBack(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("mac")
		if err := r.m.Apply(r.ctx(), faulthsm.Token{Absent: true}); err != nil {
			r.Fatal(err)
		}
		if by, err := r.do("mac"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.until("a cannot be opened", func() bool { return r.log.count("cannot open the member's token") >= 1 }) // its worker has ended by then
		if r.log.count("is not there: a PKCS#11 call returned CKR_TOKEN_NOT_PRESENT") == 0 {
			r.Errorf("for another reason:\n%s", r.log)
		}
		if s := r.stat("a"); s.State != pool.Joining || s.Epoch != 1 {
			r.Errorf("a is %s in epoch %d", s.State, s.Epoch)
		}
		if err := r.m.Apply(r.ctx()); err != nil {
			r.Fatal(err)
		}
		r.back(0, "mac")
	})
}

// TestALibraryThatNeverFindsItsDeviceAgainIsStartedAnew: everything fails, sessions can be opened all the same, and
// only a fresh C_Initialize helps.
func TestALibraryThatNeverFindsItsDeviceAgainIsStartedAnew(t *testing.T) {
	both(t, setup{sessions: 2, cfg: pool.Config{RestartAfter: time.Second}}, func(r *rig) {
		r.prefer("mac")
		r.force(always("dead", hsm.DeviceError, "crypto"))
		r.until("a is ejected", func() bool {
			if by, err := r.do("mac"); err != nil {
				r.Fatalf("answered by %q, %v", by, err)
			}
			return r.stat("a").State == pool.Ejected
		})
		if n := r.opens.Load(); n != 1 {
			r.Errorf("opened anew already: %d", n)
		}
		if !r.isolated { // in this process nothing is gained by that
			r.heal()
			r.until("a's canary closes its breaker", func() bool { return r.stat("a").State == pool.Active })
			if n := r.opens.Load(); n != 1 {
				r.Errorf("opened %d times", n)
			}
			return
		}
		r.until("a's token is opened anew", func() bool { return r.opens.Load() > 1 })
		if n := r.log.count("its canaries have failed for"); n == 0 {
			r.Errorf("for another reason:\n%s", r.log)
		}
		r.back(0, "mac")
	})
}

// TestACrashIsNoticedByNobody: the worker dies in C_Sign, and the next one serves.
func TestACrashIsNoticedByNobody(t *testing.T) {
	alone(t, setup{isolated: true, sessions: 2}, func(r *rig) {
		r.prefer("mac")
		pid := r.stat("a").PID
		r.force(faulthsm.Rule{ID: "crash", On: []string{"C_Sign"}, Times: 1, Do: []faulthsm.Effect{faulthsm.Crash()}})
		if by, err := r.do("mac"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.back(0, "mac")
		if s := r.stat("a"); s.PID == pid || s.Respawns != 1 || s.Handles != 1 {
			r.Errorf("worker %d after %d, %d respawns, %d handles", s.PID, pid, s.Respawns, s.Handles)
		}
	})
}

// TestAWorkerThatLeaksIsReplaced before it fills the machine.
func TestAWorkerThatLeaksIsReplaced(t *testing.T) {
	alone(t, setup{isolated: true, memory: 128 << 20}, func(r *rig) {
		r.prefer("mac")
		pid := r.stat("a").PID
		r.force(faulthsm.Rule{ID: "leak", On: []string{"C_Sign"}, Times: 3, Do: []faulthsm.Effect{faulthsm.Leak(48 << 20)}})
		r.until("a's worker is another", func() bool {
			if _, err := r.do("mac"); err != nil {
				r.Fatal(err)
			}
			s := r.stat("a")
			return s.PID != 0 && s.PID != pid
		})
		if s := r.stat("a"); s.Respawns != 0 || s.Epoch != 1 {
			r.Errorf("%d respawns, epoch %d; want none, it was meant, and 1", s.Respawns, s.Epoch)
		}
	})
}

// TestWhereverATokenHangs while it joins, it is given up, in a worker killed, and tried again.
func TestWhereverATokenHangsWhileItJoins(t *testing.T) {
	for _, on := range []string{"C_Initialize", "C_GetTokenInfo", "C_OpenSession", "C_Login", "C_GenerateKey"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			hang := faulthsm.Rule{ID: "stuck", On: []string{on}, Do: []faulthsm.Effect{faulthsm.Hang()}}
			s := setup{refused: true, cfg: pool.Config{JoinTimeout: 700 * time.Millisecond}, before: []faulthsm.Statement{hang}}
			f := func(r *rig) {
				if by, err := r.do("mac"); by != "b" || err != nil {
					r.Errorf("meanwhile: answered by %q, %v", by, err)
				}
				r.until("a was given up", func() bool { return r.log.count("cannot open the member's token") >= 1 })
				if err := r.m.Write(); err != nil {
					r.Fatal(err)
				}
				r.until("a serves", func() bool { return r.stat("a").State == pool.Active })
				if n := r.opens.Load(); n < 2 {
					r.Errorf("opened %d times", n)
				}
			}
			if on == "C_GenerateKey" { // a call below Open, which nothing ends in this process
				s.isolated = true
				alone(t, s, f)
				return
			}
			both(t, s, f)
		})
	}
}

// TestACallThatHangsIsGivenUp: its caller is answered by the other member in half of its time, and the worker is killed.
func TestACallThatHangsIsGivenUp(t *testing.T) {
	for _, on := range []string{"C_Sign", "C_SignInit", "C_OpenSession"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			both(t, setup{cfg: pool.Config{OpTimeout: 500 * time.Millisecond}}, func(r *rig) {
				r.prefer("mac")
				pid := r.stat("a").PID
				rules := []faulthsm.Statement{faulthsm.Rule{ID: "stuck", On: []string{on}, Do: []faulthsm.Effect{faulthsm.Hang()}}}
				if on == "C_OpenSession" {
					rules = append(rules, once("lost", hsm.SessionHandleInvalid, "C_Sign"))
				}
				r.force(rules...)
				if by, err := r.doWithin(patient(r), "mac"); by != "b" || err != nil {
					r.Errorf("answered by %q, %v", by, err)
				}
				r.until("a is lost", func() bool { s := r.stat("a"); return s.Epoch == 1 || s.State == pool.Joining })
				if !r.isolated { // nothing can be killed here: it is out until the calls return
					time.Sleep(1500 * time.Millisecond)
					if n := r.opens.Load(); n != 1 && on != "C_OpenSession" {
						r.Errorf("opened again, %d times, while a call hangs in the library", n)
					}
					c, err := r.m.Conn(r.ctx(), os.Getpid())
					if err == nil {
						err = errors.Join(c.Clear(r.ctx()), c.Close())
					}
					if err != nil {
						r.Fatal(err)
					}
				}
				r.back(0, "mac")
				if s := r.stat("a"); r.isolated && s.PID == pid {
					r.Errorf("the worker that hung is still there")
				} else if on != "C_OpenSession" && s.Hung == 0 {
					r.Errorf("nobody counted it: %+v", s)
				}
			})
		})
	}
}
