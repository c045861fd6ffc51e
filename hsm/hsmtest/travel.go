package hsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"keyway/hsm"
)

var wrappings = []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP}

// extractable is the specimen's Spec with that set.
func (x *specimen) extractable() hsm.Spec {
	s := x.spec
	s.Extractable = true
	return s
}

// wrapped is the specimen as it travels.
func (x *specimen) wrapped(m hsm.MechanismType, kek []byte) []byte {
	if m == hsm.AESKeyWrap {
		return WrapKW(kek, Padded(x.material))
	}
	return WrapKWP(kek, x.material)
}

// testWrapKey opens what the token wrapped without it.
func testWrapKey(t *tester) {
	s := t.session()
	for _, m := range wrappings {
		kek, raw := t.aes(s, 256, mayWrap)
		for _, x := range specimens() {
			if !x.known(t.info) {
				continue
			}
			h := t.load(s, x.extractable(), x.material)
			blob, err := s.WrapKey(kek, hsm.Mechanism{Type: m}, h)
			if !t.info.Has(m) {
				if !errors.Is(err, hsm.ErrUnsupported) {
					t.Errorf("%s, which the token does not list: %v", m, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s with %s: %v", x.name, m, err)
				continue
			}
			clear, err := unwrapWith(m)(raw, blob)
			if err == nil {
				err = x.sameKey(clear)
			}
			if err != nil {
				t.Errorf("%s with %s: %v", x.name, m, err)
			}
			if err := x.use(s, h); err != nil {
				t.Errorf("%s after it was wrapped: %v", x.name, err)
			}
		}
	}
	// A secret that RFC 3394 cannot take is refused, or comes back the same in use.
	raw := random(20)
	h := t.load(s, hsm.Spec{Type: hsm.KeyGeneric, Bits: 160, Extractable: true, May: hsm.MaySign}, raw)
	kek, _ := t.aes(s, 256, mayWrap)
	if blob, err := s.WrapKey(kek, hsm.Mechanism{Type: hsm.AESKeyWrap}, h); err == nil {
		back, err := s.UnwrapKey(kek, hsm.Mechanism{Type: hsm.AESKeyWrap}, blob, hsm.Spec{Type: hsm.KeyGeneric, Bits: 160, May: hsm.MaySign})
		if err != nil {
			t.Fatalf("a secret of 20 bytes was wrapped and does not come back: %v", err)
		}
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: back, In: []byte("x")}
		if err := s.Do(&op); err != nil || op.Err == nil && !bytes.Equal(op.Out, mac(hsm.SHA256HMAC, raw, op.In)) {
			t.Errorf("a secret of 20 bytes came back as another: %v", err)
		}
	} else {
		t.callers(err, "a secret of 20 bytes")
	}
}

// testUnwrapKey loads what was wrapped without the token, and refuses what was not.
func testUnwrapKey(t *tester) {
	s := t.session()
	for _, m := range wrappings {
		mech := hsm.Mechanism{Type: m}
		kek, raw := t.aes(s, 256, mayWrap)
		other, _ := t.aes(s, 256, mayWrap)
		for _, x := range specimens() {
			if !x.known(t.info) {
				continue
			}
			spec, id := x.spec, newID()
			spec.ID, spec.Label = bytes.Clone(id), x.name
			blob := x.wrapped(m, raw)
			h, err := s.UnwrapKey(kek, mech, blob, spec)
			clear(spec.ID)
			spec.ID = id
			if !t.info.Has(m) {
				if !errors.Is(err, hsm.ErrUnsupported) {
					t.Errorf("%s, which the token does not list: %v", m, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s with %s: %v", x.name, m, err)
				continue
			}
			if err := x.use(s, h); err != nil {
				t.Errorf("%s with %s: %v", x.name, m, err)
			}
			if got, err := s.Find(spec.ObjectClass(), spec.ID); err != nil || got != h {
				t.Errorf("%s: Find = %d, %v; want %d", x.name, got, err, h)
			}
			f := func(what string, kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) {
				t.Helper()
				if h, err := s.UnwrapKey(kek, m, blob, spec); err == nil {
					t.Errorf("%s with %s: %s: opened as object %d", x.name, m.Type, what, h)
				} else {
					t.callers(err, x.name+": "+what)
				}
			}
			for _, at := range []int{0, 7, 8, len(blob) / 2, len(blob) - 1} {
				bad := bytes.Clone(blob)
				bad[at] ^= 1
				f("a changed blob", kek, mech, bad, x.spec)
			}
			for _, n := range []int{0, 1, 8, 16, 23, len(blob) - 8, len(blob) - 1} {
				f("a cut blob", kek, mech, blob[:n], x.spec)
			}
			f("a longer blob", kek, mech, append(bytes.Clone(blob), make([]byte, 8)...), x.spec)
			f("another KEK", other, mech, blob, x.spec)
			rival := hsm.Mechanism{Type: hsm.AESKeyWrap + hsm.AESKeyWrapKWP - m}
			if t.info.Has(rival.Type) {
				f("the other mechanism", kek, rival, blob, x.spec)
			}
			f("no such key", kek, mech, blob, hsm.Spec{Type: x.spec.Type, Bits: 7})
			f("a public key", kek, mech, blob, hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyRSA, Bits: 2048})
			// A key of another kind than the Spec says.
			for _, o := range specimens() {
				same := o.spec.Type == x.spec.Type && o.spec.Bits == x.spec.Bits
				secrets := o.public == nil && o.spec.Bits == 8*len(x.material) // any bytes of the length are a secret
				if same || secrets || !o.known(t.info) {
					continue
				}
				if h, err := s.UnwrapKey(kek, mech, blob, o.spec); err == nil {
					t.Errorf("%s with %s: opened as %s, object %d", x.name, m, o.name, h)
				} else {
					t.mismatch(err, x.name+" unwrapped as "+o.name)
				}
			}
		}
	}
}

// testExchange is how a member gets its Root KEK: one session makes a pair, another wraps a new AES key under its public half.
func testExchange(t *tester) {
	s, theirs := t.session(), t.session()
	if !t.info.Has(hsm.RSAPKCSOAEP) {
		return // testNotListed sees that it is refused
	}
	x := t.specimen("RSA-2048")
	x.spec.May = hsm.MayUnwrap | hsm.MayDecrypt
	pair := t.load(s, x.spec, x.material)
	pub := t.load(theirs, hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyRSA, Bits: 2048, May: hsm.MayWrap | hsm.MayEncrypt}, x.spki(t))
	aes := t.specimen("AES-256")
	for _, hash := range []hsm.Hash{hsm.SHA1, hsm.SHA256, hsm.SHA384, hsm.SHA512, 0, 77} {
		m := hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hash}
		claimed := false
		for _, c := range t.info.OAEPHashes {
			claimed = claimed || c == hash
		}
		key := t.load(theirs, aes.extractable(), aes.material)
		blob, err := theirs.WrapKey(pub, m, key)
		if !claimed {
			want := hsm.ErrUnsupported
			if hash.Size() == 0 {
				want = hsm.ErrInput
			}
			if !errors.Is(err, want) {
				t.Errorf("WrapKey with hash %d: %v", hash, err)
			}
			if _, err := s.UnwrapKey(pair, m, make([]byte, 256), aes.spec); !errors.Is(err, want) {
				t.Errorf("UnwrapKey with hash %d: %v", hash, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("WrapKey with %s: %v", hash, err)
		}
		got, err := s.UnwrapKey(pair, m, blob, aes.spec)
		if err != nil {
			t.Fatalf("UnwrapKey with %s: %v", hash, err)
		}
		if err := aes.use(s, got); err != nil {
			t.Errorf("the key that arrived: %v", err)
		}
		_, err = s.WrapKey(pub, m, got)
		t.callers(err, "a key that arrived not extractable")
		for _, at := range []int{1, 100, 255} {
			bad := bytes.Clone(blob)
			bad[at] ^= 1
			_, err := s.UnwrapKey(pair, m, bad, aes.spec)
			t.callers(err, "a changed blob")
		}
		for _, n := range []int{0, 1, 255, 257} {
			_, err := s.UnwrapKey(pair, m, append(bytes.Clone(blob), 0)[:n], aes.spec)
			t.callers(err, "a blob of the wrong length")
		}
	}
}

// testStaysInside: a key that is not extractable is never wrapped, however it came to be.
func testStaysInside(t *tester) {
	s := t.session()
	for _, m := range wrappings {
		if !t.info.Has(m) {
			continue
		}
		mech := hsm.Mechanism{Type: m}
		kek, raw := t.aes(s, 256, mayWrap)
		for _, x := range specimens() {
			if !x.known(t.info) || x.name == "RSA-3072" || x.name == "RSA-4096" {
				continue
			}
			unwrapped, err := s.UnwrapKey(kek, mech, x.wrapped(m, raw), x.spec)
			if err != nil {
				t.Fatalf("%s: %v", x.name, err)
			}
			for how, h := range map[string]hsm.Handle{"imported": t.load(s, x.spec, x.material), "generated": t.generate(s, x.spec), "unwrapped": unwrapped} {
				if blob, err := s.WrapKey(kek, mech, h); err == nil {
					t.Errorf("%s, %s, not extractable, was wrapped to %d bytes", x.name, how, len(blob))
				} else if hsm.FaultOf(err) != hsm.Caller {
					t.Errorf("%s, %s, not extractable: %v", x.name, how, err)
				}
			}
		}
		if _, err := s.WrapKey(kek, mech, kek); hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("a KEK under itself: %v", err)
		}
	}
}

// TestTravel proves that keys travel between two tokens that hold the same KEK, from the first to the second.
func TestTravel(t *testing.T, from, to hsm.Token) {
	t.Helper()
	raw := random(32)
	kek := hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: mayWrap}
	travelled := 0
	for _, m := range wrappings {
		mech := hsm.Mechanism{Type: m}
		for _, x := range specimens() {
			if i, o := from.Info(), to.Info(); !i.Has(m) || !o.Has(m) || !x.known(i) || !x.known(o) {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", m, x.name), func(t *testing.T) {
				a, b := &tester{t, from, from.Info()}, &tester{t, to, to.Info()}
				sa, sb := a.session(), b.session()
				ka, kb := a.load(sa, kek, raw), b.load(sb, kek, raw)
				blob, err := sa.WrapKey(ka, mech, a.load(sa, x.extractable(), x.material))
				if err != nil {
					t.Fatal(err)
				}
				h, err := sb.UnwrapKey(kb, mech, blob, x.extractable())
				if err != nil {
					t.Fatal(err)
				}
				if err := x.use(sb, h); err != nil {
					t.Error(err)
				}
				// And back again, so that what has arrived can go on.
				if blob, err = sb.WrapKey(kb, mech, h); err != nil {
					t.Fatal(err)
				}
				if h, err = sa.UnwrapKey(ka, mech, blob, x.spec); err != nil {
					t.Fatal(err)
				}
				if err := x.use(sa, h); err != nil {
					t.Error(err)
				}
				travelled++
			})
		}
	}
	if travelled < 10 {
		t.Errorf("only %d keys travelled", travelled)
	}
}
