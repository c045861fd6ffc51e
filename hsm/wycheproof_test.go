package hsm_test

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// Every signature vector of Project Wycheproof that is in Verify's form. Those of ECDSA in DER are run where DER is read, in package gateway.
func TestVerifyWycheproof(t *testing.T) {
	f := func(file string, m hsm.Mechanism, least int) {
		t.Helper()
		t.Run(file, func(t *testing.T) {
			n := 0
			for _, v := range hsmtest.Vectors(t, file) {
				n++
				pub, err := x509.ParsePKIXPublicKey(v.PublicKey)
				if err != nil {
					t.Fatalf("vector %d: %v", v.ID, err)
				}
				in := []byte(v.Msg)
				if m.Type != hsm.EDDSA {
					d := sha256.Sum256(in)
					in = d[:]
				}
				err = hsm.Verify(pub, m, in, v.Sig)
				if v.Result == "valid" && err != nil || v.Result == "invalid" && err != hsm.ErrSignature {
					t.Errorf("vector %d (%s), which is %s: %v", v.ID, v.Comment, v.Result, err)
				}
			}
			if n < least {
				t.Errorf("only %d vectors ran", n)
			}
		})
	}
	f("ecdsa_secp256r1_sha256_p1363_test.json", hsm.Mechanism{Type: hsm.ECDSA}, 260)
	f("ed25519_test.json", hsm.Mechanism{Type: hsm.EDDSA}, 150)
	f("rsa_signature_2048_sha256_test.json", hsm.Mechanism{Type: hsm.RSAPKCS, Hash: hsm.SHA256}, 250)
	f("rsa_pss_2048_sha256_mgf1_32_test.json", hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: hsm.SHA256}, 100)
}
