package hsmtest

import (
	"errors"

	"keyway/hsm"
)

// testNotListed: what the token does not list it refuses, as something another member may have.
func testNotListed(t *tester) {
	s := t.session()
	h, _ := t.aes(s, 256, mayAll|hsm.MaySign)
	kinds := map[hsm.MechanismType][]hsm.OpKind{
		0x7777: {hsm.OpSign, hsm.OpEncrypt, hsm.OpDecrypt, hsm.OpWrap, hsm.OpUnwrap},
		0x210A: {hsm.OpWrap, hsm.OpUnwrap}, // AES_KEY_WRAP_PAD, which means something else on each token
	}
	for _, m := range hsm.KnownMechanisms() {
		switch m {
		case hsm.RSAPKCS, hsm.RSAPKCSPSS, hsm.ECDSA, hsm.EDDSA, hsm.SHA256HMAC, hsm.SHA384HMAC, hsm.SHA512HMAC, hsm.AESCMAC:
			kinds[m] = []hsm.OpKind{hsm.OpSign}
		case hsm.AESGCM:
			kinds[m] = []hsm.OpKind{hsm.OpEncrypt, hsm.OpDecrypt}
		case hsm.RSAPKCSOAEP:
			kinds[m] = []hsm.OpKind{hsm.OpDecrypt}
		case hsm.AESKeyWrap, hsm.AESKeyWrapKWP:
			kinds[m] = []hsm.OpKind{hsm.OpWrap, hsm.OpUnwrap}
		}
	}
	for m, ks := range kinds {
		if t.info.Has(m) {
			continue
		}
		for _, k := range ks {
			op := hsm.Op{Kind: k, Mech: hsm.Mechanism{Type: m, Hash: hsm.SHA256}, Key: h, In: make([]byte, 32)}
			if err := t.fail(s, op); !errors.Is(err, hsm.ErrUnsupported) {
				t.Errorf("%s with %s, which the token does not list: %v", k, m, err)
			}
		}
	}
	for _, m := range []hsm.MechanismType{0x7777, 0x210A} {
		if _, err := s.WrapKey(h, hsm.Mechanism{Type: m}, h); hsm.FaultOf(err) != hsm.Object && hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("WrapKey with %s: %v", m, err)
		}
		if _, err := s.UnwrapKey(h, hsm.Mechanism{Type: m}, make([]byte, 40), hsm.Spec{Type: hsm.KeyAES, Bits: 256}); hsm.FaultOf(err) != hsm.Object && hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("UnwrapKey with %s: %v", m, err)
		}
	}
}

// testNonsense: a kind of operation that does not go with its mechanism is the caller's.
func testNonsense(t *tester) {
	s := t.session()
	h, _ := t.aes(s, 256, mayAll|hsm.MaySign)
	signs := map[hsm.MechanismType]bool{}
	for _, x := range specimens() {
		signs[x.mech.Type] = true
	}
	signs[hsm.RSAPKCS] = true
	for _, m := range hsm.KnownMechanisms() {
		if !t.info.Has(m) {
			continue
		}
		sense := map[hsm.OpKind]bool{
			hsm.OpSign: signs[m], hsm.OpEncrypt: m == hsm.AESGCM, hsm.OpDecrypt: m == hsm.AESGCM || m == hsm.RSAPKCSOAEP,
			hsm.OpWrap: m == hsm.AESKeyWrap || m == hsm.AESKeyWrapKWP,
		}
		sense[hsm.OpUnwrap] = sense[hsm.OpWrap]
		for _, k := range []hsm.OpKind{0, hsm.OpSign, hsm.OpEncrypt, hsm.OpDecrypt, hsm.OpWrap, hsm.OpUnwrap, hsm.OpRandom + 1, 99, 255} {
			if sense[k] {
				continue
			}
			op := hsm.Op{Kind: k, Mech: hsm.Mechanism{Type: m, Hash: hsm.SHA256}, Key: h, In: make([]byte, 32)}
			if err := t.fail(s, op); hsm.FaultOf(err) != hsm.Caller {
				t.Errorf("kind %d (%s) with %s: %v", k, k, m, err)
			}
		}
	}
	// The session is as good as before.
	t.run(s, hsm.Op{Kind: hsm.OpRandom, Len: 16})
}

// testBadHandles: a handle of nothing is stale, whatever is asked of it, and costs no session.
func testBadHandles(t *tester) {
	s := t.session()
	good, _ := t.aes(s, 256, mayAll|hsm.MaySign)
	gone, _ := t.aes(s, 256, mayAll|hsm.MaySign)
	if err := s.Destroy(gone); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	ops := []hsm.Op{
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, In: []byte("x")},
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("x")},
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, In: make([]byte, 32)},
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.RSAPKCS, Hash: hsm.SHA256}, In: make([]byte, 32)},
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: hsm.SHA256}, In: make([]byte, 32)},
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.EDDSA}, In: make([]byte, 32)},
		{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, In: make([]byte, 32)},
		{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, In: make([]byte, 64)},
		{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hsm.SHA1}, In: make([]byte, 256)},
		{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 32)},
		{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 40)},
		{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 408)},
		{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrapKWP}, In: make([]byte, 31)},
		{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrapKWP}, In: make([]byte, 40)},
	}
	aes := hsm.Spec{Type: hsm.KeyAES, Bits: 256, Extractable: true, May: mayAll}
	for _, h := range []hsm.Handle{0, gone, 1 << 30, 1<<63 + 5, ^hsm.Handle(0)} {
		for _, op := range ops {
			if op.Key = h; t.info.Has(op.Mech.Type) {
				t.stale(t.fail(s, op), op.Kind.String()+" with "+op.Mech.Type.String())
			}
		}
		_, err := s.Public(h)
		t.stale(err, "Public")
		for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} {
			if !t.info.Has(m) {
				continue
			}
			_, err = s.WrapKey(good, hsm.Mechanism{Type: m}, h)
			t.stale(err, "WrapKey of nothing")
			_, err = s.WrapKey(h, hsm.Mechanism{Type: m}, t.generate(s, aes))
			t.stale(err, "WrapKey under nothing")
			_, err = s.UnwrapKey(h, hsm.Mechanism{Type: m}, make([]byte, 40), aes)
			t.stale(err, "UnwrapKey under nothing")
		}
		t.stale(s.Destroy(h), "Destroy")
	}
	t.run(s, hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: good, In: make([]byte, 16)})
}

// testPermissions: a key does what its Spec says it may, and nothing else that it could.
func testPermissions(t *tester) {
	s := t.session()
	uses := []struct {
		may hsm.Permission
		op  hsm.Op
	}{
		{hsm.MaySign, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, In: []byte("x")}},
		{hsm.MayEncrypt, hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, In: []byte("x")}},
		{hsm.MayDecrypt, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}}},
		{hsm.MayWrap, hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: make([]byte, 16)}},
		{hsm.MayUnwrap, hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}}},
	}
	raw := random(32)
	iv := random(hsm.GCMIVSize)
	uses[2].op.In = newGCM(raw).Seal(iv, iv, []byte("x"), nil)
	uses[4].op.In = WrapKW(raw, make([]byte, 16))
	spec := hsm.Spec{Type: hsm.KeyAES, Bits: 256}
	all := hsm.MaySign | hsm.MayVerify | mayAll
	for _, u := range uses {
		if !t.info.Has(u.op.Mech.Type) {
			continue // testNotListed sees that it is refused
		}
		spec.May = u.may
		u.op.Key = t.load(s, spec, raw)
		t.run(s, u.op)
		spec.May = all &^ u.may
		u.op.Key = t.load(s, spec, raw)
		if err := t.fail(s, u.op); hsm.FaultOf(err) != hsm.Object {
			t.Errorf("%s with a key that may do everything else: %v (%s)", u.op.Kind, err, hsm.FaultOf(err))
		}
		spec.May = all &^ u.may
		u.op.Key = t.generate(s, spec)
		if err := t.fail(s, u.op); hsm.FaultOf(err) != hsm.Object {
			t.Errorf("%s with a generated key that may do everything else: %v (%s)", u.op.Kind, err, hsm.FaultOf(err))
		}
	}
	for _, x := range specimens() {
		if x.public == nil && x.spec.Type == hsm.KeyAES || !x.known(t.info) || x.name == "RSA-4096" || x.name == "RSA-3072" {
			continue
		}
		x.spec.May = hsm.MayDecrypt
		if x.public == nil {
			x.spec.May = hsm.MayVerify
		} else if x.spec.Type != hsm.KeyRSA {
			x.spec.May = 0
		}
		h := t.load(s, x.spec, x.material)
		if err := t.fail(s, hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: x.input()}); hsm.FaultOf(err) != hsm.Object {
			t.Errorf("%s, which may not sign: %v", x.name, err)
		}
	}
	x := t.specimen("RSA-2048")
	if t.info.Has(hsm.RSAPKCSOAEP) {
		h := t.load(s, x.spec, x.material)
		hash := t.info.OAEPHashes[0]
		if err := t.fail(s, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hash}, Key: h, In: make([]byte, 256)}); hsm.FaultOf(err) != hsm.Object {
			t.Errorf("an RSA key that may only sign: %v", err)
		}
	}
	for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} { // keys as well as bytes
		if !t.info.Has(m) {
			continue
		}
		key := t.generate(s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, Extractable: true})
		spec.May = all &^ hsm.MayWrap
		if _, err := s.WrapKey(t.load(s, spec, raw), hsm.Mechanism{Type: m}, key); hsm.FaultOf(err) != hsm.Object {
			t.Errorf("WrapKey with %s under a key that may not wrap: %v", m, err)
		}
		spec.May = all &^ hsm.MayUnwrap
		if _, err := s.UnwrapKey(t.load(s, spec, raw), hsm.Mechanism{Type: m}, wrapWith(m)(raw, make([]byte, 32)), hsm.Spec{Type: hsm.KeyAES, Bits: 256}); hsm.FaultOf(err) != hsm.Object {
			t.Errorf("UnwrapKey with %s under a key that may not unwrap: %v", m, err)
		}
	}
}

// testWrongKeys: every mechanism with a key of every other type.
func testWrongKeys(t *tester) {
	s := t.session()
	fits := map[hsm.MechanismType]hsm.KeyType{
		hsm.RSAPKCS: hsm.KeyRSA, hsm.RSAPKCSPSS: hsm.KeyRSA, hsm.RSAPKCSOAEP: hsm.KeyRSA, hsm.ECDSA: hsm.KeyEC, hsm.EDDSA: hsm.KeyEd25519,
		hsm.SHA256HMAC: hsm.KeyGeneric, hsm.SHA384HMAC: hsm.KeyGeneric, hsm.SHA512HMAC: hsm.KeyGeneric,
		hsm.AESCMAC: hsm.KeyAES, hsm.AESGCM: hsm.KeyAES, hsm.AESKeyWrap: hsm.KeyAES, hsm.AESKeyWrapKWP: hsm.KeyAES,
	}
	for _, name := range []string{"AES-256", "HMAC-SHA-512", "EC-256", "Ed25519", "RSA-2048"} {
		x := t.specimen(name)
		if !x.known(t.info) {
			continue
		}
		x.spec.May = hsm.MaySign
		if x.public == nil {
			x.spec.May |= mayAll
		} else if x.spec.Type == hsm.KeyRSA {
			x.spec.May |= hsm.MayDecrypt | hsm.MayUnwrap
		}
		h := t.load(s, x.spec, x.material)
		for m, kt := range fits {
			if kt == x.spec.Type || !t.info.Has(m) {
				continue
			}
			f := func(k hsm.OpKind, n int) {
				t.Helper()
				op := hsm.Op{Kind: k, Mech: hsm.Mechanism{Type: m, Hash: hsm.SHA256}, Key: h, In: make([]byte, n)}
				if m == hsm.RSAPKCSOAEP {
					op.Mech.Hash = t.info.OAEPHashes[0]
				}
				t.mismatch(t.fail(s, op), k.String()+" with "+m.String()+" and a key of "+name)
			}
			switch m {
			case hsm.AESGCM:
				f(hsm.OpEncrypt, 32)
				f(hsm.OpDecrypt, 64)
			case hsm.RSAPKCSOAEP:
				f(hsm.OpDecrypt, 256)
			case hsm.AESKeyWrap, hsm.AESKeyWrapKWP:
				f(hsm.OpWrap, 32)
				f(hsm.OpUnwrap, 40)
				f(hsm.OpUnwrap, 408)
			default:
				f(hsm.OpSign, 32)
			}
		}
		if err := x.use(s, h); err != nil {
			t.Errorf("%s, after all that: %v", name, err)
		}
	}
}
