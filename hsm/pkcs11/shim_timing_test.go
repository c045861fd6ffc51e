//go:build cgo

package pkcs11

import (
	"crypto/rand"
	"testing"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

// BenchmarkShim and BenchmarkMiekg do the same with session objects on one session: once through the shim, once as
// miekg/pkcs11 does it, with a length query and two crossings more.
func BenchmarkShim(b *testing.B) {
	onTokens(b, func(b *testing.B, s *Session, k benchKeys) {
		f := func(name string, op hsm.Op) {
			b.Run(name, func(b *testing.B) {
				op.Out = make([]byte, 0, 256)
				b.ReportAllocs()
				for b.Loop() {
					do(b, s, &op)
				}
			})
		}
		f("HMAC-32", hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: k.mac, In: make([]byte, 32)})
		f("P-256", hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, Key: k.ec, In: make([]byte, 32)})
		f("AES-GCM-32", hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: k.aes, In: make([]byte, 32)})
	})
}

func BenchmarkMiekg(b *testing.B) {
	onTokens(b, func(b *testing.B, s *Session, k benchKeys) {
		ctx, h, in := s.t.lib.ctx, pkcs11.SessionHandle(s.h), make([]byte, 32)
		sign := func(name string, mech uint, key hsm.Handle) {
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := ctx.SignInit(h, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, nil)}, pkcs11.ObjectHandle(key)); err != nil {
						b.Fatal(err)
					}
					if _, err := ctx.Sign(h, in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		sign("HMAC-32", pkcs11.CKM_SHA256_HMAC, k.mac)
		sign("P-256", pkcs11.CKM_ECDSA, k.ec)
		b.Run("AES-GCM-32", func(b *testing.B) {
			if s.t.profile.Vendor == hsm.VendorNSS {
				b.Skip("NSS answers the length query too small, so miekg/pkcs11 cannot encrypt with it")
			}
			b.ReportAllocs()
			for b.Loop() {
				iv := make([]byte, 12)
				_, _ = rand.Read(iv)
				p := pkcs11.NewGCMParams(iv, nil, 128)
				if err := ctx.EncryptInit(h, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, pkcs11.ObjectHandle(k.aes)); err != nil {
					b.Fatal(err)
				}
				if _, err := ctx.Encrypt(h, in); err != nil {
					b.Fatal(err)
				}
				p.Free()
			}
		})
	})
}

type benchKeys struct{ aes, ec, mac hsm.Handle }

func onTokens(b *testing.B, f func(*testing.B, *Session, benchKeys)) {
	for _, k := range []struct {
		name string
		cfg  func(testing.TB) Config
	}{{"softhsm", softHSM}, {"nss", nss}} {
		b.Run(k.name, func(b *testing.B) {
			s := keeper(b, openToken(b, k.cfg(b)))
			f(b, s, benchKeys{
				aes: generate(b, s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: aesMay}),
				ec:  generate(b, s, hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign}),
				mac: generate(b, s, hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign}),
			})
		})
	}
}
