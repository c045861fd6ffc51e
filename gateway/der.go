package gateway

import (
	"bytes"
	"encoding/asn1"
	"math/big"
)

// toDER writes r ‖ s as an ECDSA-Sig-Value (RFC 3279, 2.2.3).
func toDER(rs []byte) []byte {
	half := len(rs) / 2
	n := derIntLen(rs[:half]) + derIntLen(rs[half:])
	b := append(make([]byte, 0, n+3), 0x30)
	if n >= 128 {
		b = append(b, 0x81)
	}
	b = append(b, byte(n))
	return appendDERInt(appendDERInt(b, rs[:half]), rs[half:])
}

func trimZeros(v []byte) []byte {
	for len(v) > 1 && v[0] == 0 {
		v = v[1:]
	}
	return v
}

func derIntLen(v []byte) int {
	v = trimZeros(v)
	return 2 + len(v) + int(v[0]>>7)
}

func appendDERInt(b, v []byte) []byte {
	v = trimZeros(v)
	b = append(b, 0x02, byte(len(v)+int(v[0]>>7)))
	if v[0] >= 0x80 {
		b = append(b, 0)
	}
	return append(b, v...)
}

// fromDER turns an ECDSA-Sig-Value into r ‖ s, each of size bytes; nil when it is not a strict one.
func fromDER(der []byte, size int) []byte {
	var sig struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &sig)
	if err != nil || len(rest) != 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 8*size || sig.S.BitLen() > 8*size {
		return nil
	}
	rs := make([]byte, 2*size)
	sig.R.FillBytes(rs[:size])
	sig.S.FillBytes(rs[size:])
	// Only the one right encoding is accepted, so that a signature cannot be written in two ways.
	if !bytes.Equal(toDER(rs), der) {
		return nil
	}
	return rs
}
