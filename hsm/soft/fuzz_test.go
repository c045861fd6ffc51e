package soft

import (
	"bytes"
	"testing"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// FuzzUnwrap opens any blob as the suite's own implementation does, which was written from the RFCs apart from this one.
func FuzzUnwrap(f *testing.F) {
	kek := []byte("0123456789abcdef0123456789abcdef")
	for _, n := range []int{1, 7, 8, 9, 16, 24, 31, 100} {
		b := bytes.Repeat([]byte{byte(n)}, n)
		f.Add(b, uint8(0))
		f.Add(hsmtest.WrapKWP(kek, b), uint8(1))
		if n >= 16 && n%8 == 0 {
			f.Add(hsmtest.WrapKW(kek, b), uint8(2))
		}
	}
	s, err := New("fuzz").OpenSession(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	h, err := s.(hsm.Keeper).Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap}, kek)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, how uint8) {
		if len(b) > 4096 {
			return // nobody's key is as long, and the RFC's own form is slow
		}
		m, wrap, unwrap := hsm.AESKeyWrap, hsmtest.WrapKW, hsmtest.UnwrapKW
		if how%2 == 1 {
			m, wrap, unwrap = hsm.AESKeyWrapKWP, hsmtest.WrapKWP, hsmtest.UnwrapKWP
		}
		op := hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: m}, Key: h, In: b}
		if err := s.Do(&op); err != nil {
			t.Fatal(err)
		}
		want, err := unwrap(kek, b)
		if (op.Err == nil) != (err == nil) || !bytes.Equal(op.Out, want) || op.Err != nil && hsm.FaultOf(op.Err) != hsm.Caller {
			t.Fatalf("%s opens %x to %x, %v; want %x, %v", m, b, op.Out, op.Err, want, err)
		}
		op = hsm.Op{Kind: hsm.OpWrap, Mech: op.Mech, Key: h, In: b}
		if err := s.Do(&op); err != nil {
			t.Fatal(err)
		}
		if op.Err == nil && !bytes.Equal(op.Out, wrap(kek, b)) {
			t.Fatalf("%s wraps %x to %x", m, b, op.Out)
		}
	})
}
