//go:build linux && cgo

package faulthsm

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
)

func TestLimitSessions(t *testing.T) {
	r := softHSM(t)
	r.add(Sessions{Max: 3}) // one of them keeps the login
	r.session()
	last := r.session()
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount || hsm.FaultOf(err) != hsm.Busy {
		t.Errorf("the fourth session: %v", err)
	}
	_ = last.Close()
	r.session()
	r.add(Sessions{Max: 3, Code: hsm.ArgumentsBad}) // takes the other's place
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.ArgumentsBad {
		t.Errorf("with a code of its own: %v", err)
	}
	_ = r.tok.Close()
	r.open()
	if got := r.tok.Info().MaxSessions; got != 2 {
		t.Errorf("the token reports a limit of 3 sessions, of which the driver has %d, want 2", got)
	}
	r.remove("limit-sessions")
	for range 5 {
		r.session()
	}
}

func TestLimitSessionsCountsAllProcesses(t *testing.T) {
	r := softHSM(t)
	if err := r.m.Apply(r.ctx(), Sessions{Max: 4, Linger: time.Hour}); err != nil {
		t.Fatal(err)
	}
	w, _ := r.worker() // two, with the one of this process
	sessionOf(t, w)
	r.session()
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount {
		t.Errorf("the fifth session of two processes, in the first: %v", err)
	}
	if _, err := w.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount {
		t.Errorf("the fifth session of two processes, in the second: %v", err)
	}
	// A process that is killed leaves its sessions on the device until they expire …
	w.Kill()
	<-w.Done()
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount {
		t.Errorf("the sessions of a dead process should linger: %v", err)
	}
	if _, err := r.spawn(userPIN); err == nil || !strings.Contains(err.Error(), "SESSION_COUNT") {
		t.Errorf("its successor: %v", err)
	}
	// … which without lingering is at once.
	if err := r.m.Apply(r.ctx(), Sessions{Max: 4}); err != nil {
		t.Fatal(err)
	}
	r.session()
	r.session()
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount {
		t.Errorf("the fifth session of one process: %v", err)
	}
}

func TestLimitObjects(t *testing.T) {
	r := softHSM(t)
	s, other := r.session(), r.session()
	r.add(Objects{Max: 4})
	key := r.generate(s, macSpec)
	r.generate(s, aesSpec)
	r.generate(other, macSpec)
	if _, err := s.Generate(signSpec); codeOf(err) != hsm.DeviceMemory || hsm.FaultOf(err) != hsm.Busy {
		t.Errorf("a pair, the fourth and fifth object: %v", err)
	}
	r.generate(s, macSpec)
	if _, err := s.Import(macSpec, make([]byte, 32)); codeOf(err) != hsm.DeviceMemory {
		t.Errorf("the fifth object: %v", err)
	}
	token := macSpec
	token.Token, token.ID = true, []byte("on the token")
	if err := s.Destroy(r.generate(s, token)); err != nil {
		t.Errorf("token objects are not counted: %v", err)
	}
	if err := s.Destroy(key); err != nil {
		t.Fatal(err)
	}
	r.generate(s, macSpec)
	_ = other.Close() // and its object with it
	r.generate(s, macSpec)
	if n := r.status().SessionObjects; n != 4 {
		t.Errorf("%d session objects, want 4", n)
	}
	if got := r.macs(s, r.generateAfterClear(s), 1); len(got) != 0 {
		t.Error("without the limit it should go on")
	}
}

func (r *rig) generateAfterClear(s hsm.Keeper) hsm.Handle {
	r.Helper()
	if err := r.conn.Clear(r.ctx()); err != nil {
		r.Fatal(err)
	}
	return r.generate(s, macSpec)
}

func TestLimitOpens(t *testing.T) {
	r := softHSM(t)
	r.add(Opens{Max: 3, Per: time.Hour, Code: hsm.ArgumentsBad})
	for range 3 {
		_ = r.session().Close() // closing does not help
	}
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.ArgumentsBad {
		t.Errorf("the fourth session within an hour: %v", err)
	}
	r.add(Opens{Max: 3, Per: time.Nanosecond})
	for range 6 {
		r.session()
	}
}

func TestDeviceLimits(t *testing.T) {
	r := softHSM(t)
	r.add(Device{"yubihsm2", 0.001})
	for range 15 {
		r.session()
	}
	if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount {
		t.Errorf("the 17th session on a YubiHSM 2: %v", err)
	}
	r.add(Device{"cloudhsm-hsm2m", 0.001})
	opened := 0
	var err error
	for err == nil && opened < 50 {
		if _, err = r.tok.OpenSession(t.Context()); err == nil {
			opened++
		}
	}
	if codeOf(err) != hsm.ArgumentsBad || opened > 40 {
		t.Errorf("sessions on CloudHSM opened fast: %d, then %v", opened, err)
	}
}

func TestLeak(t *testing.T) {
	r := softHSM(t)
	w, conn := r.worker()
	s := sessionOf(t, w)
	key := r.generate(s, macSpec)
	rss := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w.PID()))
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.Atoi(strings.Fields(string(b))[1])
		if err != nil {
			t.Fatal(err)
		}
		return pages * os.Getpagesize()
	}
	before := rss()
	if err := conn.Add(r.ctx(), Rule{ID: "leak", On: []string{"C_Sign"}, Times: 40, Do: []Effect{Leak(1 << 20)}}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if op := mac(key); s.Do(op) != nil || op.Err != nil {
			t.Fatal(op.Err)
		}
	}
	st, err := conn.Status(r.ctx())
	if err != nil || st.Leaked != 40<<20 {
		t.Errorf("leaked %d, want 40 MiB: %v", st.Leaked, err)
	}
	if grown := rss() - before; grown < 36<<20 {
		t.Errorf("the process grew by %d bytes, want about 40 MiB", grown)
	}
}

// TestPINCount: what SoftHSM never does. That the driver does not try a PIN when the token warns is its own promise.
func TestPINCount(t *testing.T) {
	r := softHSM(t)
	if err := r.m.Apply(r.ctx(), PINTries(3)); err != nil {
		t.Fatal(err)
	}
	_ = r.tok.Close()
	probe := func(args ...string) string {
		t.Helper()
		out, err := command(t, nil, probePath(t), append([]string{r.m.Path}, args...)...)
		if err != nil {
			t.Fatalf("probe %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(out)
	}
	f := func(args []string, want string) {
		t.Helper()
		if got := probe(args...); got != want {
			t.Errorf("probe %v: %q, want %q", args, got, want)
		}
	}
	label := r.cfg.TokenLabel
	// Each of these is a process of its own: the count survives them.
	f([]string{"flags", label}, "pin-flags:")
	f([]string{"login", label, "wrong"}, "0xA0")
	f([]string{"flags", label}, "pin-flags: count-low")
	if _, err := r.spawn(userPIN); hsm.FaultOf(err) != hsm.Locked || !strings.Contains(err.Error(), "wrong PIN has been tried") {
		t.Errorf("the driver, warned: %v", err)
	}
	f([]string{"login", label, "wrong"}, "0xA0")
	f([]string{"flags", label}, "pin-flags: count-low final-try")
	f([]string{"login", label, userPIN}, "0x0")
	f([]string{"flags", label}, "pin-flags:")
	for range 3 {
		f([]string{"login", label, "wrong"}, "0xA0")
	}
	f([]string{"flags", label}, "pin-flags: count-low locked")
	f([]string{"login", label, userPIN}, "0xA4")
	f([]string{"setpin", label, userPIN, "4321"}, "0xA4")
	_, err := r.spawn(userPIN)
	var e *hsm.Error
	if !errors.As(err, &e) || e.Code != hsm.PinLocked {
		t.Errorf("the driver on a locked PIN: %v", err)
	}
	if b, err := os.ReadFile(r.m.State); err != nil || !strings.Contains(string(b), " 3\n") {
		t.Errorf("the state file says %q, %v", b, err)
	}
	// The security officer sets it anew.
	f([]string{"initpin", label, soPIN, userPIN}, "0x0")
	f([]string{"login", label, userPIN}, "0x0")
	for range 3 {
		f([]string{"login", label, "wrong"}, "0xA0")
	}
	f([]string{"login", label, userPIN}, "0xA4")
	if err := r.conn.ResetPINs(r.ctx()); err != nil {
		t.Fatal(err)
	}
	f([]string{"login", label, userPIN}, "0x0")
}

// TestClock: a token's clock, as the driver reads it and a worker carries it.
func TestClock(t *testing.T) {
	r := softHSM(t)
	ahead := func() time.Duration {
		t.Helper()
		w, err := r.spawn(userPIN)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if w.Info().Clock.IsZero() {
			return 0
		}
		return time.Until(w.Info().Clock)
	}
	f := func(want time.Duration, statements ...Statement) {
		t.Helper()
		if err := r.m.Apply(r.ctx(), statements...); err != nil {
			t.Fatal(err)
		}
		if got := ahead(); got > want || got < want-time.Minute { // it was read a while ago
			t.Errorf("%v: the clock is %s ahead, want %s", statements, got, want)
		}
	}
	f(time.Hour, Clock{Ahead: time.Hour})
	f(-time.Hour, Clock{Ahead: -time.Hour})
	f(0)
	if err := r.m.Apply(r.ctx(), Clock{Absent: true}); err != nil {
		t.Fatal(err)
	}
	if got := ahead(); got != 0 {
		t.Errorf("a token without a clock tells a time: %s", got)
	}
}
