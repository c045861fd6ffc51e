//go:build linux && cgo

package reaction

import (
	"context"
	"errors"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// always is a rule that answers every call of some functions with a code.
func always(id string, c hsm.Code, on ...string) faulthsm.Rule {
	return faulthsm.Rule{ID: id, On: on, Do: []faulthsm.Effect{faulthsm.Return(c)}}
}

// once is a rule that answers one call of a function with a code.
func once(id string, c hsm.Code, on string) faulthsm.Rule {
	return faulthsm.Rule{ID: id, On: []string{on}, Times: 1, Do: []faulthsm.Effect{faulthsm.Return(c)}}
}

// TestAnAmbiguousCodeIsTheDevicesWhenTheCanaryFails: GENERAL_ERROR to everything, as of a library that lost its device.
func TestAnAmbiguousCodeIsTheDevicesWhenTheCanaryFails(t *testing.T) {
	both(t, setup{sessions: 2}, func(r *rig) {
		r.prefer("mac")
		r.force(always("dead", hsm.GeneralError, "C_Sign", "C_Encrypt")) // random bytes can be had: of the canary too only its encryption fails
		if by, err := r.do("mac"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.until("the canary was asked and failed, and that was counted", func() bool { s := r.stat("a"); return !s.LastCanaryOK && s.Failures > 0 })
		r.dismiss()
		r.until("the breaker opens", func() bool {
			if _, err := r.do("mac"); !errors.Is(err, pool.ErrDevice) && !errors.Is(err, pool.ErrUnavailable) {
				r.Errorf("%v, want the device to be blamed", err)
			}
			return r.stat("a").State == pool.Ejected
		})
		// Half open, a canary with the same code is a failure too.
		probes := r.calls("C_GenerateRandom") + r.calls("C_Encrypt")
		r.until("another canary", func() bool { return r.calls("C_GenerateRandom")+r.calls("C_Encrypt") > probes })
		time.Sleep(50 * time.Millisecond)
		if s := r.stat("a"); s.State != pool.Ejected {
			r.Errorf("a canary that failed with an ambiguous code closed the breaker: %s", s.Breaker)
		}
		r.heal()
		r.until("a serves again", func() bool { return r.stat("a").State == pool.Active })
		if by, err := r.do("mac"); by != "a" || err != nil {
			r.Errorf("healed: answered by %q, %v", by, err)
		}
	})
}

// TestACanaryThatIsRefusedIsTheDevices, with whatever code: its data are ours and good, so nothing else is to blame.
func TestACanaryThatIsRefusedIsTheDevices(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("mac")
		r.force(always("refused", hsm.MechanismInvalid, "C_EncryptInit"), once("doubt", hsm.DeviceError, "C_Sign"))
		if by, err := r.do("mac"); by != "b" || err != nil { // which sends the canary
			r.Errorf("answered by %q, %v", by, err)
		}
		r.until("the breaker opens", func() bool { return r.stat("a").State == pool.Ejected })
	})
}

// TestACanaryThatIsThrottledIsNoFailure: a token that is busy is not ill.
func TestACanaryThatIsThrottledIsNoFailure(t *testing.T) {
	both(t, setup{sessions: 3, vendor: hsm.VendorCloudHSM, alone: true}, func(r *rig) {
		r.prefer("mac")
		r.force(always("throttled", hsm.FunctionFailed, "crypto"))
		asked := r.calls("C_GenerateRandom")
		r.until("more canaries than the failures that open a breaker", func() bool {
			if _, err := r.do("mac"); !errors.Is(err, pool.ErrOverloaded) {
				r.Fatalf("%v, want overloaded", err)
			}
			return r.calls("C_GenerateRandom") >= asked+6
		})
		if s := r.stat("a"); s.State != pool.Active || s.Permits != 1 {
			r.Errorf("a is %s and runs %d at once, want active and 1", s.State, s.Permits)
		}
	})
}

// TestSuspectCodesAskOneCanaryASecond: bad data in a storm cost no storm of canaries, and trip nothing.
func TestSuspectCodesAskOneCanaryASecond(t *testing.T) {
	both(t, setup{sessions: 2, alone: true}, func(r *rig) {
		r.prefer("decrypt")
		asked, begun := r.calls("C_GenerateRandom"), time.Now()
		for range 60 {
			if _, err := r.do("tampered"); hsm.FaultOf(err) != hsm.Caller { // SoftHSM says GENERAL_ERROR
				r.Fatalf("a forgery: %v (%s)", err, hsm.FaultOf(err))
			}
		}
		took := time.Since(begun)
		n := r.calls("C_GenerateRandom") - asked
		if n == 0 || n > 1+int64(took/time.Second)*2 { // the judge's, and perhaps the pool's own
			r.Errorf("%d canaries within %s", n, took)
		}
		if s := r.stat("a"); s.State != pool.Active || s.Failures != 0 {
			r.Errorf("forgeries counted against the member: %+v", s)
		}
	})
}

// TestAllDecryptFailuresAreOne: whatever the token's word for it, the caller's error is of one kind, so that nobody
// learns why a ciphertext does not open.
func TestAllDecryptFailuresAreOne(t *testing.T) {
	for _, r := range []row{
		{code: hsm.EncryptedDataInvalid}, {code: hsm.EncryptedDataLenRange}, {code: hsm.AEADDecryptFailed}, {code: hsm.DataLenRange},
		{code: hsm.GeneralError}, {code: hsm.FunctionFailed, vendor: hsm.VendorNShield}, {code: hsm.ArgumentsBad}, {code: hsm.VendorDefined | 7},
	} {
		t.Run(r.name(), func(t *testing.T) {
			t.Parallel()
			both(t, setup{vendor: r.vendor, alone: true}, func(rig *rig) {
				rig.prefer("decrypt")
				rig.force(always("bad", r.code, "C_Decrypt"))
				opened := rig.calls("C_OpenSession")
				for range 8 {
					_, err := rig.do("decrypt")
					if hsm.FaultOf(err) != hsm.Caller || errors.Is(err, pool.ErrDevice) || errors.Is(err, pool.ErrKey) {
						rig.Errorf("%v (%s)", err, hsm.FaultOf(err))
					}
				}
				if s := rig.stat("a"); s.Failures != 0 || s.State != pool.Active || rig.calls("C_OpenSession") != opened {
					rig.Errorf("it cost the member something: %+v", s)
				}
			})
		})
	}
}

// TestAWrongFirstSignatureIsNotReleased: what is loaded in a new epoch is trusted when its first signature has been verified.
func TestAWrongFirstSignatureIsNotReleased(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("sign")
		loads, epoch := r.stat("a").Loads, r.stat("a").Epoch
		r.force(once("gone", hsm.CryptokiNotInitialized, "C_Sign"))
		if by, err := r.do("sign"); by != "b" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		r.until("another epoch", func() bool { s := r.stat("a"); return s.Epoch == epoch+1 && s.State == pool.Active && s.Sessions > 0 })
		if s := r.stat("a"); s.Handles != 0 || s.Loads != loads {
			r.Errorf("%d handles outlived their epoch", s.Handles)
		}
		r.until("b is asked last", r.b.asleep)
		r.force(faulthsm.Rule{ID: "wrong", On: []string{"C_Sign"}, Times: 1, Do: []faulthsm.Effect{faulthsm.Flip()}})
		if by, err := r.do("sign"); by != "b" || err != nil { // and do verifies it
			r.Errorf("the first signature of the epoch, a wrong one: answered by %q, %v", by, err)
		}
		if n := r.fired("wrong"); n != 1 || r.log.count("the first signature of a loaded key does not verify") != 1 {
			r.Errorf("the rule acted on %d calls, and the log says:\n%s", n, r.log)
		}
	})
}

// TestAPendingOperationIsNeverFinished: a token that keeps an operation pending after its failure would finish it, with the
// key of the first, at the next C_Sign.
func TestAPendingOperationIsNeverFinished(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("mac")
		for _, key := range []string{"sign", "other"} {
			if _, err := r.do(key); err != nil {
				r.Fatal(err)
			}
		}
		for n, next := range []string{"other", "mac"} {
			r.until("b is asked last", r.b.asleep)
			id := []string{"first", "second"}[n]
			r.force(faulthsm.Rule{ID: id, On: []string{"C_Sign"}, Times: 1, Do: []faulthsm.Effect{faulthsm.ReturnPending(hsm.DataInvalid)}})
			if _, err := r.do("sign"); hsm.FaultOf(err) != hsm.Caller {
				r.Fatalf("%v, want the caller's error", err)
			}
			inits, signs, opened := r.calls("C_SignInit"), r.calls("C_Sign"), r.calls("C_OpenSession")
			if by, err := r.do(next); by != "a" || err != nil {
				r.Errorf("after a pending operation: answered by %q, %v", by, err)
			}
			inits, signs, opened = r.calls("C_SignInit")-inits, r.calls("C_Sign")-signs, r.calls("C_OpenSession")-opened
			if inits != 2 || signs != 1 || opened != 1 {
				r.Errorf("%d calls of C_SignInit, %d of C_Sign, %d sessions opened; want 2 (the first refused), 1 and 1", inits, signs, opened)
			}
		}
	})
}

// TestABufferThatIsTooSmallIsTriedOnceMore on the same session; and when it still is, the session is given up with what is pending.
func TestABufferThatIsTooSmallIsTriedOnceMore(t *testing.T) {
	both(t, setup{}, func(r *rig) {
		r.prefer("mac")
		inits, signs, opened := r.calls("C_SignInit"), r.calls("C_Sign"), r.calls("C_OpenSession")
		r.force(once("small", hsm.BufferTooSmall, "C_Sign"))
		if by, err := r.do("mac"); by != "a" || err != nil {
			r.Errorf("answered by %q, %v", by, err)
		}
		if i, s, o := r.calls("C_SignInit")-inits, r.calls("C_Sign")-signs, r.calls("C_OpenSession")-opened; i != 1 || s != 2 || o != 0 {
			r.Errorf("%d C_SignInit, %d C_Sign, %d sessions opened; want 1, 2 and none", i, s, o)
		}
		r.force(faulthsm.Rule{ID: "twice", On: []string{"C_Sign"}, Times: 2, Do: []faulthsm.Effect{faulthsm.Return(hsm.BufferTooSmall)}})
		if by, err := r.do("mac"); by != "a" || err != nil {
			r.Errorf("too small twice: answered by %q, %v", by, err)
		}
		if o := r.calls("C_OpenSession") - opened; o != 1 {
			r.Errorf("%d sessions opened, want 1", o)
		}
	})
}

// patient is a caller's time in rows where a member hangs.
func patient(r *rig) context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), 8*time.Second)
	r.Cleanup(cancel)
	return ctx
}
