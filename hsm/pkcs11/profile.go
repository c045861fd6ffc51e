package pkcs11

import (
	"strings"
	"time"

	"keyway/hsm"
)

// Profile says what a vendor's tokens do differently, and how much they take. The zero value is a token that follows the standard
// and reports its limits. The files in profiles hold those of known vendors, with the source of each figure.
type Profile struct {
	// Vendor is by what name the token's codes are classified, and a profile is chosen in a [Config].
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
	// Concurrency is how many operations at once give the best rate; 0: not known.
	Concurrency int
	// IdleTimeout is how long a session may be silent before the token closes it; 0: for ever.
	IdleTimeout time.Duration
	// SlowestCall is how long a call may take on a token that is well, in a fail-over of its own; 0: not known.
	SlowestCall time.Duration
	// LargestMessage is the longest plaintext of AES-GCM in bytes; 0: no limit.
	LargestMessage int

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

// profileFor chooses by name when one is configured, else by what the token says it is.
func profileFor(v hsm.Vendor, manufacturer, model, library string) (Profile, error) {
	all, err := Profiles()
	if err != nil {
		return Profile{}, err
	}
	in := func(s string, parts []string) bool {
		for _, p := range parts {
			if strings.Contains(strings.ToLower(s), strings.ToLower(p)) {
				return true
			}
		}
		return false
	}
	for _, p := range all {
		if v == p.Vendor || v == "" && (in(manufacturer, p.Manufacturers) || in(model, p.Models) || in(library, p.Libraries)) {
			return p, nil
		}
	}
	return Profile{Vendor: v}, nil
}

// profile is the one that the Config names by its file, else as profileFor has it.
func (c *Config) profile(manufacturer, model, library string) (Profile, error) {
	if c.Profile != "" {
		return ReadProfile(c.Profile)
	}
	return profileFor(c.Vendor, manufacturer, model, library)
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
