package pkcs11

import (
	"encoding/binary"
	"slices"

	"keyway/hsm"
)

// attribute is a CK_ATTRIBUTE_TYPE.
type attribute uint64

// The attributes Keyway sets or reads.
const (
	attrClass           attribute = 0x000
	attrToken           attribute = 0x001
	attrPrivate         attribute = 0x002
	attrLabel           attribute = 0x003
	attrValue           attribute = 0x011
	attrKeyType         attribute = 0x100
	attrID              attribute = 0x102
	attrSensitive       attribute = 0x103
	attrEncrypt         attribute = 0x104
	attrDecrypt         attribute = 0x105
	attrWrap            attribute = 0x106
	attrUnwrap          attribute = 0x107
	attrSign            attribute = 0x108
	attrVerify          attribute = 0x10A
	attrModulus         attribute = 0x120
	attrModulusBits     attribute = 0x121
	attrPublicExponent  attribute = 0x122
	attrPrivateExponent attribute = 0x123
	attrPrime1          attribute = 0x124
	attrPrime2          attribute = 0x125
	attrExponent1       attribute = 0x126
	attrExponent2       attribute = 0x127
	attrCoefficient     attribute = 0x128
	attrValueLen        attribute = 0x161
	attrExtractable     attribute = 0x162
	attrECParams        attribute = 0x180
	attrECPoint         attribute = 0x181
	// attrNSSDB is where NSS keeps the public point of a private EC key.
	attrNSSDB attribute = 0xD5A0DB00
)

// keyTypes are the CK_KEY_TYPE of each type.
var keyTypes = map[hsm.KeyType]uint64{
	hsm.KeyRSA: 0x00, hsm.KeyEC: 0x03, hsm.KeyGeneric: 0x10, hsm.KeyAES: 0x1F, hsm.KeyEd25519: 0x40,
}

// template is a packed list of attributes, as shim.h wants it. It may hold key material; wipe ends its use.
type template struct {
	packed []byte
	n      int
}

// newTemplate has room enough for an RSA-4096 private key, so that material is not left behind by growing.
func newTemplate() *template { return &template{packed: make([]byte, 0, 4096)} }

func (t *template) bytes(a attribute, v []byte) {
	padded := (len(v) + 7) / 8 * 8
	if need := len(t.packed) + 16 + padded; need > cap(t.packed) {
		old := t.packed
		t.packed = append(make([]byte, 0, 2*need), old...)
		clear(old)
	}
	t.packed = binary.NativeEndian.AppendUint64(t.packed, uint64(a))
	t.packed = binary.NativeEndian.AppendUint64(t.packed, uint64(len(v)))
	t.packed = append(t.packed, v...)
	for range padded - len(v) {
		t.packed = append(t.packed, 0)
	}
	t.n++
}

func (t *template) number(a attribute, v uint64) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], v)
	t.bytes(a, b[:])
}

func (t *template) flag(a attribute, v bool) {
	b := []byte{0}
	if v {
		b[0] = 1
	}
	t.bytes(a, b)
}

func (t *template) wipe() { clear(t.packed[:cap(t.packed)]) }

// template holds what every object of the Spec has in common, however it comes to be.
func (p *Profile) template(s hsm.Spec) *template {
	t := newTemplate()
	c := s.ObjectClass()
	t.number(attrClass, uint64(c))
	t.number(attrKeyType, keyTypes[s.Type])
	t.flag(attrToken, s.Token)
	t.flag(attrPrivate, c != hsm.ClassPublic)
	if len(s.ID) > 0 {
		t.bytes(attrID, s.ID)
	}
	if s.Label != "" {
		t.bytes(attrLabel, []byte(s.Label))
	}
	may := func(a attribute, p hsm.Permission) { t.flag(a, s.May&p != 0) }
	switch c {
	case hsm.ClassPublic:
		may(attrVerify, hsm.MayVerify)
		may(attrEncrypt, hsm.MayEncrypt)
		may(attrWrap, hsm.MayWrap)
		return t
	case hsm.ClassSecret:
		may(attrVerify, hsm.MayVerify)
		may(attrEncrypt, hsm.MayEncrypt)
		may(attrWrap, hsm.MayWrap)
	}
	may(attrSign, hsm.MaySign)
	may(attrDecrypt, hsm.MayDecrypt)
	may(attrUnwrap, hsm.MayUnwrap)
	t.flag(attrSensitive, !s.Extractable || !slices.Contains(p.ClearWrap, s.Type))
	t.flag(attrExtractable, s.Extractable)
	return t
}

// publicHalf is the Spec of the public object that belongs to the private object of s.
func publicHalf(s hsm.Spec) hsm.Spec {
	p := hsm.Spec{Class: hsm.ClassPublic, Type: s.Type, Bits: s.Bits, ID: s.ID, Label: s.Label, Token: s.Token}
	if s.May&hsm.MaySign != 0 {
		p.May |= hsm.MayVerify
	}
	if s.May&hsm.MayDecrypt != 0 {
		p.May |= hsm.MayEncrypt
	}
	if s.May&hsm.MayUnwrap != 0 {
		p.May |= hsm.MayWrap
	}
	return p
}
