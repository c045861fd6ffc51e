package soft

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"math/big"

	"keyway/hsm"
)

// grow returns b with length n, in place where it fits.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

var needs = map[hsm.OpKind]hsm.Permission{
	hsm.OpSign: hsm.MaySign, hsm.OpEncrypt: hsm.MayEncrypt, hsm.OpDecrypt: hsm.MayDecrypt, hsm.OpWrap: hsm.MayWrap, hsm.OpUnwrap: hsm.MayUnwrap,
}

// do runs an operation that makes sense with o.
func (o *object) do(op *hsm.Op) (err error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	f := functionOf(op.Kind)
	if o.gone {
		return fault(hsm.KeyHandleInvalid, f)
	}
	if o.spec.May&needs[op.Kind] == 0 {
		return fault(hsm.KeyFunctionNotPermitted, f)
	}
	switch op.Kind {
	case hsm.OpSign:
		return o.sign(op)
	case hsm.OpEncrypt:
		if o.gcm == nil {
			return fault(hsm.KeyTypeInconsistent, f)
		}
		op.Out = grow(op.Out, hsm.GCMIVSize)
		_, _ = rand.Read(op.Out)
		op.Out = o.gcm.Seal(op.Out, op.Out[:hsm.GCMIVSize], op.In, op.Mech.AAD)
		return nil
	case hsm.OpDecrypt:
		return o.decrypt(op)
	case hsm.OpWrap:
		op.Out, err = o.wrap(op.Out, op.Mech, op.In)
		return err
	}
	op.Out, err = o.unwrap(op.Out, op.Mech, op.In)
	return err
}

func (o *object) decrypt(op *hsm.Op) error {
	if op.Mech.Type == hsm.AESGCM {
		if o.gcm == nil {
			return fault(hsm.KeyTypeInconsistent, hsm.FnDecrypt)
		}
		out, err := o.gcm.Open(op.Out, op.In[:hsm.GCMIVSize], op.In[hsm.GCMIVSize:], op.Mech.AAD)
		if err != nil {
			return fault(hsm.EncryptedDataInvalid, hsm.FnDecrypt)
		}
		op.Out = out
		return nil
	}
	k, ok := o.signer.(*rsa.PrivateKey)
	if !ok {
		return fault(hsm.KeyTypeInconsistent, hsm.FnDecrypt)
	}
	out, err := rsa.DecryptOAEP(op.Mech.Hash.Crypto().New(), nil, k, op.In, nil)
	if err != nil {
		return fault(hsm.EncryptedDataInvalid, hsm.FnDecrypt)
	}
	op.Out = append(op.Out, out...)
	clear(out)
	return nil
}

func (o *object) sign(op *hsm.Op) error {
	var h func() hash.Hash
	switch op.Mech.Type {
	case hsm.SHA256HMAC:
		h = sha256.New
	case hsm.SHA384HMAC:
		h = sha512.New384
	case hsm.SHA512HMAC:
		h = sha512.New
	case hsm.AESCMAC:
		if o.block == nil {
			return fault(hsm.KeyTypeInconsistent, hsm.FnSign)
		}
		op.Out = append(op.Out, cmac(o.block, op.In)...)
		return nil
	default:
		return o.signPrivate(op)
	}
	if o.spec.Type != hsm.KeyGeneric {
		return fault(hsm.KeyTypeInconsistent, hsm.FnSign)
	}
	m := hmac.New(h, o.secret)
	m.Write(op.In)
	op.Out = m.Sum(op.Out)
	return nil
}

func (o *object) signPrivate(op *hsm.Op) error {
	var sig []byte
	var err error
	switch k := o.signer.(type) {
	case *rsa.PrivateKey:
		switch op.Mech.Type {
		case hsm.RSAPKCS:
			sig, err = rsa.SignPKCS1v15(rand.Reader, k, op.Mech.Hash.Crypto(), op.In)
		case hsm.RSAPKCSPSS:
			sig, err = rsa.SignPSS(rand.Reader, k, op.Mech.Hash.Crypto(), op.In, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		default:
			return fault(hsm.KeyTypeInconsistent, hsm.FnSign)
		}
	case *ecdsa.PrivateKey:
		n := (k.Params().N.BitLen() + 7) / 8
		if op.Mech.Type != hsm.ECDSA {
			return fault(hsm.KeyTypeInconsistent, hsm.FnSign)
		}
		if len(op.In) > n {
			return fault(hsm.DataLenRange, hsm.FnSign)
		}
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, k, op.In); err == nil {
			sig = make([]byte, 2*n)
			r.FillBytes(sig[:n])
			s.FillBytes(sig[n:])
		}
	case crypto.Signer: // Ed25519
		if op.Mech.Type != hsm.EDDSA {
			return fault(hsm.KeyTypeInconsistent, hsm.FnSign)
		}
		sig, err = k.Sign(nil, op.In, crypto.Hash(0))
	default:
		return fault(hsm.KeyTypeInconsistent, hsm.FnSign)
	}
	if err != nil {
		return fault(hsm.FunctionFailed, hsm.FnSign)
	}
	op.Out = append(op.Out, sig...)
	return nil
}

// cmac is AES-CMAC (RFC 4493, NIST SP 800-38B).
func cmac(b cipher.Block, msg []byte) []byte {
	double := func(v []byte) {
		carry := v[0] >> 7
		for i := range len(v) - 1 {
			v[i] = v[i]<<1 | v[i+1]>>7
		}
		v[len(v)-1] = v[len(v)-1]<<1 ^ carry*0x87
	}
	var k, x [aes.BlockSize]byte
	b.Encrypt(k[:], k[:])
	double(k[:])
	for len(msg) > aes.BlockSize {
		for i := range x {
			x[i] ^= msg[i]
		}
		b.Encrypt(x[:], x[:])
		msg = msg[aes.BlockSize:]
	}
	if len(msg) < aes.BlockSize {
		double(k[:])
		x[len(msg)] ^= 0x80
	}
	for i, c := range msg {
		x[i] ^= c
	}
	for i := range x {
		x[i] ^= k[i]
	}
	b.Encrypt(x[:], x[:])
	return x[:]
}
