package hsmtest

import (
	"bytes"
	"slices"

	"keyway/hsm"
)

func wrapWith(m hsm.MechanismType) func(kek, in []byte) []byte {
	if m == hsm.AESKeyWrap {
		return WrapKW
	}
	return WrapKWP
}

func unwrapWith(m hsm.MechanismType) func(kek, blob []byte) ([]byte, error) {
	if m == hsm.AESKeyWrap {
		return UnwrapKW
	}
	return UnwrapKWP
}

func testWrapBytes(t *tester) {
	s := t.session()
	for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} {
		mech := hsm.Mechanism{Type: m}
		if t.refusedWithout(s, hsm.OpWrap, mech) {
			t.refusedWithout(s, hsm.OpUnwrap, mech)
			continue
		}
		for _, bits := range []int{128, 192, 256} {
			h, raw := t.aes(s, bits, mayAll)
			for _, n := range append(slices.Clone(lengths), 24, 40, 248, 264, 2400) {
				if n > 4096 {
					continue // nobody's key is as long
				}
				clear := random(n)
				wrap := hsm.Op{Kind: hsm.OpWrap, Mech: mech, Key: h, In: clear}
				if n == 0 || m == hsm.AESKeyWrap && (n < 16 || n%8 != 0) {
					if err := t.fail(s, wrap); hsm.FaultOf(err) != hsm.Caller {
						t.Errorf("%s of %d bytes: %v", m, n, err)
					}
					continue
				}
				want := wrapWith(m)(raw, clear)
				if got := t.run(s, wrap); !bytes.Equal(got, want) {
					t.Fatalf("%s of %d bytes is %x, want %x", m, n, got, want)
				}
				if got := t.run(s, hsm.Op{Kind: hsm.OpUnwrap, Mech: mech, Key: h, In: want}); !bytes.Equal(got, clear) {
					t.Fatalf("%s: %d bytes came back as %d others", m, n, len(got))
				}
			}
		}
		// A KEK needs to do nothing else.
		kek, raw := t.aes(s, 256, mayWrap)
		clear := random(32)
		if got := t.run(s, hsm.Op{Kind: hsm.OpWrap, Mech: mech, Key: kek, In: clear}); !bytes.Equal(got, wrapWith(m)(raw, clear)) {
			t.Errorf("%s with a key that may only wrap: %x", m, got)
		}
		if got := t.run(s, hsm.Op{Kind: hsm.OpUnwrap, Mech: mech, Key: kek, In: wrapWith(m)(raw, clear)}); !bytes.Equal(got, clear) {
			t.Errorf("%s with a key that may only unwrap: %x", m, got)
		}
	}
}

func testRandom(t *tester) {
	s := t.session()
	seen := map[string]bool{}
	for _, n := range []int{1, 7, 16, 32, 1000, 70_000, 1 << 20} {
		for range 2 {
			got := t.run(s, hsm.Op{Kind: hsm.OpRandom, Len: n})
			if len(got) != n {
				t.Fatalf("%d bytes, want %d", len(got), n)
			}
			if n < 16 {
				continue
			}
			if seen[string(got[:16])] || seen[string(got[n-16:])] && n > 16 || bytes.Count(got, []byte{0}) > n/8 {
				t.Errorf("%d bytes that are not random: %x…", n, got[:16])
			}
			seen[string(got[:16])], seen[string(got[n-16:])] = true, true
		}
	}
	for _, n := range []int{0, -1, -1 << 40, 1<<20 + 1, 1 << 40} {
		if err := t.fail(s, hsm.Op{Kind: hsm.OpRandom, Len: n}); hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("%d random bytes: %v", n, err)
		}
	}
}
