//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
)

// fault is one way to break a member. begin breaks it and returns how to mend it.
type fault struct {
	name  string
	lasts span
	begin func(ctx context.Context, g *gateway, t *token) (end func(context.Context) error, err error)
}

func seconds(min, max float64) span {
	return span{time.Duration(min * float64(time.Second)), time.Duration(max * float64(time.Second))}
}

// faultsOf are the faults a member can have.
func faultsOf(t *token) []*fault {
	all := []*fault{
		{"SIGKILL", seconds(.1, .5), func(ctx context.Context, g *gateway, t *token) (func(context.Context) error, error) {
			return nothing, g.signal(ctx, t, syscall.SIGKILL)
		}},
		{"SIGSTOP, then SIGCONT", seconds(1, 6), stopped(syscall.SIGCONT)},
		{"SIGSTOP, then SIGKILL", seconds(1, 4), stopped(syscall.SIGKILL)},
		{"drained by an operator", seconds(1, 4), drained},
		{"removed by an operator", seconds(.5, 3), removed},
	}
	if t.module != nil {
		all = append(all, staged()...)
	}
	return all
}

func nothing(context.Context) error { return nil }

// signal sends a signal to the member's worker. A member that has none just now is broken already.
func (g *gateway) signal(ctx context.Context, t *token, s syscall.Signal) error {
	st, err := g.stat(ctx)
	if err != nil {
		return err
	}
	for _, m := range st.Members {
		if m.Name == t.record.Name && m.PID > 1 {
			if err := syscall.Kill(m.PID, s); err != nil && err != syscall.ESRCH {
				return err
			}
		}
	}
	return nil
}

func stopped(end syscall.Signal) func(context.Context, *gateway, *token) (func(context.Context) error, error) {
	return func(ctx context.Context, g *gateway, t *token) (func(context.Context) error, error) {
		st, err := g.stat(ctx)
		if err != nil {
			return nil, err
		}
		pid := 0
		for _, m := range st.Members {
			if m.Name == t.record.Name {
				pid = m.PID
			}
		}
		if pid <= 1 {
			return nothing, nil
		}
		send := func(s syscall.Signal) error {
			if err := syscall.Kill(pid, s); err != nil && err != syscall.ESRCH { // it may have been killed meanwhile
				return err
			}
			return nil
		}
		return func(context.Context) error { return send(end) }, send(syscall.SIGSTOP)
	}
}

func drained(ctx context.Context, g *gateway, t *token) (func(context.Context) error, error) {
	at := "/admin/v1/members/" + t.record.Name
	return func(ctx context.Context) error { return g.order(ctx, http.MethodPost, at+"/resume", nil, nil) }, g.order(ctx, http.MethodPost, at+"/drain", nil, nil)
}

func removed(ctx context.Context, g *gateway, t *token) (func(context.Context) error, error) {
	return func(ctx context.Context) error {
			return g.order(ctx, http.MethodPost, "/admin/v1/members", t.record, nil)
		},
		g.order(ctx, http.MethodDelete, "/admin/v1/members/"+t.record.Name, nil, nil)
}

// withRules is a fault made of statements, which hold in every process that loads the module meanwhile.
func withRules(name string, lasts span, statements ...faulthsm.Statement) *fault {
	return &fault{name, lasts, func(_ context.Context, _ *gateway, t *token) (func(context.Context) error, error) {
		// Rules that go let the calls go on that hang in them.
		return func(context.Context) error { return t.module.Write() }, t.module.Write(statements...)
	}}
}

// atOnce is an effect that happens in the processes there are.
func atOnce(name string, e faulthsm.Effect) *fault {
	return &fault{name, seconds(.1, 1), func(ctx context.Context, _ *gateway, t *token) (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		all, err := t.module.Conns(ctx)
		for _, c := range all {
			_ = c.Now(ctx, e) // one that crashes, or is gone meanwhile, does not answer
			_ = c.Close()
		}
		return nothing, err
	}}
}

func rule(on string, do ...faulthsm.Effect) faulthsm.Rule {
	return faulthsm.Rule{ID: "chaos", On: []string{on}, Do: do}
}

func some(r faulthsm.Rule, p float64) faulthsm.Rule {
	r.Probability = p
	return r
}

// signatures are the mechanisms whose results have a public half to be checked with.
var signatures = []hsm.MechanismType{hsm.ECDSA, hsm.RSAPKCS, hsm.RSAPKCSPSS, hsm.EDDSA}

// staged are the faults that faulthsm plays.
func staged() []*fault {
	var all []*fault
	for _, c := range []struct {
		code hsm.Code
		on   []string
	}{
		{hsm.DeviceError, []string{"session", "C_Sign", "C_OpenSession", "C_Login", "C_Initialize"}},
		{hsm.GeneralError, []string{"session", "crypto", "C_Sign", "C_Decrypt", "C_DecryptInit", "C_UnwrapKey"}},
		{hsm.FunctionFailed, []string{"crypto", "C_Encrypt", "C_Decrypt", "C_GenerateRandom"}},
		{hsm.SessionHandleInvalid, []string{"session", "C_SignInit"}},
		{hsm.SessionClosed, []string{"session", "C_Decrypt"}},
		{hsm.ObjectHandleInvalid, []string{"C_UnwrapKey", "C_SignInit", "C_FindObjectsInit"}},
		{hsm.KeyHandleInvalid, []string{"C_SignInit", "C_EncryptInit", "C_DecryptInit"}},
		{hsm.UserNotLoggedIn, []string{"session", "crypto", "C_UnwrapKey"}},
		{hsm.SessionCount, []string{"C_OpenSession", "C_SignInit"}},
		{hsm.DeviceMemory, []string{"crypto", "C_UnwrapKey"}},
		{hsm.HostMemory, []string{"crypto", "C_OpenSession"}},
		{hsm.CryptokiNotInitialized, []string{"session", "crypto"}},
		{hsm.TokenNotPresent, []string{"session", "C_OpenSession"}},
		{hsm.DeviceRemoved, []string{"session"}},
		{hsm.OperationActive, []string{"C_SignInit", "C_EncryptInit"}},
		{hsm.OperationNotInitialized, []string{"C_Sign"}},
		{hsm.BufferTooSmall, []string{"C_Encrypt"}},
		{hsm.MechanismInvalid, []string{"C_SignInit"}},
		{hsm.ArgumentsBad, []string{"C_SignInit"}},
		{hsm.FunctionCanceled, []string{"crypto"}},
		{hsm.VendorDefined + 0x1A, []string{"C_Sign"}},
	} {
		for _, on := range c.on {
			all = append(all, withRules(fmt.Sprintf("%s of %s", c.code, on), seconds(.5, 5), rule(on, faulthsm.Return(c.code))))
		}
		all = append(all, withRules(fmt.Sprintf("%s of some calls", c.code), seconds(1, 5), some(rule(c.on[0], faulthsm.Return(c.code)), .3)))
	}
	var flips []faulthsm.Statement
	for i, m := range signatures {
		flips = append(flips, faulthsm.Rule{ID: fmt.Sprintf("flip%d", i), On: []string{"C_Sign"}, Mechanism: &m, Do: []faulthsm.Effect{faulthsm.Flip()}})
	}
	rarely := make([]faulthsm.Statement, 0, len(flips))
	for _, f := range flips {
		rarely = append(rarely, some(f.(faulthsm.Rule), .2))
	}
	pending := rule("C_Sign", faulthsm.ReturnPending(hsm.GeneralError))
	crash := rule("C_Sign", faulthsm.Crash())
	crash.Nth = 20
	return append(all,
		withRules("answers lost", seconds(.5, 3), rule("crypto", faulthsm.Call(), faulthsm.Return(hsm.DeviceError))),
		withRules("operations left active", seconds(.5, 3), some(pending, .5)),
		withRules("slow", seconds(1, 5), rule("crypto", faulthsm.Sleep(faulthsm.LogNormal(20*time.Millisecond, 1)))),
		withRules("very slow", seconds(1, 5), rule("crypto", faulthsm.Sleep(faulthsm.Uniform(300*time.Millisecond, 4*time.Second)))),
		withRules("every signature hangs", seconds(2, 14), rule("C_Sign", faulthsm.Hang())),
		withRules("everything hangs", seconds(2, 14), rule("crypto", faulthsm.Hang())),
		withRules("some hang", seconds(2, 8), some(rule("crypto", faulthsm.Hang()), .05)),
		withRules("opening sessions hangs", seconds(1, 4), rule("C_OpenSession", faulthsm.Hang())),
		withRules("crashes at a signature", seconds(1, 3), crash),
		withRules("login lost at a signature", seconds(.5, 3), some(rule("C_SignInit", faulthsm.Logout()), .02)),
		withRules("sessions closed under calls", seconds(.5, 3), some(rule("session", faulthsm.CloseSession()), .02)),
		withRules("sessions limited to 4", seconds(1, 4), faulthsm.Sessions{Max: 4}),
		withRules("objects limited to 2", seconds(1, 4), faulthsm.Objects{Max: 2}),
		withRules("sessions opened slowly only", seconds(1, 4), faulthsm.Opens{Max: 2, Per: time.Second}),
		withRules("token away", seconds(.5, 4), faulthsm.Token{Absent: true}),
		withRules("every signature with a flipped bit", seconds(.5, 4), flips...),
		withRules("some signatures with a flipped bit", seconds(1, 4), rarely...),
		withRules("signatures cut short", seconds(.5, 3), rule("C_Sign", faulthsm.Shorten(3))),
		atOnce("SIGSEGV", faulthsm.Crash()),
		atOnce("login lost", faulthsm.Logout()),
		atOnce("login lost, said plainly", faulthsm.LogoutWith(hsm.UserNotLoggedIn)),
		atOnce("all sessions closed", faulthsm.CloseSessions()),
		atOnce("all handles invalid", faulthsm.ForgetObjects()),
		atOnce("token pulled out and put back", faulthsm.RemoveToken(500*time.Millisecond)),
	)
}
