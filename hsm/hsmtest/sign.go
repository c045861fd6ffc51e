package hsmtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"

	"keyway/hsm"
)

var rsaHashes = []hsm.Hash{hsm.SHA256, hsm.SHA384, hsm.SHA512}

// refusedWithout checks that what needs m is refused on a token that does not list it, and reports whether it does.
func (t *tester) refusedWithout(s hsm.Session, kind hsm.OpKind, m hsm.Mechanism) bool {
	t.Helper()
	if t.info.Has(m.Type) {
		return false
	}
	h, _ := t.aes(s.(hsm.Keeper), 256, mayAll|hsm.MaySign)
	if err := t.fail(s, hsm.Op{Kind: kind, Mech: m, Key: h, In: make([]byte, 32)}); !errors.Is(err, hsm.ErrUnsupported) {
		t.Errorf("%s, which the token does not list: %v", m.Type, err)
	}
	return true
}

func testRSA(t *tester) {
	s := t.session()
	for _, m := range []hsm.MechanismType{hsm.RSAPKCS, hsm.RSAPKCSPSS} {
		if t.refusedWithout(s, hsm.OpSign, hsm.Mechanism{Type: m, Hash: hsm.SHA256}) {
			continue
		}
		for _, name := range []string{"RSA-2048", "RSA-3072", "RSA-4096"} {
			x := t.specimen(name)
			h := t.load(s, x.spec, x.material)
			for _, hash := range rsaHashes {
				x.mech = hsm.Mechanism{Type: m, Hash: hash}
				if err := x.use(s, h); err != nil {
					t.Errorf("%s with %s %s: %v", name, m, hash, err)
				}
				if name != "RSA-2048" {
					continue
				}
				for _, n := range []int{0, 1, hash.Size() - 1, hash.Size() + 1, 117, 245, 256, 300, 70_000} {
					t.callers(t.fail(s, hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: make([]byte, n)}), "a digest of the wrong length")
				}
			}
			for _, hash := range []hsm.Hash{0, 77, hsm.SHA1} {
				in := make([]byte, cmp.Or(hash.Size(), 32))
				err := t.fail(s, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: m, Hash: hash}, Key: h, In: in})
				if hsm.FaultOf(err) != hsm.Caller {
					t.Errorf("%s with hash %d: %v", m, hash, err)
				}
			}
		}
	}
}

func testECDSA(t *tester) {
	s := t.session()
	m := hsm.Mechanism{Type: hsm.ECDSA}
	if t.refusedWithout(s, hsm.OpSign, m) {
		return
	}
	for _, bits := range []int{256, 384, 521} {
		x := t.specimen(fmt.Sprintf("EC-%d", bits))
		h := t.load(s, x.spec, x.material)
		order := (bits + 7) / 8
		for _, n := range []int{1, 20, 28, 31, 32, 48, 64, order} {
			if n > order {
				continue
			}
			in := random(n)
			if err := verify(x.public, m, in, t.run(s, hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: in})); err != nil {
				t.Errorf("P-%d of %d bytes: %v", bits, n, err)
			}
		}
		// A number that begins with a zero byte, as one in 256 does, is padded: every signature has the same length.
		for range 5000 {
			in := random(32)
			sig := t.run(s, hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: in})
			if len(sig) != 2*order {
				t.Fatalf("P-%d: a signature of %d bytes, want %d", bits, len(sig), 2*order)
			}
			if sig[0] == 0 || sig[order] == 0 || bits == 384 {
				if err := verify(x.public, m, in, sig); err != nil {
					t.Errorf("P-%d, a short number: %v", bits, err)
				}
				break
			}
		}
		t.callers(t.fail(s, hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h}), "an empty digest")
		// The caller is to truncate; a token that does it too must do it right.
		long := random(order + 8)
		op := hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: long}
		if err := s.Do(&op); err != nil {
			t.Fatalf("too long a digest lost the session: %v", err)
		} else if op.Err != nil {
			t.callers(op.Err, "too long a digest")
		} else if err := verify(x.public, m, long[:order], op.Out); err != nil && bits%8 == 0 {
			t.Errorf("P-%d: too long a digest: %v", bits, err)
		}
		t.callers(t.fail(s, hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: make([]byte, 70_000)}), "a message for a digest")
	}
}

func testEdDSA(t *tester) {
	s := t.session()
	m := hsm.Mechanism{Type: hsm.EDDSA}
	if t.refusedWithout(s, hsm.OpSign, m) {
		if _, err := s.Generate(hsm.Spec{Type: hsm.KeyEd25519, Bits: 256, May: hsm.MaySign}); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("generating a key that the token cannot use: %v", err)
		}
		return
	}
	x := t.specimen("Ed25519")
	h := t.load(s, x.spec, x.material)
	for _, n := range lengths {
		in := random(n)
		sig := t.run(s, hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: in})
		if err := verify(x.public, m, in, sig); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if again := t.run(s, hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: in}); !bytes.Equal(sig, again) {
			t.Errorf("%d bytes: two signatures differ, and Ed25519 has only one", n)
		}
	}
}

func testMAC(t *tester) {
	s := t.session()
	for _, x := range specimens() {
		if x.public != nil {
			continue
		}
		if t.refusedWithout(s, hsm.OpSign, x.mech) {
			continue
		}
		h := t.load(s, x.spec, x.material)
		for _, n := range lengths {
			in := random(n)
			if got := t.run(s, hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: in}); !bytes.Equal(got, mac(x.mech.Type, x.material, in)) {
				t.Errorf("%s of %d bytes is %x", x.name, n, got)
			}
		}
		if !strings.HasPrefix(x.name, "HMAC") {
			continue
		}
		// Keys of other lengths: those that the token takes compute the same as Go.
		for _, n := range []int{8, 20, 64, 65, 128, 129, 200} {
			raw := random(n)
			h, err := s.Import(hsm.Spec{Type: hsm.KeyGeneric, Bits: 8 * n, May: hsm.MaySign}, raw)
			if err != nil {
				t.mismatch(err, "a secret of another length")
				continue
			}
			op := hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: []byte("message")}
			if err := s.Do(&op); err != nil {
				t.Fatalf("a secret of %d bytes lost the session: %v", n, err)
			}
			least := t.info.Mechanisms[x.mech.Type].Min
			switch {
			case op.Err != nil && uint64(n) >= least && uint64(n) <= max(t.info.Mechanisms[x.mech.Type].Max, 64):
				t.Errorf("%s with a secret of %d bytes, and the token takes %d to %d: %v", x.mech.Type, n, least, t.info.Mechanisms[x.mech.Type].Max, op.Err)
			case op.Err != nil:
				t.mismatch(op.Err, "a secret of another length")
			case !bytes.Equal(op.Out, mac(x.mech.Type, raw, op.In)):
				t.Errorf("%s with a secret of %d bytes is %x", x.mech.Type, n, op.Out)
			}
		}
	}
}
