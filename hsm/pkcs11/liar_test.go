//go:build cgo

package pkcs11

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keyway/hsm"
)

// The handles by which testdata/liar.c chooses its lies.
const (
	honest hsm.Handle = iota + 1
	oneMore
	halfOfAll
	all
	nothing0
	neverEnough
	tooShort
)

// liar opens the token of a library that lies about lengths.
func liar(t *testing.T) *Token {
	t.Helper()
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	lib := filepath.Join(t.TempDir(), "liar.so")
	if out, err := exec.CommandContext(t.Context(), cc, "-shared", "-fPIC", "-w", "-o", lib, filepath.Join("testdata", "liar.c")).CombinedOutput(); err != nil {
		t.Fatalf("this package needs a C compiler, and %s fails: %v\n%s", cc, err, out)
	}
	tok, err := Open(t.Context(), Config{Module: lib, TokenLabel: "liar"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

// A library that claims to have written more than it was given, or an impossible number, is a device that fails; its
// claim is never believed.
func TestALibraryThatLiesIsNotBelieved(t *testing.T) {
	tok := liar(t)
	ops := map[string]hsm.Op{
		"sign":        {Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("x")},
		"encrypt":     {Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, In: make([]byte, 100)},
		"decrypt":     {Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, In: make([]byte, 29)},
		"OAEP":        {Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hsm.SHA256}, In: make([]byte, 256)},
		"wrap":        {Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 16)},
		"unwrap":      {Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 24)},
		"unwrap long": {Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 2400)},
	}
	for name, op := range ops {
		for how, fault := range map[hsm.Handle]hsm.Fault{oneMore: hsm.Device, halfOfAll: hsm.Device, all: hsm.Device, neverEnough: hsm.Stale} {
			for _, room := range []int{0, 10, 5000} {
				s := keeper(t, tok)
				memory := bytes.Repeat([]byte{0x55}, room+50)
				op.Key, op.Out = how, memory[:0:room]
				lost := s.Do(&op)
				if op.Err == nil || len(op.Out) != 0 || hsm.FaultOf(op.Err) != fault || lost != op.Err {
					t.Errorf("%s, lie %d, room for %d: %d bytes, %v (%s), session lost: %v", name, how, room, len(op.Out), op.Err, hsm.FaultOf(op.Err), lost)
				}
				if !bytes.Equal(memory[room:], bytes.Repeat([]byte{0x55}, 50)) {
					t.Errorf("%s, lie %d: memory beyond Out was written", name, how)
				}
			}
		}
		s := keeper(t, tok)
		op.Key, op.Out = honest, nil
		do(t, s, &op)
	}
	// MACs and ciphertexts that are too short are as wrong as those that are too long, and the session may be good.
	for _, name := range []string{"sign", "encrypt"} {
		for _, how := range []hsm.Handle{nothing0, tooShort} {
			s, op := keeper(t, tok), ops[name]
			op.Key = how
			if err := s.Do(&op); err != nil || hsm.FaultOf(op.Err) != hsm.Suspect || len(op.Out) != 0 {
				t.Errorf("%s, too short: %d bytes, %v, %v", name, len(op.Out), op.Err, err)
			}
		}
	}
}

func TestALibraryThatLiesAboutObjects(t *testing.T) {
	tok := liar(t)
	kw := hsm.Mechanism{Type: hsm.AESKeyWrap}
	for _, how := range []hsm.Handle{oneMore, halfOfAll, all} {
		s := keeper(t, tok)
		if h, err := s.Find(hsm.ClassSecret, []byte{byte(how)}); h != 0 || hsm.FaultOf(err) != hsm.Device {
			t.Errorf("lie %d: Find = %#x, %v", how, h, err)
		}
		s = keeper(t, tok)
		if b, err := s.WrapKey(how, kw, honest); b != nil || hsm.FaultOf(err) != hsm.Device {
			t.Errorf("lie %d: WrapKey = %x, %v", how, b, err)
		}
		s = keeper(t, tok)
		if b, err := s.Public(how); b != nil || hsm.FaultOf(err) != hsm.Device {
			t.Errorf("lie %d: Public = %x, %v", how, b, err)
		}
	}
	s := keeper(t, tok)
	if h, err := s.Find(hsm.ClassSecret, []byte{byte(nothing0)}); h != 0 || err != hsm.ErrNotFound {
		t.Errorf("Find of nothing = %#x, %v", h, err)
	}
	if b, err := s.Public(tooShort); b != nil || hsm.FaultOf(err) != hsm.Device { // a class of seven bytes
		t.Errorf("Public = %x, %v", b, err)
	}
}
