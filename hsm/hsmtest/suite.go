// Package hsmtest proves tokens and disturbs them: it holds a conformance suite that every driver of package hsm
// passes, and a token whose calls fail on command.
package hsmtest

import (
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"keyway/hsm"
)

// Open opens a token, the same one each time it is called. What was opened before has been closed by then.
type Open = func(t testing.TB) hsm.Token

// TestToken proves that a token keeps what package hsm's comments promise. Results are judged without the token, by
// Go's cryptography and by the references of this package. A mechanism that the token does not list must be refused;
// nothing is skipped. Token objects that the suite makes are gone afterwards.
func TestToken(t *testing.T, open Open) {
	t.Helper()
	t.Run("open", func(t *testing.T) {
		tok := open(t)
		defer closing(t, tok)
		for _, c := range []struct {
			name string
			f    func(*tester)
		}{
			{"Info", testInfo}, {"OpenSession", testOpenSession}, {"ManySessions", testManySessions}, {"SessionClose", testSessionClose},
			{"SideBySide", testSideBySide},
			{"RSA", testRSA}, {"ECDSA", testECDSA}, {"EdDSA", testEdDSA}, {"MAC", testMAC}, {"GCM", testGCM}, {"OAEP", testOAEP},
			{"WrapBytes", testWrapBytes}, {"Random", testRandom},
			{"Buffers", testBuffers}, {"Failed", testFailedOperations}, {"NotListed", testNotListed}, {"Nonsense", testNonsense}, {"BadHandles", testBadHandles},
			{"Permissions", testPermissions}, {"WrongKeys", testWrongKeys},
			{"Generate", testGenerate}, {"Find", testFind}, {"Import", testImport}, {"ImportRefuses", testImportRefuses}, {"Destroy", testDestroy},
			{"WrapKey", testWrapKey}, {"UnwrapKey", testUnwrapKey}, {"Exchange", testExchange}, {"StaysInside", testStaysInside},
		} {
			t.Run(c.name, func(t *testing.T) { c.f(&tester{t, tok, tok.Info()}) })
		}
	})
	t.Run("Close", func(t *testing.T) { testClose(t, open) })
	t.Run("CloseWhileBusy", func(t *testing.T) { testCloseWhileBusy(t, open) })
	t.Run("TokenObjects", func(t *testing.T) { testTokenObjects(t, open) })
	t.Run("Process", func(t *testing.T) { testProcess(t, open) })
}

func closing(t testing.TB, tok hsm.Token) {
	t.Helper()
	if err := tok.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// tester is one test on one token.
type tester struct {
	*testing.T
	tok  hsm.Token
	info hsm.Info
}

// session opens a session that ends with the test.
func (t *tester) session() hsm.Keeper {
	t.Helper()
	s, err := t.tok.OpenSession(t.Context())
	if err != nil {
		t.Fatalf("OpenSession: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing a session: %v", err)
		}
	})
	k, ok := s.(hsm.Keeper)
	if !ok {
		t.Fatal("the session is no Keeper")
	}
	return k
}

// run runs an operation that must succeed, and returns its result.
func (t *tester) run(s hsm.Session, op hsm.Op) []byte {
	t.Helper()
	if err := errors.Join(s.Do(&op), op.Err); err != nil {
		t.Fatalf("%s with %s %s of %d bytes: %v", op.Kind, op.Mech.Type, op.Mech.Hash, len(op.In), err)
	}
	return op.Out
}

// fail runs an operation that must fail without harm to the session, and returns why.
func (t *tester) fail(s hsm.Session, op hsm.Op) error {
	t.Helper()
	if err := s.Do(&op); err != nil {
		t.Fatalf("%s with %s of %d bytes lost the session: %v", op.Kind, op.Mech.Type, len(op.In), err)
	}
	if len(op.Out) != 0 {
		t.Errorf("%s with %s failed and has a result of %d bytes", op.Kind, op.Mech.Type, len(op.Out))
	}
	if op.Err == nil {
		t.Errorf("%s with %s of %d bytes was accepted", op.Kind, op.Mech.Type, len(op.In))
	}
	return op.Err
}

// ambiguous reports whether err is a token's code that means nothing, and is judged so.
func ambiguous(err error) bool {
	var e *hsm.Error
	return hsm.FaultOf(err) == hsm.Suspect && errors.As(err, &e) && slices.Contains([]hsm.Code{hsm.GeneralError, hsm.FunctionFailed, hsm.ArgumentsBad}, e.Code)
}

// callers fails unless err is the caller's fault, as far as the token can tell.
func (t *tester) callers(err error, what string) {
	t.Helper()
	if f := hsm.FaultOf(err); f != hsm.Caller && !ambiguous(err) {
		t.Errorf("%s: a fault of kind %s, want the caller's: %v", what, f, err)
	}
}

// mismatch fails unless err says that key and operation do not go together, as far as the token can tell.
func (t *tester) mismatch(err error, what string) {
	t.Helper()
	if f := hsm.FaultOf(err); f != hsm.Object && f != hsm.Caller && !ambiguous(err) {
		t.Errorf("%s: a fault of kind %s, want the object's or the caller's: %v", what, f, err)
	}
}

// stale fails unless err says that a handle means nothing.
func (t *tester) stale(err error, what string) {
	t.Helper()
	if hsm.FaultOf(err) != hsm.Stale {
		t.Errorf("%s: a fault of kind %s, want stale: %v", what, hsm.FaultOf(err), err)
	}
}

func (t *tester) generate(s hsm.Keeper, spec hsm.Spec) hsm.Handle {
	t.Helper()
	h, err := s.Generate(spec)
	if err != nil || h == 0 {
		t.Fatalf("Generate(%+v) = %d, %v", spec, h, err)
	}
	return h
}

func (t *tester) load(s hsm.Keeper, spec hsm.Spec, material []byte) hsm.Handle {
	t.Helper()
	h, err := s.Import(spec, material)
	if err != nil || h == 0 {
		t.Fatalf("Import(%+v) = %d, %v", spec, h, err)
	}
	return h
}

// aes loads an AES key and returns it with its bytes.
func (t *tester) aes(s hsm.Keeper, bits int, may hsm.Permission) (hsm.Handle, []byte) {
	t.Helper()
	raw := random(bits / 8)
	return t.load(s, hsm.Spec{Type: hsm.KeyAES, Bits: bits, May: may}, raw), raw
}

// mayAll is what a working AES key may do, mayWrap what a KEK may.
const (
	mayAll  = hsm.MayEncrypt | hsm.MayDecrypt | hsm.MayWrap | hsm.MayUnwrap
	mayWrap = hsm.MayWrap | hsm.MayUnwrap
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand documents it)
	return b
}

// newID returns a CKA_ID that nobody else has.
func newID() []byte { return random(16) }

// lengths are those at which block ciphers, MACs and buffers change their ways.
var lengths = []int{0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 127, 128, 255, 256, 257, 1000, 4096, 70_000}
