package hsmtest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// What follows is written from RFC 3394, RFC 5649 and RFC 4493 for the suite alone, in the form in which these
// texts define the functions, so that no driver is judged by its own code.

var errBlob = errors.New("the blob does not open")

// keyWrap is the wrapping process of RFC 3394, 2.2.1, with the initial value a.
func keyWrap(kek, a, in []byte) []byte {
	b := newAES(kek)
	n := len(in) / 8
	r := make([][]byte, n+1)
	r[0] = bytes.Clone(a)
	for i := 1; i <= n; i++ {
		r[i] = bytes.Clone(in[8*(i-1) : 8*i])
	}
	for t := 1; t <= 6*n; t++ {
		block := append(bytes.Clone(r[0]), r[1]...)
		b.Encrypt(block, block)
		copy(r[1:], r[2:]) // every register moves down by one
		r[n] = block[8:]
		r[0] = binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(block)^uint64(t))
	}
	return bytes.Join(r, nil)
}

// keyUnwrap is the inverse, of 2.2.2; it returns the initial value without looking at it.
func keyUnwrap(kek, blob []byte) (a, out []byte) {
	b := newAES(kek)
	n := len(blob)/8 - 1
	r := make([][]byte, n+1)
	for i := range r {
		r[i] = bytes.Clone(blob[8*i : 8*i+8])
	}
	for t := 6 * n; t >= 1; t-- {
		block := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(r[0])^uint64(t))
		block = append(block, r[n]...)
		b.Decrypt(block, block)
		copy(r[2:], r[1:n])
		r[0], r[1] = block[:8], block[8:]
	}
	return r[0], bytes.Join(r[1:], nil)
}

var kwIV = bytes.Repeat([]byte{0xA6}, 8)

// WrapKW wraps in, a multiple of 8 bytes from 16 on, after RFC 3394.
func WrapKW(kek, in []byte) []byte { return keyWrap(kek, kwIV, in) }

// UnwrapKW opens a blob of WrapKW.
func UnwrapKW(kek, blob []byte) ([]byte, error) {
	if len(blob)%8 != 0 || len(blob) < 24 {
		return nil, errBlob
	}
	a, out := keyUnwrap(kek, blob)
	if !bytes.Equal(a, kwIV) {
		return nil, errBlob
	}
	return out, nil
}

// WrapKWP wraps in, of any length but 0, after RFC 5649.
func WrapKWP(kek, in []byte) []byte {
	a := binary.BigEndian.AppendUint32([]byte{0xA6, 0x59, 0x59, 0xA6}, uint32(len(in)))
	padded := Padded(in)
	if len(padded) == 8 {
		block := append(a, padded...)
		newAES(kek).Encrypt(block, block)
		return block
	}
	return keyWrap(kek, a, padded)
}

// UnwrapKWP opens a blob of WrapKWP.
func UnwrapKWP(kek, blob []byte) ([]byte, error) {
	if len(blob)%8 != 0 || len(blob) < 16 {
		return nil, errBlob
	}
	var a, out []byte
	if len(blob) == 16 {
		out = make([]byte, 16)
		newAES(kek).Decrypt(out, blob)
		a, out = out[:8], out[8:]
	} else {
		a, out = keyUnwrap(kek, blob)
	}
	n := int(binary.BigEndian.Uint32(a[4:]))
	if !bytes.Equal(a[:4], []byte{0xA6, 0x59, 0x59, 0xA6}) || n > len(out) || n <= len(out)-8 || len(bytes.Trim(out[n:], "\x00")) != 0 {
		return nil, errBlob
	}
	return out[:n], nil
}

// Padded is b with zeros up to a multiple of 8.
func Padded(b []byte) []byte { return append(bytes.Clone(b), make([]byte, (8-len(b)%8)%8)...) }

func newAES(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the suite's own key
	}
	return b
}

// cmac is AES-CMAC (RFC 4493, 2.4).
func cmac(key, msg []byte) []byte {
	b := newAES(key)
	zero := make([]byte, 16)
	b.Encrypt(zero, zero)
	k1 := twice(zero)
	last := twice(k1) // for a message that ends within a block
	whole := len(msg) > 0 && len(msg)%16 == 0
	padded := bytes.Clone(msg)
	if whole {
		last = k1
	} else {
		padded = append(padded, 0x80)
		padded = append(padded, make([]byte, (16-len(padded)%16)%16)...)
	}
	for i := range 16 {
		padded[len(padded)-16+i] ^= last[i]
	}
	// What is left is CBC-MAC, which is the last block of CBC.
	cipher.NewCBCEncrypter(b, make([]byte, 16)).CryptBlocks(padded, padded) //nolint:gosec // CBC-MAC begins with zeros
	return padded[len(padded)-16:]
}

// twice multiplies by x in the field of CMAC.
func twice(v []byte) []byte {
	hi, lo := binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	out := binary.BigEndian.AppendUint64(nil, hi<<1|lo>>63)
	out = binary.BigEndian.AppendUint64(out, lo<<1)
	if hi>>63 == 1 {
		out[15] ^= 0x87
	}
	return out
}
