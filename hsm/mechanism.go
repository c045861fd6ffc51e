package hsm

import (
	"crypto"
	"fmt"

	_ "crypto/sha1" // RSA OAEP of tokens that know no other hash
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// MechanismType is a CK_MECHANISM_TYPE of PKCS#11 3.1.
type MechanismType uint32

// The mechanisms Keyway uses.
const (
	RSAPKCSKeyPairGen MechanismType = 0x00000000
	RSAPKCS           MechanismType = 0x00000001
	RSAPKCSOAEP       MechanismType = 0x00000009
	RSAPKCSPSS        MechanismType = 0x0000000D
	SHA256HMAC        MechanismType = 0x00000251
	SHA384HMAC        MechanismType = 0x00000261
	SHA512HMAC        MechanismType = 0x00000271
	GenericSecretGen  MechanismType = 0x00000350
	ECKeyPairGen      MechanismType = 0x00001040
	ECDSA             MechanismType = 0x00001041
	ECEdwardsKeyPair  MechanismType = 0x00001055
	EDDSA             MechanismType = 0x00001057
	AESKeyGen         MechanismType = 0x00001080
	AESGCM            MechanismType = 0x00001087
	AESCMAC           MechanismType = 0x0000108A
	AESKeyWrap        MechanismType = 0x00002109
	AESKeyWrapKWP     MechanismType = 0x0000210B
)

var mechanismNames = map[MechanismType]string{
	RSAPKCSKeyPairGen: "CKM_RSA_PKCS_KEY_PAIR_GEN", RSAPKCS: "CKM_RSA_PKCS", RSAPKCSOAEP: "CKM_RSA_PKCS_OAEP",
	RSAPKCSPSS: "CKM_RSA_PKCS_PSS", SHA256HMAC: "CKM_SHA256_HMAC", SHA384HMAC: "CKM_SHA384_HMAC",
	SHA512HMAC: "CKM_SHA512_HMAC", GenericSecretGen: "CKM_GENERIC_SECRET_KEY_GEN", ECKeyPairGen: "CKM_EC_KEY_PAIR_GEN",
	ECDSA: "CKM_ECDSA", ECEdwardsKeyPair: "CKM_EC_EDWARDS_KEY_PAIR_GEN", EDDSA: "CKM_EDDSA", AESKeyGen: "CKM_AES_KEY_GEN",
	AESGCM: "CKM_AES_GCM", AESCMAC: "CKM_AES_CMAC", AESKeyWrap: "CKM_AES_KEY_WRAP", AESKeyWrapKWP: "CKM_AES_KEY_WRAP_KWP",
}

// String returns the standard's name, or the number of a mechanism Keyway does not use.
func (m MechanismType) String() string {
	if n, ok := mechanismNames[m]; ok {
		return n
	}
	return fmt.Sprintf("CKM_0x%08X", uint32(m))
}

// KnownMechanisms returns every mechanism Keyway can use, in no order. The caller owns the slice.
func KnownMechanisms() []MechanismType {
	out := make([]MechanismType, 0, len(mechanismNames))
	for m := range mechanismNames {
		out = append(out, m)
	}
	return out
}

// Mechanism is a mechanism with its parameters. Unused ones are zero.
type Mechanism struct {
	Type MechanismType
	// Hash is the digest of RSA_PKCS, RSA_PKCS_PSS and RSA_PKCS_OAEP.
	Hash Hash
	// AAD is the additional authenticated data of AES_GCM.
	AAD []byte
}

// Hash names a digest in the API's spelling ("sha2-256"). The zero value is none.
type Hash uint8

// The digests. SHA1 is for RSA OAEP only.
const (
	SHA1 Hash = iota + 1
	SHA256
	SHA384
	SHA512
)

var hashes = [...]struct {
	name string
	h    crypto.Hash
}{SHA1: {"sha1", crypto.SHA1}, SHA256: {"sha2-256", crypto.SHA256}, SHA384: {"sha2-384", crypto.SHA384}, SHA512: {"sha2-512", crypto.SHA512}}

// String returns the API's spelling, "" for none.
func (h Hash) String() string {
	if int(h) < len(hashes) {
		return hashes[h].name
	}
	return ""
}

// Crypto returns the digest as Go's crypto package names it, 0 for none.
func (h Hash) Crypto() crypto.Hash {
	if int(h) < len(hashes) {
		return hashes[h].h
	}
	return 0
}

// Size returns the digest's length in bytes, 0 for none.
func (h Hash) Size() int {
	if c := h.Crypto(); c != 0 {
		return c.Size()
	}
	return 0
}

// ParseHash reads the API's spelling. The error names every known one.
func ParseHash(s string) (Hash, error) {
	for i, r := range hashes {
		if i > 0 && r.name == s {
			return Hash(i), nil
		}
	}
	return 0, fmt.Errorf("unknown hash %q: use sha2-256, sha2-384 or sha2-512", s)
}
