package gateway

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// Project Wycheproof's ECDSA signatures in DER, most of which are wrong in their encoding, as a verify request takes them.
// The other forms of signatures are run in package hsm.
func TestWycheproofECDSAInDER(t *testing.T) {
	n := 0
	for _, v := range hsmtest.Vectors(t, "ecdsa_secp256r1_sha256_test.json") {
		n++
		pub, err := x509.ParsePKIXPublicKey(v.PublicKey)
		if err != nil {
			t.Fatalf("vector %d: %v", v.ID, err)
		}
		d := sha256.Sum256(v.Msg)
		rs := fromDER(v.Sig, 32)
		good := rs != nil && hsm.Verify(pub, hsm.Mechanism{Type: hsm.ECDSA}, d[:], rs) == nil
		if good != (v.Result == "valid") {
			t.Errorf("vector %d (%s), which is %s: verified %t", v.ID, v.Comment, v.Result, good)
		}
	}
	if n < 480 {
		t.Errorf("only %d vectors ran", n)
	}
}
