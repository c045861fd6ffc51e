package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"

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
	headerSize = 21 // a multiple of 3: the header's base64 ends where the rest's begins

	purposeEncrypt = 1
	purposeWrap    = 2
)

var blobPrefix = []byte("kw1.")

// appendHeader appends the header of a blob made with v.
func appendHeader(b []byte, purpose byte, v *key.Version) []byte {
	b = append(b, purpose)
	b = append(b, v.KeyID[:]...)
	return binary.BigEndian.AppendUint32(b, v.Number)
}

// appendBlob appends the text form.
func appendBlob(b, header, sealed []byte) []byte {
	b = append(b, blobPrefix...)
	b = urlBase64.AppendEncode(b, header)
	return urlBase64.AppendEncode(b, sealed)
}

// blob is a parsed ciphertext.
type blob struct {
	purpose byte
	keyID   key.ID
	version uint32
	header  []byte
	sealed  []byte
}

// parseBlob reads the text form of the field called name into r's scratch. Text that is no blob at all is
// malformed; anything else that does not open, even for being too short, is told to nobody apart.
func (r *request) parseBlob(name string, text []byte) (blob, *Error) {
	rest, ok := bytes.CutPrefix(text, blobPrefix)
	if !ok {
		return blob{}, fail(Malformed, "%s: it does not begin with %q", name, blobPrefix)
	}
	raw, e := r.decode(urlBase64, []byte(name), rest, "not base64url without padding after its prefix")
	if e != nil {
		return blob{}, e
	}
	if len(raw) < headerSize+hsm.GCMIVSize+hsm.GCMTagSize {
		return blob{}, rejected(errors.New("too short to be whole"))
	}
	b := blob{purpose: raw[0], version: binary.BigEndian.Uint32(raw[17:]), header: raw[:headerSize:headerSize], sealed: raw[headerSize:]}
	copy(b.keyID[:], raw[1:])
	return b, nil
}
