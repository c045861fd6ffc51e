package soft

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyway/hsm"
)

// newToken makes a token with one AES key as a token object, and returns its file.
func newToken(t *testing.T, material []byte) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	if err := Init(dir, "tok", hsm.NewPIN([]byte("pin-of-the-token"))); err != nil {
		t.Fatal(err)
	}
	k, err := Open(dir, "tok", hsm.NewPIN([]byte("pin-of-the-token")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.(hsm.Keeper).Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: []byte("key"), Token: true}, material); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, "tok.token")
}

func TestTheFileKeepsItsSecrets(t *testing.T) {
	material := []byte("0123456789abcdefghijklmnopqrstuv")
	dir, file := newToken(t, material)
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v", file, st.Mode(), err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{material, material[:16], []byte("pin-of-the-token")} {
		if bytes.Contains(b, secret) {
			t.Errorf("%s is in the file", secret)
		}
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("beside the file there are %v, %v", all, err)
	}
	_, err = Open(dir, "tok", hsm.NewPIN([]byte("another-pin")))
	var e *hsm.Error
	if hsm.FaultOf(err) != hsm.Locked || !errors.As(err, &e) || e.Code != hsm.PinIncorrect || e.Function != hsm.FnLogin {
		t.Errorf("a wrong PIN: %v", err)
	}
}

// A damaged file is never opened as something else, nor written over.
func TestADamagedFileIsRefused(t *testing.T) {
	dir, file := newToken(t, make([]byte, 32))
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*sealed)) []byte {
		var s sealed
		if err := json.Unmarshal(good, &s); err != nil {
			t.Fatal(err)
		}
		f(&s)
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for what, bad := range map[string][]byte{
		"empty":           nil,
		"cut":             good[:len(good)/2],
		"no JSON":         []byte("x"),
		"sealed is short": change(func(s *sealed) { s.Sealed = s.Sealed[:5] }),
		"a changed byte":  change(func(s *sealed) { s.Sealed[len(s.Sealed)/2] ^= 1 }),
		"another label":   change(func(s *sealed) { s.Label = "other" }),
		"another salt":    change(func(s *sealed) { s.Salt[0] ^= 1 }),
		"no iterations":   change(func(s *sealed) { s.Iterations = 0 }),
		"too many":        change(func(s *sealed) { s.Iterations = 1 << 40 }),
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, "tok", hsm.NewPIN([]byte("pin-of-the-token")))
		if f := hsm.FaultOf(err); f != hsm.Device && f != hsm.Locked {
			t.Errorf("%s: %v (%s)", what, err, f)
		}
		if now, _ := os.ReadFile(file); !bytes.Equal(now, bad) {
			t.Errorf("%s: the file was written over", what)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "tok", hsm.NewPIN([]byte("pin-of-the-token"))); err != nil {
		t.Errorf("the file as it was: %v", err)
	}
}

func TestInitSaysWhatIsWrong(t *testing.T) {
	dir, _ := newToken(t, make([]byte, 32))
	f := func(dir, label, pin, want string) {
		t.Helper()
		if err := Init(dir, label, hsm.NewPIN([]byte(pin))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Init(%q, %q): %v, want %q", dir, label, err, want)
		}
	}
	f(dir, "tok", "1234", "exists already")
	f(dir, "", "1234", "plain name")
	f(dir, "../tok", "1234", "plain name")
	f(dir, "a/b", "1234", "plain name")
	f(dir, "b", "123", "at least 4")
	f(filepath.Join(dir, "none"), "b", "1234", "no such file")
	if _, err := Open(dir, "b", hsm.PIN{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a token that was never made: %v", err)
	}
}

// A key that is wiped while somebody is about to use it gives no answer, least of all one made with zeros.
func TestAWipedKeyIsNotUsed(t *testing.T) {
	s, err := New("t").OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.(hsm.Keeper).Import(hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign, Extractable: true}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.(*session).object(h, hsm.FnSign)
	if err != nil {
		t.Fatal(err)
	}
	o.wipe()
	op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}}
	if err := o.do(&op); hsm.FaultOf(err) != hsm.Stale || len(op.Out) != 0 {
		t.Errorf("%x, %v", op.Out, err)
	}
	if b, err := o.material(); hsm.FaultOf(err) != hsm.Stale {
		t.Errorf("%x, %v", b, err)
	}
}
