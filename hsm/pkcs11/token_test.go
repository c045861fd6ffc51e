//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	c := softHSM(t)
	broken := filepath.Join(t.TempDir(), "broken.so")
	if err := os.WriteFile(broken, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(c Config, words ...string) {
		t.Helper()
		tok, err := Open(context.Background(), c)
		if err == nil {
			_ = tok.Close()
			t.Fatalf("opened %+v", c)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
	}
	f(Config{TokenLabel: "x"}, "no PKCS#11 module configured")
	f(Config{Module: c.Module}, "name it by label or serial")
	f(Config{Module: "/nowhere/lib.so", TokenLabel: "x"}, "/nowhere/lib.so", "install")
	f(Config{Module: broken, TokenLabel: "x"}, broken, "cannot be loaded")
	f(Config{Module: c.Module, TokenLabel: "no such"}, `"no such"`, c.TokenLabel, "CKR_TOKEN_NOT_PRESENT")
	f(Config{Module: c.Module, TokenSerial: "00"}, "serial number 00")
	// Another make of token under the right name is not tried with the PIN.
	f(Config{Module: c.Module, TokenLabel: c.TokenLabel, TokenModel: "SoftHSM v3", PIN: pin("0000")}, c.TokenLabel, "SoftHSM v2", "CKR_TOKEN_NOT_PRESENT")
	f(Config{Module: c.Module, TokenLabel: c.TokenLabel, TokenManufacturer: "Somebody", PIN: pin("0000")}, "SoftHSM project", "CKR_TOKEN_NOT_PRESENT")
	f(Config{Module: c.Module, TokenLabel: c.TokenLabel}, "PIN")
}

func TestFindModuleSaysWhatToInstall(t *testing.T) {
	if _, err := FindModule("vendor"); err == nil || !strings.Contains(err.Error(), "softhsm") {
		t.Errorf("unknown kind: %v", err)
	}
	for _, k := range []string{"softhsm", "nss"} {
		if p, err := FindModule(k); err == nil {
			if _, err := os.Stat(p); err != nil {
				t.Error(err)
			}
		} else if !strings.Contains(err.Error(), "apt-get install") {
			t.Error(err)
		}
	}
}

func TestTokenIsFoundBySerialToo(t *testing.T) {
	c := softHSM(t)
	i := openToken(t, c).Info()
	if i.Label != c.TokenLabel || i.Serial == "" || i.Vendor != hsm.VendorSoftHSM || i.MaxSessions != 0 {
		t.Errorf("Info = %+v", i)
	}
	if i.Has(hsm.AESKeyWrapKWP) || !i.Has(hsm.AESKeyWrap) || !i.Has(hsm.EDDSA) {
		t.Errorf("mechanisms = %v", i.Mechanisms)
	}
	c.TokenLabel, c.TokenSerial, c.TokenManufacturer, c.TokenModel = "", i.Serial, i.Manufacturer, i.Model
	if got := openToken(t, c).Info(); got.Label != i.Label {
		t.Errorf("by serial number another token was opened: %+v", got)
	}
}

func TestWrongPINIsTriedOnceAndLatches(t *testing.T) {
	c := softHSM(t)
	wrong := c
	wrong.PIN = pin("0000")
	_, err := Open(context.Background(), wrong)
	if hsm.FaultOf(err) != hsm.Locked || hsm.CodeOf(err) != hsm.PinIncorrect {
		t.Fatalf("wrong PIN: %v", err)
	}
	if strings.Contains(err.Error(), "0000") {
		t.Error("the PIN is in the error")
	}
	// The token counts now: even the right PIN is not tried until somebody has looked.
	_, err = Open(context.Background(), c)
	if hsm.FaultOf(err) != hsm.Locked || hsm.CodeOf(err) != hsm.PinLocked {
		t.Fatalf("after a wrong PIN: %v", err)
	}
	lib, err := openLibrary(c.Module, "")
	if err != nil {
		t.Fatal(err)
	}
	slot, _, err := lib.slotOf(&c)
	if err != nil {
		t.Fatal(err)
	}
	h, err := lib.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := lib.ctx.Login(h, pkcs11.CKU_USER, "1234"); err != nil {
		t.Fatal(err)
	}
	if err := lib.ctx.CloseSession(h); err != nil {
		t.Fatal(err)
	}
	openToken(t, c)
}

func TestSecondOpenInTheProcessSharesTheLogin(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		c := Config{Module: tok.lib.path, TokenLabel: tok.info.Label, PIN: pin("not looked at")}
		other, err := Open(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		s := keeper(t, tok)
		k := newKEK(t, s)
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		// The first token's login outlives the second's end.
		do(t, s, &hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: k, In: make([]byte, 16)})
		if _, err := other.OpenSession(context.Background()); !errors.Is(err, hsm.ErrClosed) {
			t.Errorf("OpenSession after Close: %v", err)
		}
	})
}

func TestLostSessionIsReported(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		wrap := func(k hsm.Handle) *hsm.Op {
			return &hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: k, In: make([]byte, 16)}
		}
		keep := keeper(t, tok)
		k := newKEK(t, keep)
		t.Run("closed behind our back", func(t *testing.T) {
			s := keeper(t, tok)
			if err := tok.lib.ctx.CloseSession(pkcs11.SessionHandle(s.h)); err != nil {
				t.Fatal(err)
			}
			op := wrap(k)
			if err := s.Do(op); hsm.FaultOf(err) != hsm.Stale || err != op.Err {
				t.Errorf("Do = %v, op.Err = %v", err, op.Err)
			}
			if err := s.Do(op); !errors.Is(err, hsm.ErrClosed) {
				t.Errorf("Do on a lost session = %v", err)
			}
		})
		t.Run("operation left active", func(t *testing.T) {
			s := keeper(t, tok)
			h := generate(t, s, hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign})
			m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}
			if err := tok.lib.ctx.SignInit(pkcs11.SessionHandle(s.h), m, pkcs11.ObjectHandle(h)); err != nil {
				t.Fatal(err)
			}
			op := &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: h, In: []byte("x")}
			if err := s.Do(op); hsm.CodeOf(err) != hsm.OperationActive {
				t.Errorf("Do = %v", err)
			}
			if _, err := tok.lib.ctx.GetSessionInfo(pkcs11.SessionHandle(s.h)); err == nil {
				t.Error("the session with the pending operation is still open")
			}
		})
		t.Run("handle of nothing", func(t *testing.T) {
			s := keeper(t, tok)
			h := newKEK(t, s)
			if err := s.Destroy(h); err != nil {
				t.Fatal(err)
			}
			op := wrap(h)
			if err := s.Do(op); err != nil {
				t.Errorf("a stale handle cost the session: %v", err)
			}
			if hsm.FaultOf(op.Err) != hsm.Stale {
				t.Errorf("stale handle: %v", op.Err)
			}
		})
	})
}

func TestLostLoginIsReported(t *testing.T) {
	c := softHSM(t)
	tok := openToken(t, c)
	s := keeper(t, tok)
	k := newKEK(t, s)
	if err := tok.lib.ctx.Logout(tok.login); err != nil {
		t.Fatal(err)
	}
	op := &hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: k, In: make([]byte, 24)}
	if err := s.Do(op); hsm.CodeOf(err) != hsm.UserNotLoggedIn {
		t.Errorf("Do = %v, op.Err = %v", err, op.Err)
	}
	if _, err := tok.OpenSession(context.Background()); hsm.CodeOf(err) != hsm.UserNotLoggedIn || hsm.FaultOf(err) != hsm.Stale {
		t.Errorf("OpenSession = %v", err)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	newKEK(t, keeper(t, openToken(t, c)))
}

func TestCloseForgetsItsSessions(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		for range 3 {
			keeper(t, tok)
		}
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
		tok.mu.Lock()
		defer tok.mu.Unlock()
		if n := len(tok.sessions); n != 0 {
			t.Errorf("%d sessions left after Close", n)
		}
	})
}

func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dropped := make(chan int, 1)
	release := make(chan struct{})
	_, err := within(ctx, func() (int, error) { <-release; return 7, nil }, func(v int) { dropped <- v })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("within = %v", err)
	}
	close(release)
	if v := <-dropped; v != 7 {
		t.Errorf("dropped %d", v)
	}
}
