package pkcs11

import (
	"strings"

	"keyway/hsm"
)

// Profile says what a vendor's tokens do differently, and how much they take.
// The zero value is a token that follows the standard and reports its limits.
type Profile struct {
	Vendor hsm.Vendor
	// Manufacturers, Models and Libraries choose the profile: the first one of
	// which any is contained, without regard to case, in what the token or the library says it is.
	Manufacturers, Models, Libraries []string

	// Broken are mechanisms the token lists but does not do as the standard says.
	Broken []hsm.MechanismType
	// OAEPHashes are the hashes RSA OAEP works with, strongest first; nil: all of SHA-2 and SHA-1.
	OAEPHashes []hsm.Hash
	// MaxSessions caps what the token reports; 0: no cap.
	MaxSessions int
	// OpenPerSecond is how fast sessions may be opened; 0: no limit.
	OpenPerSecond int
	// MaxObjects is how many session objects there may be; 0: not known.
	MaxObjects int

	// TokenIV: the token writes the IV of AES-GCM itself and wants zeros.
	TokenIV bool
	// LargestSecret is the length in bytes of the longest secret that C_UnwrapKey makes; longer material is
	// unwrapped by C_Decrypt, for which the key must be allowed to decrypt. 0: no limit.
	LargestSecret int
	// WrapsAnything: C_WrapKey wraps objects whose CKA_EXTRACTABLE is false, so it is looked at here first.
	WrapsAnything bool
	// ClearWrap are key types that the token can neither wrap nor unwrap. Their clear value passes through
	// this process instead, and those that are Extractable are not sensitive. Only for software tokens,
	// which keep their keys in this process anyway.
	ClearWrap []hsm.KeyType
	// ECNeedsPoint: a private EC key is made only with its public point, which is NSS's own attribute and which C_UnwrapKey
	// does not take from the blob, so the blob is opened in this process. Only for software tokens.
	ECNeedsPoint bool
	// WrapWholeOnly: AES_KEY_WRAP refuses private keys whose PKCS#8 is no multiple of 8 bytes long instead of padding
	// them. They are padded in this process instead; only for software tokens, which keep their keys there anyway.
	WrapWholeOnly bool
	// TrustsKeyTypes: a mechanism is not kept from a key of another type, which ends the process or computes something, so
	// the type is looked at here first.
	TrustsKeyTypes bool
	// SerialGenerate: generating keys in several threads at once fails.
	SerialGenerate bool
	// FindAlone: finding objects while others are made or destroyed fails.
	FindAlone bool
}

var profiles = []Profile{
	{
		// Measured with 2.6.1. Its 0x210A pads with zeros before RFC 5649 and so loses the length.
		// OAEP knows SHA-1 only. RSA_PKCS_PSS with a key that is no RSA key is a SIGSEGV. Key generation races (SoftHSMv2 issues 485, 573)
		// and so does finding (576); both are fixed in 2.7.0.
		Vendor: hsm.VendorSoftHSM, Manufacturers: []string{"SoftHSM"}, Models: []string{"SoftHSM"},
		Broken: []hsm.MechanismType{0x210A}, OAEPHashes: []hsm.Hash{hsm.SHA1}, SerialGenerate: true, FindAlone: true,
		ClearWrap: []hsm.KeyType{hsm.KeyEd25519}, TrustsKeyTypes: true,
	},
	{
		// Measured with softokn 3.87. C_WrapKey does not look at CKA_EXTRACTABLE, and its answer to
		// how long the output will be is too small, which nobody here asks. It computes an HMAC or CMAC with a private key.
		Vendor: hsm.VendorNSS, Manufacturers: []string{"Mozilla"}, Models: []string{"NSS 3"}, Libraries: []string{"NSS Internal"},
		LargestSecret: 256, WrapsAnything: true, ECNeedsPoint: true, WrapWholeOnly: true, TrustsKeyTypes: true,
	},
	{
		// Thales documents about 30 threads for the best rate; 128 leaves room for a group of four.
		Vendor: hsm.VendorLuna, Manufacturers: []string{"SafeNet", "Thales", "Gemalto"}, Models: []string{"LunaSA", "Luna "},
		MaxSessions: 128,
	},
	{Vendor: hsm.VendorNShield, Manufacturers: []string{"nCipher"}, Libraries: []string{"nCipher", "nShield"}},
	{
		// AWS documents 1,024 sessions for each application and 3,333 asymmetric keys on hsm2m clusters. The HSM chooses
		// the IV. Opening fast is answered with CKR_ARGUMENTS_BAD.
		Vendor: hsm.VendorCloudHSM, Manufacturers: []string{"Cavium", "Marvell", "CloudHSM"}, Libraries: []string{"CloudHSM"},
		MaxSessions: 1024, OpenPerSecond: 10, MaxObjects: 3000, TokenIV: true,
	},
	{
		// Yubico documents 16 sessions for the whole device, the login session included.
		Vendor: hsm.VendorYubiHSM, Manufacturers: []string{"Yubico"}, Models: []string{"YubiHSM"},
		MaxSessions: 16, OpenPerSecond: 10, MaxObjects: 128,
	},
	{
		// tpm2-pkcs11 holds one lock for each call, so sessions beyond a few only wait; it cannot wrap.
		Vendor: hsm.VendorTPM, Libraries: []string{"tpm2-pkcs11", "tpm2-software"}, Models: []string{"TPM"},
		MaxSessions: 4,
	},
	// The module spreads calls over its instances itself and its time limit is infinite unless configured.
	{Vendor: hsm.VendorNetHSM, Manufacturers: []string{"Nitrokey"}, Models: []string{"NetHSM"}, Libraries: []string{"Nitrokey"}},
}

// Profiles returns the table of vendor profiles. The caller owns the slice, not what its entries point to.
func Profiles() []Profile { return append([]Profile(nil), profiles...) }

// profileFor chooses by name when one is configured, else by what the token says it is.
func profileFor(v hsm.Vendor, manufacturer, model, library string) Profile {
	in := func(s string, parts []string) bool {
		for _, p := range parts {
			if strings.Contains(strings.ToLower(s), strings.ToLower(p)) {
				return true
			}
		}
		return false
	}
	for _, p := range profiles {
		if v == p.Vendor || v == "" && (in(manufacturer, p.Manufacturers) || in(model, p.Models) || in(library, p.Libraries)) {
			return p
		}
	}
	return Profile{Vendor: v}
}

// oaepHashes are the hashes OAEP may be used with on a token that has the mechanism.
func (p *Profile) oaepHashes() []hsm.Hash {
	if p.OAEPHashes != nil {
		return append([]hsm.Hash(nil), p.OAEPHashes...)
	}
	return []hsm.Hash{hsm.SHA512, hsm.SHA384, hsm.SHA256, hsm.SHA1}
}

// sessions is how many sessions Keyway may open besides the one that keeps the login, 0 when nothing limits them.
func (p *Profile) sessions(all, rw uint64) int {
	limit := p.MaxSessions
	for _, n := range []uint64{all, rw} {
		// 0 is CK_EFFECTIVELY_INFINITE and all ones CK_UNAVAILABLE_INFORMATION.
		if n > 0 && n < 1<<31 && (limit == 0 || int(n) < limit) {
			limit = int(n)
		}
	}
	if limit > 1 {
		limit--
	}
	return limit
}
