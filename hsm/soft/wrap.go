package soft

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"

	"keyway/hsm"
)

// kwIV is the initial value of RFC 3394, 2.2.3.1; kwpIV begins that of RFC 5649, 3.
var (
	kwIV  = [8]byte{0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6}
	kwpIV = [4]byte{0xA6, 0x59, 0x59, 0xA6}
)

// wrap appends in wrapped under o to dst.
func (o *object) wrap(dst []byte, m hsm.Mechanism, in []byte) ([]byte, error) {
	if o.spec.May&hsm.MayWrap == 0 {
		return nil, fault(hsm.KeyFunctionNotPermitted, hsm.FnWrap)
	}
	if m.Type == hsm.RSAPKCSOAEP {
		pub, ok := o.public.(*rsa.PublicKey)
		if !ok {
			return nil, fault(hsm.WrappingTypeInconsistent, hsm.FnWrap)
		}
		out, err := rsa.EncryptOAEP(m.Hash.Crypto().New(), rand.Reader, pub, in, nil)
		if err != nil {
			return nil, fault(hsm.DataLenRange, hsm.FnWrap)
		}
		return append(dst, out...), nil
	}
	if o.block == nil {
		return nil, fault(hsm.WrappingTypeInconsistent, hsm.FnWrap)
	}
	if m.Type == hsm.AESKeyWrap {
		if len(in) < 16 || len(in)%8 != 0 { // a secret of WrapKey; OpWrap was looked at before
			return nil, input("AES key wrap takes multiples of 8 bytes from 16 on, not %d", len(in))
		}
		return kwSeal(dst, o.block, kwIV, in), nil
	}
	var iv [8]byte
	copy(iv[:], kwpIV[:])
	binary.BigEndian.PutUint32(iv[4:], uint32(len(in)))
	padded := append(append(make([]byte, 0, len(in)+7), in...), make([]byte, (8-len(in)%8)%8)...)
	defer clear(padded)
	if len(padded) == 8 {
		block := append(iv[:], padded...)
		o.block.Encrypt(block, block)
		return append(dst, block...), nil
	}
	return kwSeal(dst, o.block, iv, padded), nil
}

// unwrap appends what wrap wrapped to dst. Every blob that does not open fails alike.
func (o *object) unwrap(dst []byte, m hsm.Mechanism, in []byte) ([]byte, error) {
	if o.spec.May&hsm.MayUnwrap == 0 {
		return nil, fault(hsm.KeyFunctionNotPermitted, hsm.FnUnwrap)
	}
	bad := fault(hsm.WrappedKeyInvalid, hsm.FnUnwrap)
	if m.Type == hsm.RSAPKCSOAEP {
		k, ok := o.signer.(*rsa.PrivateKey)
		if !ok {
			return nil, fault(hsm.WrappingTypeInconsistent, hsm.FnUnwrap)
		}
		out, err := rsa.DecryptOAEP(m.Hash.Crypto().New(), nil, k, in, nil)
		if err != nil {
			return nil, bad
		}
		return append(dst, out...), nil
	}
	if o.block == nil {
		return nil, fault(hsm.WrappingTypeInconsistent, hsm.FnUnwrap)
	}
	var iv [8]byte
	at := len(dst)
	if len(in) == 16 {
		var block [16]byte
		o.block.Decrypt(block[:], in)
		copy(iv[:], block[:])
		dst = append(dst, block[8:]...)
	} else {
		dst, iv = kwOpen(dst, o.block, in)
	}
	out := dst[at:]
	if m.Type == hsm.AESKeyWrap {
		if subtle.ConstantTimeCompare(iv[:], kwIV[:]) == 1 {
			return dst, nil
		}
		clear(out)
		return nil, bad
	}
	n := int(binary.BigEndian.Uint32(iv[4:]))
	ok := subtle.ConstantTimeCompare(iv[:4], kwpIV[:]) == 1 && n <= len(out) && n > len(out)-8
	if ok {
		for _, b := range out[n:] {
			ok = ok && b == 0
		}
	}
	if !ok {
		clear(out)
		return nil, bad
	}
	return dst[:at+n], nil
}

// kwSeal is the wrapping process W of RFC 3394, 2.2.1, index form.
func kwSeal(dst []byte, b cipher.Block, iv [8]byte, in []byte) []byte {
	at := len(dst)
	dst = append(append(dst, iv[:]...), in...)
	out := dst[at:]
	n := len(in) / 8
	var x [16]byte
	copy(x[:8], iv[:])
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(x[8:], out[8*i:])
			b.Encrypt(x[:], x[:])
			copy(out[8*i:], x[8:])
			t := binary.BigEndian.Uint64(x[:8]) ^ uint64(n*j+i)
			binary.BigEndian.PutUint64(x[:8], t)
		}
	}
	copy(out, x[:8])
	clear(x[:])
	return dst
}

// kwOpen is the unwrapping process of RFC 3394, 2.2.2, without the check of the initial value, which it returns.
func kwOpen(dst []byte, b cipher.Block, in []byte) ([]byte, [8]byte) {
	at := len(dst)
	dst = append(dst, in[8:]...)
	out := dst[at:]
	n := len(out) / 8
	var x [16]byte
	copy(x[:8], in[:8])
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			t := binary.BigEndian.Uint64(x[:8]) ^ uint64(n*j+i)
			binary.BigEndian.PutUint64(x[:8], t)
			copy(x[8:], out[8*(i-1):])
			b.Decrypt(x[:], x[:])
			copy(out[8*(i-1):], x[8:])
		}
	}
	var iv [8]byte
	copy(iv[:], x[:8])
	clear(x[:])
	return dst, iv
}
