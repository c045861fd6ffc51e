//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

// After a wrong PIN the token is left alone until a person vouches for the next one; SoftHSM says so by a flag, as
// tokens do that lock.
func TestAVouchedPINIsTriedAfterAWrongOne(t *testing.T) {
	c := softHSM(t)
	refused := func(p string, vouched bool, want hsm.Code) {
		t.Helper()
		d := c
		d.PIN, d.PINVouched = pin(p), vouched
		tok, err := Open(context.Background(), d)
		var code *hsm.Error
		if !errors.As(err, &code) || code.Code != want {
			t.Errorf("PIN %s, vouched %v: %v, want %s", p, vouched, err, want)
		}
		if err == nil {
			_ = tok.Close()
		}
	}
	refused("wrong", false, hsm.PinIncorrect)
	refused("1234", false, hsm.PinLocked)
	refused("wrong", true, hsm.PinIncorrect)
	refused("1234", false, hsm.PinLocked)
	c.PINVouched = true
	tok, err := Open(context.Background(), c)
	if err != nil {
		t.Fatalf("the right PIN, vouched for: %v", err)
	}
	if err := tok.Close(); err != nil {
		t.Error(err)
	}
	c.PINVouched = false
	openToken(t, c) // the count is reset
}

func TestNobodyCanVouchForTheLastTry(t *testing.T) {
	f := func(flags uint, vouched, allowed bool) {
		t.Helper()
		if why := forbids(flags, vouched); (why == "") != allowed {
			t.Errorf("flags %#x, vouched %v: %q", flags, vouched, why)
		}
	}
	f(0, false, true)
	f(pkcs11.CKF_USER_PIN_COUNT_LOW, false, false)
	f(pkcs11.CKF_USER_PIN_COUNT_LOW, true, true)
	f(pkcs11.CKF_USER_PIN_COUNT_LOW|pkcs11.CKF_USER_PIN_FINAL_TRY, true, false)
	f(pkcs11.CKF_USER_PIN_LOCKED, true, false)
	f(pkcs11.CKF_USER_PIN_TO_BE_CHANGED, true, false)
}
