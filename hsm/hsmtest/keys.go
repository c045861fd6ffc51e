package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"keyway/hsm"
)

// publicOf reads the public half, which must be to be had.
func (t *tester) publicOf(s hsm.Keeper, h hsm.Handle) crypto.PublicKey {
	t.Helper()
	der, err := s.Public(h)
	if err != nil {
		t.Fatalf("Public: %v", err)
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatalf("Public returned no SubjectPublicKeyInfo: %v", err)
	}
	return pub
}

// bitsOf is a public key's size.
func bitsOf(pub crypto.PublicKey) int {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen()
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize
	case ed25519.PublicKey:
		return 256
	}
	return 0
}

// testGenerate makes a key of each kind and proves it by using it.
func testGenerate(t *tester) {
	s, other := t.session(), t.session()
	generators := map[hsm.KeyType]hsm.MechanismType{
		hsm.KeyAES: hsm.AESKeyGen, hsm.KeyGeneric: hsm.GenericSecretGen, hsm.KeyRSA: hsm.RSAPKCSKeyPairGen, hsm.KeyEC: hsm.ECKeyPairGen, hsm.KeyEd25519: hsm.ECEdwardsKeyPair,
	}
	for _, x := range specimens() {
		if x.name == "RSA-3072" || x.name == "RSA-4096" {
			continue // they take seconds and would prove nothing more
		}
		spec := x.spec
		spec.ID, spec.Label = newID(), "made by "+x.name
		if !t.info.Has(generators[spec.Type]) {
			if _, err := s.Generate(spec); !errors.Is(err, hsm.ErrUnsupported) {
				t.Errorf("%s, which the token cannot make: %v", x.name, err)
			}
			continue
		}
		h, twin := t.generate(s, spec), hsm.Handle(0)
		if x.public == nil {
			twin = t.generate(s, hsm.Spec{Type: spec.Type, Bits: spec.Bits, May: hsm.MaySign})
			sign := hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: []byte("message")}
			a := t.run(s, sign)
			if b := t.run(other, sign); !bytes.Equal(a, b) {
				t.Errorf("%s: another session computes something else", x.name)
			}
			sign.Key = twin
			if b := t.run(s, sign); bytes.Equal(a, b) {
				t.Errorf("%s: two keys made are the same", x.name)
			}
			if _, err := s.Public(h); !errors.Is(err, hsm.ErrNotFound) {
				t.Errorf("%s: the public half of a secret: %v", x.name, err)
			}
			continue
		}
		x.public = t.publicOf(s, h)
		if bitsOf(x.public) != spec.Bits {
			t.Errorf("%s: a key of %d bits was made", x.name, bitsOf(x.public))
		}
		for _, user := range []hsm.Session{s, other} {
			if err := x.use(user, h); err != nil {
				t.Errorf("%s: %v", x.name, err)
			}
		}
		if _, err := s.Find(hsm.ClassPublic, spec.ID); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: the public half of a session pair is on the token: %v", x.name, err)
		}
		if got, err := s.Find(hsm.ClassPrivate, spec.ID); err != nil || got != h {
			t.Errorf("%s: Find = %d, %v; want %d", x.name, got, err, h)
		}
		// Another session may not know the public half; when it does, it is the same.
		if der, err := other.Public(h); err == nil {
			if mine, _ := s.Public(h); !bytes.Equal(der, mine) {
				t.Errorf("%s: another session reads another public key", x.name)
			}
		} else if !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: Public on another session: %v", x.name, err)
		}
	}
	for _, spec := range []hsm.Spec{
		{}, {Type: hsm.KeyAES}, {Type: hsm.KeyAES, Bits: 100}, {Type: hsm.KeyAES, Bits: -128}, {Type: hsm.KeyGeneric, Bits: 12}, {Type: hsm.KeyRSA, Bits: 100},
		{Type: hsm.KeyRSA, Bits: 1 << 30}, {Type: hsm.KeyEC, Bits: 255}, {Type: hsm.KeyEC, Bits: 0}, {Type: 99, Bits: 256},
		{Type: hsm.KeyAES, Bits: 256, Class: hsm.ClassPublic}, {Type: hsm.KeyRSA, Bits: 2048, Class: hsm.ClassSecret}, {Type: hsm.KeyRSA, Bits: 2048, Class: hsm.ClassPublic},
	} {
		if _, err := s.Generate(spec); hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("Generate(%+v): %v", spec, err)
		}
	}
}

func testFind(t *tester) {
	s, other := t.session(), t.session()
	spec := hsm.Spec{Type: hsm.KeyAES, Bits: 128, May: hsm.MayEncrypt}
	find := func(s hsm.Session, c hsm.Class, id []byte, want hsm.Handle, why error) {
		t.Helper()
		if h, err := s.Find(c, id); h != want || !errors.Is(err, why) {
			t.Errorf("Find(%d, %x) = %d, %v; want %d, %v", c, id, h, err, want, why)
		}
	}
	for _, id := range [][]byte{{0}, {0, 0}, {1}, []byte("text"), newID(), random(64), append(make([]byte, 15), 1)} {
		find(s, hsm.ClassSecret, id, 0, hsm.ErrNotFound)
		spec.ID = bytes.Clone(id)
		h := t.generate(s, spec)
		clear(spec.ID) // it is the caller's again
		find(s, hsm.ClassSecret, id, h, nil)
		find(other, hsm.ClassSecret, id, h, nil)
		find(s, hsm.ClassPrivate, id, 0, hsm.ErrNotFound)
		find(s, hsm.ClassPublic, id, 0, hsm.ErrNotFound)
		spec.ID = id
		twin := t.generate(other, spec)
		find(s, hsm.ClassSecret, id, 0, hsm.ErrAmbiguous)
		third := t.generate(s, spec)
		find(s, hsm.ClassSecret, id, 0, hsm.ErrAmbiguous)
		for _, x := range []hsm.Handle{twin, third} {
			if err := s.Destroy(x); err != nil {
				t.Fatalf("Destroy: %v", err)
			}
		}
		find(s, hsm.ClassSecret, id, h, nil)
		if err := s.Destroy(h); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
		find(s, hsm.ClassSecret, id, 0, hsm.ErrNotFound)
	}
	t.generate(s, hsm.Spec{Type: hsm.KeyAES, Bits: 128})
	for _, id := range [][]byte{nil, {}} {
		if h, err := s.Find(hsm.ClassSecret, id); h != 0 || !errors.Is(err, hsm.ErrInput) {
			t.Errorf("Find without an id = %d, %v", h, err)
		}
	}
}

func testImport(t *tester) {
	s, other := t.session(), t.session()
	for _, x := range specimens() {
		if !x.known(t.info) {
			continue // what a token cannot use is of no use on it
		}
		spec, material := x.spec, bytes.Clone(x.material)
		id := newID()
		spec.ID, spec.Label = bytes.Clone(id), x.name
		h := t.load(s, spec, material)
		clear(spec.ID)
		spec.ID = id
		if !bytes.Equal(material, x.material) {
			t.Errorf("%s: the material was changed", x.name)
		}
		clear(material) // as the caller does
		for _, user := range []hsm.Session{s, other} {
			if err := x.use(user, h); err != nil {
				t.Errorf("%s: %v", x.name, err)
			}
		}
		if got, err := other.Find(spec.ObjectClass(), spec.ID); err != nil || got != h {
			t.Errorf("%s: Find = %d, %v; want %d", x.name, got, err, h)
		}
		if x.public == nil {
			continue
		}
		want := x.spki(t)
		if der, err := s.Public(h); err == nil && !bytes.Equal(der, want) || err != nil && !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: the public half that nobody gave: %v", x.name, err)
		}
		pub := hsm.Spec{Class: hsm.ClassPublic, Type: spec.Type, Bits: spec.Bits, ID: spec.ID, May: hsm.MayVerify}
		given := bytes.Clone(want)
		ph := t.load(s, pub, given)
		clear(given) // the caller's again
		for what, p := range map[string]hsm.Handle{"the public object": ph, "the private object": h} {
			if der, err := other.Public(p); err != nil || !bytes.Equal(der, want) {
				t.Errorf("%s: Public of %s: %v", x.name, what, err)
			}
		}
		if got, err := s.Find(hsm.ClassPublic, spec.ID); err != nil || got != ph {
			t.Errorf("%s: Find = %d, %v; want %d", x.name, got, err, ph)
		}
	}
}

// testImportRefuses: material that is not what the Spec says is the caller's fault.
func testImportRefuses(t *tester) {
	s := t.session()
	f := func(what string, spec hsm.Spec, material []byte) {
		t.Helper()
		if h, err := s.Import(spec, material); hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("%s: %d, %v", what, h, err)
		}
	}
	for _, n := range []int{0, 1, 15, 16, 24, 31, 33, 64} {
		f("an AES key of the wrong length", hsm.Spec{Type: hsm.KeyAES, Bits: 256}, make([]byte, n))
		f("a secret of the wrong length", hsm.Spec{Type: hsm.KeyGeneric, Bits: 256}, make([]byte, n))
	}
	f("no such AES key", hsm.Spec{Type: hsm.KeyAES, Bits: 100}, make([]byte, 16))
	f("no length", hsm.Spec{Type: hsm.KeyAES}, make([]byte, 16))
	f("no type", hsm.Spec{Bits: 128}, make([]byte, 16))
	f("an AES key as a public one", hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyAES, Bits: 256}, make([]byte, 32))
	for _, x := range specimens() {
		if x.public == nil || x.name == "RSA-4096" {
			continue
		}
		other := "EC-256"
		if x.name == other {
			other = "EC-384"
		}
		o := t.specimen(other)
		pub := x.spec
		pub.Class = hsm.ClassPublic
		for _, bad := range [][]byte{nil, []byte("no DER"), {0x30, 0x80}, x.material[:len(x.material)-1], append(bytes.Clone(x.material), 1), o.material, x.spki(t)} {
			f(fmt.Sprintf("%s of %d bytes", x.name, len(bad)), x.spec, bad)
		}
		der := x.spki(t)
		for _, bad := range [][]byte{nil, []byte("no DER"), der[:len(der)-1], append(bytes.Clone(der), 1), o.spki(t), x.material} {
			f(fmt.Sprintf("the public half of %s of %d bytes", x.name, len(bad)), pub, bad)
		}
	}
	x := t.specimen("RSA-2048")
	x.spec.Bits = 3072
	f("an RSA key of the wrong size", x.spec, x.material)
	x.spec.Class = hsm.ClassPublic
	f("an RSA key of the wrong size", x.spec, x.spki(t))
}

func testDestroy(t *tester) {
	s, other := t.session(), t.session()
	for _, name := range []string{"AES-256", "HMAC-SHA-256", "EC-256", "RSA-2048"} {
		x := t.specimen(name)
		spec := x.spec
		spec.ID = newID()
		h := t.load(s, spec, x.material)
		twin := t.load(s, x.spec, x.material)
		if err := other.Destroy(h); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.stale(t.fail(s, hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: x.input()}), "a destroyed key")
		if _, err := s.Find(spec.ObjectClass(), spec.ID); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("%s: a destroyed key is found: %v", name, err)
		}
		t.stale(s.Destroy(h), "Destroy again")
		if err := x.use(s, twin); err != nil {
			t.Errorf("%s: the other object of the same key: %v", name, err)
		}
	}
}
