//go:build linux

package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
)

// withRules is a fault made of statements, which hold in every process that loads the module meanwhile.
func withRules(name string, lasts span, statements ...faulthsm.Statement) *fault {
	return newFault(name, lasts, ruled(statements...))
}

func ruled(statements ...faulthsm.Statement) begins {
	return func(_ context.Context, _ *cluster, t *token) (func(context.Context) error, error) {
		// Rules that go let the calls go on that hang in them.
		return func(context.Context) error { return t.Module.Write() }, t.Module.Write(statements...)
	}
}

// atOnce is an effect that happens in the processes there are.
func atOnce(name string, e faulthsm.Effect) *fault {
	return newFault(name, seconds(.1, 1), func(ctx context.Context, _ *cluster, t *token) (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		all, err := t.Module.Conns(ctx)
		for _, c := range all {
			_ = c.Now(ctx, e) // one that crashes, or is gone meanwhile, does not answer
			_ = c.Close()
		}
		return nil, err
	})
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
		withRules("slow, as an exponential distribution", seconds(1, 5), rule("crypto", faulthsm.Sleep(faulthsm.Exponential(40*time.Millisecond)))),
		withRules("as slow as a Luna", seconds(1, 5), faulthsm.Device{Name: "luna-a790"}),
		withRules("as slow as a CloudHSM", seconds(1, 5), faulthsm.Device{Name: "cloudhsm-hsm2m"}),
		withRules("as slow as a TPM", seconds(1, 5), faulthsm.Device{Name: "tpm"}),
		withRules("throttled: SESSION_COUNT", seconds(1, 5), rule("crypto", faulthsm.ServeRefusing(2, faulthsm.Fixed(50*time.Millisecond), hsm.SessionCount, 100*time.Millisecond))),
		withRules("throttled: FUNCTION_FAILED", seconds(1, 5), rule("crypto", faulthsm.ServeRefusing(2, faulthsm.Fixed(50*time.Millisecond), hsm.FunctionFailed, 100*time.Millisecond))),
		withRules("token away", seconds(.5, 4), faulthsm.Token{Absent: true}),
		atOnce("SIGSEGV", faulthsm.Crash()),
		atOnce("login lost", faulthsm.Logout()),
		atOnce("login lost, said plainly", faulthsm.LogoutWith(hsm.UserNotLoggedIn)),
		atOnce("all sessions closed", faulthsm.CloseSessions()),
		atOnce("all handles invalid", faulthsm.ForgetObjects()),
		atOnce("token pulled out and put back", faulthsm.RemoveToken(500*time.Millisecond)),
	)
}

// wrongSignatures are the faults that only a pool notices which verifies every signature.
func wrongSignatures() []*fault {
	var flips []faulthsm.Statement
	for i, m := range signatures {
		flips = append(flips, faulthsm.Rule{ID: fmt.Sprintf("flip%d", i), On: []string{"C_Sign"}, Mechanism: &m, Do: []faulthsm.Effect{faulthsm.Flip()}})
	}
	rarely := make([]faulthsm.Statement, 0, len(flips))
	for _, f := range flips {
		rarely = append(rarely, some(f.(faulthsm.Rule), .2))
	}
	return []*fault{
		withRules("every signature with a flipped bit", seconds(.5, 4), flips...),
		withRules("some signatures with a flipped bit", seconds(1, 4), rarely...),
		withRules("signatures cut short", seconds(.5, 3), rule("C_Sign", faulthsm.Shorten(3))),
	}
}

// underway are acts of operators, and deaths, in the middle of a fault.
func underway() []*fault {
	hangs := ruled(rule("crypto", faulthsm.Hang()))
	fails := ruled(some(rule("session", faulthsm.Return(hsm.DeviceError)), .3))
	return []*fault{
		newFault("drained while everything hangs", seconds(1, 4), both(hangs, drained)),
		newFault("removed while everything hangs", seconds(1, 4), mendedFirst(hangs, removed)),
		newFault("drained while some calls fail", seconds(1, 4), both(fails, drained)),
		newFault("removed while some calls fail", seconds(1, 4), mendedFirst(fails, removed)),
		newFault("SIGKILL while everything hangs", seconds(1, 4), both(hangs, killed)),
		newFault("sessions limited to 4 as it is killed", seconds(2, 5), both(ruled(faulthsm.Sessions{Max: 4}), killed)),
		newFault("objects limited to 2 as it is killed", seconds(1, 4), both(ruled(faulthsm.Objects{Max: 2}), killed)),
		newFault("token away as it is killed", seconds(1, 4), both(ruled(faulthsm.Token{Absent: true}), killed)),
		newFault("its library leaks", seconds(2, 5), leaking),
	}
}

// leaking lets each call lose memory, until the worker is so large that it must be replaced.
func leaking(_ context.Context, c *cluster, t *token) (func(context.Context) error, error) {
	return func(ctx context.Context) error {
		if err := t.Module.Write(); err != nil {
			return err
		}
		for _, g := range c.gateways {
			if err := g.replaced(ctx, t); err != nil {
				return err
			}
		}
		return nil
	}, t.Module.Write(rule("crypto", faulthsm.Leak(4*megabyte)))
}

// replacedWithin is how soon a worker that has grown too large must be replaced; its memory is looked at once a second.
const replacedWithin = 10 * time.Second

// replaced waits until the member's worker is no larger than it may be. One that has leaked and is smaller is killed, since what it leaked is
// not the gateway's doing.
func (g *gateway) replaced(ctx context.Context, t *token) error {
	for began := time.Now(); ; {
		m, err := g.Member(ctx, t.Token)
		if err != nil || m == nil || m.PID <= 1 {
			return err
		}
		_, _, rss, err := processOf(m.PID)
		switch {
		case err != nil: // it is gone
			return nil
		case rss < maxMemory && rss > maxMemory/4:
			return send(m.PID, syscall.SIGKILL)
		case rss < maxMemory:
			return nil
		case time.Since(began) > replacedWithin:
			return &breach{leaksEnd, fmt.Sprintf("the worker of %s on %s has %d MiB after %s, of at most %d", t.Record.Name, g.name, rss/megabyte, replacedWithin, maxMemory/megabyte)}
		}
		if !rig.Sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}
