package hsmtest

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	"keyway/hsm"
)

func newGCM(key []byte) cipher.AEAD {
	g, err := cipher.NewGCM(newAES(key))
	if err != nil {
		panic(err) // AES has the block size of GCM
	}
	return g
}

func testGCM(t *tester) {
	s := t.session()
	if t.refusedWithout(s, hsm.OpEncrypt, hsm.Mechanism{Type: hsm.AESGCM}) {
		return
	}
	for _, bits := range []int{128, 192, 256} {
		h, raw := t.aes(s, bits, mayAll)
		goGCM := newGCM(raw)
		ivs := map[string]bool{}
		for _, n := range append(slices.Clone(lengths), 1<<20) {
			if n == 1<<20 && bits != 256 {
				continue
			}
			for _, aad := range [][]byte{nil, []byte("a"), random(16), random(1000)} {
				m := hsm.Mechanism{Type: hsm.AESGCM, AAD: aad}
				clear := random(n)
				sealed := t.run(s, hsm.Op{Kind: hsm.OpEncrypt, Mech: m, Key: h, In: clear})
				if len(sealed) != hsm.GCMIVSize+n+hsm.GCMTagSize {
					t.Fatalf("%d bytes became %d, want %d", n, len(sealed), hsm.GCMIVSize+n+hsm.GCMTagSize)
				}
				iv := sealed[:hsm.GCMIVSize]
				if ivs[string(iv)] {
					t.Fatalf("the IV %x came twice", iv)
				}
				ivs[string(iv)] = true
				if got, err := goGCM.Open(nil, iv, sealed[hsm.GCMIVSize:], aad); err != nil || !bytes.Equal(got, clear) {
					t.Fatalf("Go does not open %d bytes with %d of AAD: %v", n, len(aad), err)
				}
				if got := t.run(s, hsm.Op{Kind: hsm.OpDecrypt, Mech: m, Key: h, In: sealed}); !bytes.Equal(got, clear) {
					t.Fatalf("%d bytes came back as %d others", n, len(got))
				}
				iv = random(hsm.GCMIVSize)
				theirs := goGCM.Seal(iv, iv, clear, aad)
				if got := t.run(s, hsm.Op{Kind: hsm.OpDecrypt, Mech: m, Key: h, In: theirs}); !bytes.Equal(got, clear) {
					t.Fatalf("%d bytes that Go encrypted came back as %d others", n, len(got))
				}
			}
		}
	}
}

// testFailedOperations: what does not open is the caller's, costs no session, and leaves nothing of the clear text in Out.
func testFailedOperations(t *tester) {
	s := t.session()
	f := func(what string, op hsm.Op, clear []byte) {
		t.Helper()
		op.Out = bytes.Repeat([]byte{0x55}, len(op.In)+200)[:3]
		err := s.Do(&op)
		if err != nil || op.Err == nil || len(op.Out) != 0 {
			t.Fatalf("%s: %d bytes, %v, %v", what, len(op.Out), err, op.Err)
		}
		t.callers(op.Err, what)
		for i := 0; len(clear) >= 8 && i+8 <= len(clear); i += 8 {
			if bytes.Contains(op.Out[:cap(op.Out)], clear[i:i+8]) {
				t.Fatalf("%s: clear text is in Out", what)
			}
		}
	}
	if t.info.Has(hsm.AESGCM) {
		h, _ := t.aes(s, 256, mayAll)
		other, _ := t.aes(s, 256, mayAll)
		for _, n := range []int{0, 1, 16, 17, 1000} {
			m := hsm.Mechanism{Type: hsm.AESGCM, AAD: []byte("context")}
			clear := random(n)
			sealed := t.run(s, hsm.Op{Kind: hsm.OpEncrypt, Mech: m, Key: h, In: clear})
			open := hsm.Op{Kind: hsm.OpDecrypt, Mech: m, Key: h}
			for _, at := range []int{0, 11, 12, len(sealed) / 2, len(sealed) - 16, len(sealed) - 1} {
				open.In = bytes.Clone(sealed)
				open.In[at] ^= 1
				f("a changed ciphertext", open, clear)
			}
			for _, cut := range []int{1, 16, len(sealed) - 27, len(sealed)} {
				if cut > 0 && cut <= len(sealed) {
					open.In = sealed[:len(sealed)-cut]
					f("a cut ciphertext", open, clear)
				}
			}
			open.In = append(bytes.Clone(sealed), 0)
			f("a longer ciphertext", open, clear)
			open.In = sealed
			for _, aad := range [][]byte{nil, []byte("contexu"), []byte("context ")} {
				open.Mech.AAD = aad
				f("another AAD", open, clear)
			}
			open.Mech.AAD, open.Key = m.AAD, other
			f("another key", open, clear)
		}
	}
	if t.info.Has(hsm.AESKeyWrapKWP) {
		// Well wrapped, and not by the rules of RFC 5649, 3: the length does not go with the padding, or that is not zeros.
		h, raw := t.aes(s, 256, mayAll)
		for _, n := range []int{8, 16, 24, 400} {
			for _, said := range []int{0, 1, n - 16, n - 9, n - 8, n - 7, n - 1, n + 1, n + 8, 1 << 31, 1<<32 - 1} {
				for _, end := range [][]byte{{1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 8)} {
					if zeros := end[0] == 0; said < 0 || said == n || zeros && said > n-8 && said < n {
						continue // zeros after so many bytes are what there should be
					}
					clear := append(make([]byte, n-8), end...)
					iv := binary.BigEndian.AppendUint32([]byte{0xA6, 0x59, 0x59, 0xA6}, uint32(said))
					blob := keyWrap(raw, iv, clear)
					if n == 8 {
						blob = append(bytes.Clone(iv), clear...)
						newAES(raw).Encrypt(blob, blob)
					}
					f("a wrapping of "+strconv.Itoa(n)+" bytes that says it has "+strconv.Itoa(said),
						hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrapKWP}, Key: h, In: blob}, nil)
				}
			}
		}
	}
	for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} {
		if !t.info.Has(m) {
			continue
		}
		h, raw := t.aes(s, 256, mayAll)
		other, _ := t.aes(s, 256, mayAll)
		for _, n := range []int{16, 24, 256, 400} {
			clear := random(n)
			blob := wrapWith(m)(raw, clear)
			open := hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: m}, Key: h}
			for _, at := range []int{0, 7, 8, len(blob) / 2, len(blob) - 1} {
				open.In = bytes.Clone(blob)
				open.In[at] ^= 1
				f("a changed wrapping", open, clear)
			}
			for _, keep := range []int{0, 1, 8, 15, 16, len(blob) - 8, len(blob) - 1} {
				open.In = blob[:keep]
				f("a cut wrapping", open, clear)
			}
			open.In = append(bytes.Clone(blob), make([]byte, 8)...)
			f("a longer wrapping", open, clear)
			open.In, open.Key = blob, other
			f("another key", open, clear)
			if len(blob) >= 24 {
				rival := hsm.AESKeyWrap + hsm.AESKeyWrapKWP - m
				if t.info.Has(rival) {
					open.Mech.Type, open.Key = rival, h
					f("the other mechanism", open, clear)
				}
			}
		}
	}
}

func testOAEP(t *tester) {
	s := t.session()
	if t.refusedWithout(s, hsm.OpDecrypt, hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hsm.SHA256}) {
		return
	}
	for _, name := range []string{"RSA-2048", "RSA-4096"} {
		x := t.specimen(name)
		x.spec.May = hsm.MayDecrypt
		h := t.load(s, x.spec, x.material)
		pub := x.public.(*rsa.PublicKey)
		for _, hash := range []hsm.Hash{hsm.SHA1, hsm.SHA256, hsm.SHA384, hsm.SHA512} {
			op := hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hash}, Key: h}
			most := pub.Size() - 2*hash.Size() - 2
			for _, n := range []int{0, 1, 16, 32, most} {
				clear := random(n)
				var err error
				if op.In, err = rsa.EncryptOAEP(hash.Crypto().New(), rand.Reader, pub, clear, nil); err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(t.info.OAEPHashes, hash) {
					if err := t.fail(s, op); !errors.Is(err, hsm.ErrUnsupported) {
						t.Errorf("%s, which the token does not claim: %v", hash, err)
					}
					break
				}
				if got := t.run(s, op); !bytes.Equal(got, clear) {
					t.Errorf("%s: %d bytes came back as %d others", hash, n, len(got))
				}
				for _, at := range []int{1, len(op.In) / 2, len(op.In) - 1} {
					bad := op
					bad.In = bytes.Clone(op.In)
					bad.In[at] ^= 1
					t.callers(t.fail(s, bad), "a changed ciphertext")
				}
			}
			if !slices.Contains(t.info.OAEPHashes, hash) {
				continue
			}
			for _, n := range []int{0, 1, 100, pub.Size() - 1, pub.Size() + 1, 1000, 70_000} {
				op.In = make([]byte, n)
				t.callers(t.fail(s, op), "a ciphertext of the wrong length")
			}
			op.In = bytes.Repeat([]byte{0xFF}, pub.Size())
			t.callers(t.fail(s, op), "a number beyond the modulus")
			label, err := rsa.EncryptOAEP(hash.Crypto().New(), rand.Reader, pub, []byte("x"), []byte("label"))
			if err != nil {
				t.Fatal(err)
			}
			op.In = label
			t.callers(t.fail(s, op), "a label")
		}
		err := t.fail(s, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP}, Key: h, In: make([]byte, pub.Size())})
		if hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("without a hash: %v", err)
		}
	}
}
