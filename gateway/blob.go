package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"strings"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// A self-describing ciphertext is "kw1." and, in base64url without padding, a header and
// what the token made: IV ‖ ciphertext ‖ tag.
//
//	offset 0   1 byte    purpose: 1 encrypt, 2 wrap
//	offset 1   16 bytes  the key's ID
//	offset 17  4 bytes   the version, big endian
//
// The header stands before the caller's additional data in the AAD, and is of fixed
// length, so no two pairs of header and data give the same AAD.
const (
	blobPrefix = "kw1."
	headerSize = 21

	purposeEncrypt = 1
	purposeWrap    = 2
)

// appendHeader appends the header of a blob made with v.
func appendHeader(b []byte, purpose byte, v *key.Version) []byte {
	b = append(b, purpose)
	b = append(b, v.KeyID[:]...)
	return binary.BigEndian.AppendUint32(b, v.Number)
}

// appendBlob appends the text form.
func appendBlob(b, header, sealed []byte) []byte {
	raw := append(append(make([]byte, 0, len(header)+len(sealed)), header...), sealed...)
	b = append(b, blobPrefix...)
	return base64.RawURLEncoding.AppendEncode(b, raw)
}

// blob is a parsed ciphertext.
type blob struct {
	purpose byte
	keyID   key.ID
	version uint32
	header  []byte
	sealed  []byte
}

// parseBlob reads the text form. The error is for the client's eyes: text that is no blob at all is
// malformed; whether a blob opens is the token's to say.
func parseBlob(name, text string) (blob, *Error) {
	rest, ok := strings.CutPrefix(text, blobPrefix)
	if !ok {
		return blob{}, fail(Malformed, "%s: it does not begin with %q", name, blobPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil {
		return blob{}, fail(Malformed, "%s: not base64url without padding after %q", name, blobPrefix)
	}
	if len(raw) < headerSize+hsm.GCMIVSize+hsm.GCMTagSize {
		return blob{}, fail(Malformed, "%s: too short to be whole", name)
	}
	b := blob{purpose: raw[0], version: binary.BigEndian.Uint32(raw[17:]), header: raw[:headerSize:headerSize], sealed: raw[headerSize:]}
	copy(b.keyID[:], raw[1:])
	return b, nil
}
