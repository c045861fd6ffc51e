package hsm

import (
	"slices"
	"strings"
	"testing"

	"keyway/lifecycle/key"
)

func TestHashes(t *testing.T) {
	for h, want := range map[Hash]struct {
		name string
		size int
	}{SHA1: {"sha1", 20}, SHA256: {"sha2-256", 32}, SHA384: {"sha2-384", 48}, SHA512: {"sha2-512", 64}, 0: {"", 0}, 5: {"", 0}, 255: {"", 0}} {
		if h.String() != want.name || h.Size() != want.size || (h.Crypto() != 0) != (want.size > 0) {
			t.Errorf("hash %d is %q of %d bytes, Crypto %v", h, h, h.Size(), h.Crypto())
		}
		if want.size == 0 {
			continue
		}
		if got, err := ParseHash(want.name); err != nil || got != h {
			t.Errorf("ParseHash(%q) = %d, %v", want.name, got, err)
		}
		if n := h.Crypto().New().Size(); n != want.size { // it is linked in
			t.Errorf("%s has %d bytes", h, n)
		}
	}
	for _, s := range []string{"", "sha256", "SHA2-256", "sha2-256 ", "md5"} {
		if h, err := ParseHash(s); err == nil || h != 0 || !strings.Contains(err.Error(), "sha2-256, sha2-384 or sha2-512") {
			t.Errorf("ParseHash(%q) = %d, %v", s, h, err)
		}
	}
}

func TestMechanismNames(t *testing.T) {
	all := KnownMechanisms()
	seen := map[string]bool{}
	for _, m := range all {
		n := m.String()
		if !strings.HasPrefix(n, "CKM_") || strings.HasPrefix(n, "CKM_0x") || seen[n] {
			t.Errorf("0x%X is called %q", uint32(m), n)
		}
		seen[n] = true
		if !(Info{Mechanisms: map[MechanismType]MechanismInfo{m: {}}}).Has(m) || (Info{}).Has(m) {
			t.Errorf("Has(%s)", m)
		}
	}
	if got := MechanismType(0x7777).String(); got != "CKM_0x00007777" {
		t.Errorf("an unknown mechanism is called %q", got)
	}
	all[0] = 0 // the caller's
	if slices.Contains(KnownMechanisms(), 0x7777) || len(KnownMechanisms()) != len(all) {
		t.Error("the list is shared")
	}
	names := map[string]bool{}
	for k := OpSign; k <= OpRandom; k++ {
		names[k.String()] = true
	}
	if len(names) != 6 || names["unknown"] || OpKind(0).String() != "unknown" || OpKind(99).String() != "unknown" {
		t.Errorf("operations are called %v", names)
	}
}

func TestSpecFor(t *testing.T) {
	f := func(a key.Algorithm, u key.Usage, want Spec) {
		t.Helper()
		got, err := SpecFor(a, u)
		if err != nil || got.Type != want.Type || got.Bits != want.Bits || got.May != want.May || got.Token || got.Extractable || got.ID != nil || got.Label != "" {
			t.Errorf("%s for %v: %+v, %v; want %+v", a, u, got, err, want)
		}
		if err := got.Check(); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	f(key.AES128, key.Encrypt, Spec{Type: KeyAES, Bits: 128, May: MayEncrypt | MayWrap})
	f(key.AES256, key.Decrypt, Spec{Type: KeyAES, Bits: 256, May: MayDecrypt | MayUnwrap})
	f(key.AES256, key.Wrap|key.Unwrap, Spec{Type: KeyAES, Bits: 256, May: MayEncrypt | MayDecrypt | MayWrap | MayUnwrap})
	f(key.HMACSHA384, key.VerifyMAC, Spec{Type: KeyGeneric, Bits: 384, May: MaySign})
	f(key.RSA3072, key.Sign, Spec{Type: KeyRSA, Bits: 3072, May: MaySign})
	f(key.RSA2048, key.Unwrap, Spec{Type: KeyRSA, Bits: 2048, May: MayDecrypt})
	f(key.RSA2048, key.Verify, Spec{Type: KeyRSA, Bits: 2048})
	f(key.ECP521, key.Sign, Spec{Type: KeyEC, Bits: 521, May: MaySign})
	f(key.Ed25519, key.Sign, Spec{Type: KeyEd25519, Bits: 256, May: MaySign})
	for _, row := range key.Algorithms() { // none is forgotten
		if _, err := SpecFor(row.Algorithm, row.Allowed); err != nil {
			t.Errorf("%s: %v", row.Algorithm, err)
		}
	}
	if _, err := SpecFor("rot13", key.Sign); err == nil {
		t.Error("rot13 has a template")
	}
}

func TestSpecCheck(t *testing.T) {
	f := func(s Spec, good bool) {
		t.Helper()
		err := s.Check()
		if (err == nil) != good || err != nil && FaultOf(err) != Caller {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for bits, good := range map[int]bool{0: false, 64: false, 128: true, 192: true, 256: true, 257: false, 512: false, -128: false} {
		f(Spec{Type: KeyAES, Bits: bits}, good)
	}
	for bits, good := range map[int]bool{0: false, 8: false, 64: true, 72: true, 100: false, 512: true, 8192: true, 8200: false} {
		f(Spec{Type: KeyGeneric, Bits: bits}, good)
	}
	for bits, good := range map[int]bool{0: false, 512: false, 1024: true, 2048: true, 4096: true, 8192: true, 16384: false} {
		f(Spec{Type: KeyRSA, Bits: bits}, good)
		f(Spec{Type: KeyRSA, Bits: bits, Class: ClassPublic}, good)
		f(Spec{Type: KeyRSA, Bits: bits, Class: ClassSecret}, false)
	}
	for bits, good := range map[int]bool{0: false, 224: false, 256: true, 384: true, 521: true, 512: false} {
		f(Spec{Type: KeyEC, Bits: bits}, good)
		f(Spec{Type: KeyEC, Bits: bits, Class: ClassPrivate}, good)
	}
	f(Spec{Type: KeyEd25519}, true)
	f(Spec{Type: KeyEd25519, Bits: 256}, true)
	f(Spec{Type: KeyEd25519, Bits: 255}, false)
	f(Spec{Type: KeyAES, Bits: 128, Class: ClassSecret}, true)
	f(Spec{Type: KeyAES, Bits: 128, Class: ClassPublic}, false)
	f(Spec{Type: KeyAES, Bits: 128, Class: ClassPrivate}, false)
	f(Spec{Type: KeyAES, Bits: 128, Class: 9}, false)
	f(Spec{Type: 0, Bits: 128}, false)
	f(Spec{Type: 99, Bits: 128}, false)
}
