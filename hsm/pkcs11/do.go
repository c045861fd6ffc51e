//go:build cgo

package pkcs11

import (
	"crypto/rand"
	"slices"

	"keyway/hsm"
)

// outputs are the largest outputs of each signature mechanism.
var outputs = map[hsm.MechanismType]int{
	hsm.RSAPKCS: 512, hsm.RSAPKCSPSS: 512, hsm.ECDSA: 132, hsm.EDDSA: 64,
	hsm.SHA256HMAC: 32, hsm.SHA384HMAC: 48, hsm.SHA512HMAC: 64, hsm.AESCMAC: 16,
}

// exact reports whether the output always has the length in outputs. NSS cuts a MAC
// short when its buffer is; nobody may ever get such a one.
func exact(m hsm.MechanismType) bool {
	return m != hsm.RSAPKCS && m != hsm.RSAPKCSPSS && m != hsm.ECDSA
}

// mostRandom bounds OpRandom, so that one operation cannot hold a session for long.
const mostRandom = 1 << 20

// Do runs op in one crossing into C. It returns op.Err when the session is lost with it, else nil.
func (s *Session) Do(op *hsm.Op) error {
	if err := s.enter(); err != nil {
		op.Out, op.Err = op.Out[:0], err
		return err
	}
	op.Err = s.do(op)
	if op.Err != nil {
		// Nothing half done leaves here, least of all the start of a plaintext.
		clear(op.Out[:cap(op.Out)])
		op.Out = op.Out[:0]
	}
	lost := s.lost
	s.leave()
	if lost {
		return op.Err
	}
	return nil
}

func (s *Session) do(op *hsm.Op) error {
	if op.Kind == hsm.OpRandom {
		return s.randomBytes(op)
	}
	if err := s.usable(op.Mech.Type); err != nil {
		return err
	}
	switch op.Kind {
	case hsm.OpSign:
		return s.sign(op)
	case hsm.OpEncrypt:
		if op.Mech.Type == hsm.AESGCM {
			return s.encryptGCM(op)
		}
	case hsm.OpDecrypt:
		switch op.Mech.Type {
		case hsm.AESGCM:
			return s.decryptGCM(op)
		case hsm.RSAPKCSOAEP:
			return s.decryptOAEP(op)
		}
	case hsm.OpWrap:
		if op.Mech.Type == hsm.AESKeyWrap || op.Mech.Type == hsm.AESKeyWrapKWP {
			return s.wrapBytes(op)
		}
	case hsm.OpUnwrap:
		if op.Mech.Type == hsm.AESKeyWrap || op.Mech.Type == hsm.AESKeyWrapKWP {
			return s.unwrapBytes(op)
		}
	}
	return refused("cannot %s with %s", op.Kind, op.Mech.Type)
}

// room returns n bytes: the beginning of out if it has so many, else new memory.
func room(out []byte, n int) []byte {
	if cap(out) >= n {
		return out[:n]
	}
	return make([]byte, n)
}

// call runs one operation whose output follows the first at bytes of out (the IV, when encrypting), and
// returns the memory with the output in it. When the token asks for a larger buffer it
// gets one, once: the operation is still pending then, or, on tokens that end it
// nevertheless, is done again from the start with the same IV and input.
func (s *Session) call(fn hsm.Function, key hsm.Handle, o operation, iv, aad, in, out []byte, at int) ([]byte, error) {
	r := s.t.lib.run(s.h, key, o, iv, aad, in, out[at:])
	if r.code == hsm.BufferTooSmall && r.step == 1 {
		larger := make([]byte, at+max(4*len(out), 4096))
		if at > 0 {
			copy(larger, out[:at])
			iv = larger[:at]
		}
		clear(out)
		out, o.resume = larger, true
		r = s.t.lib.run(s.h, key, o, iv, aad, in, out[at:])
		if r.code == hsm.OperationNotInitialized {
			o.resume = false
			r = s.t.lib.run(s.h, key, o, iv, aad, in, out[at:])
		}
	}
	if r.code == hsm.OK && (r.n < 0 || r.n > len(out)-at) {
		r.code = hsm.GeneralError
	}
	if r.code != hsm.OK {
		clear(out)
		return nil, s.failed(r.code, fn)
	}
	// What a token left behind its answer may be plaintext or padding.
	clear(out[at+r.n:])
	return out[:at+r.n], nil
}

func (s *Session) sign(op *hsm.Op) error {
	most, known := outputs[op.Mech.Type]
	if !known {
		return refused("cannot sign with %s", op.Mech.Type)
	}
	in, h := op.In, op.Mech.Hash
	switch op.Mech.Type {
	case hsm.RSAPKCS, hsm.RSAPKCSPSS:
		if err := hsm.CheckDigest(h, in); err != nil {
			return err
		}
		if op.Mech.Type == hsm.RSAPKCS {
			n := copy(s.scratch[:], digestInfo[h])
			n += copy(s.scratch[n:], in)
			in = s.scratch[:n]
		}
	case hsm.ECDSA:
		if len(in) == 0 || len(in) > 66 {
			return refused("a digest of %d bytes cannot be signed", len(in))
		}
	}
	o := operation{kind: sign, mechanism: op.Mech.Type}
	if op.Mech.Type == hsm.RSAPKCSPSS {
		o.hash = hashOf(h)
	}
	out, err := s.call(hsm.FnSign, op.Key, o, nil, nil, in, room(op.Out, most), 0)
	if err != nil {
		return err
	}
	if exact(op.Mech.Type) && len(out) != most {
		return s.failed(hsm.GeneralError, hsm.FnSign)
	}
	op.Out = out
	return nil
}

func (s *Session) encryptGCM(op *hsm.Op) error {
	out := room(op.Out, hsm.GCMIVSize+len(op.In)+hsm.GCMTagSize)
	if s.t.profile.TokenIV {
		clear(out[:hsm.GCMIVSize])
	} else {
		_, _ = rand.Read(out[:hsm.GCMIVSize]) // never fails (crypto/rand documents it)
	}
	out, err := s.call(hsm.FnEncrypt, op.Key, operation{kind: encrypt, mechanism: hsm.AESGCM},
		out[:hsm.GCMIVSize], op.Mech.AAD, op.In, out, hsm.GCMIVSize)
	if err != nil {
		return err
	}
	if len(out) != hsm.GCMIVSize+len(op.In)+hsm.GCMTagSize {
		return s.failed(hsm.GeneralError, hsm.FnEncrypt)
	}
	op.Out = out
	return nil
}

func (s *Session) decryptGCM(op *hsm.Op) error {
	if len(op.In) < hsm.GCMIVSize+hsm.GCMTagSize {
		return refused("%d bytes are no AES-GCM ciphertext, which has at least %d", len(op.In), hsm.GCMIVSize+hsm.GCMTagSize)
	}
	iv, in := op.In[:hsm.GCMIVSize], op.In[hsm.GCMIVSize:]
	// As large as the ciphertext with its tag: some tokens check against that before they take the tag off.
	out, err := s.call(hsm.FnDecrypt, op.Key, operation{kind: decrypt, mechanism: hsm.AESGCM}, iv, op.Mech.AAD, in, room(op.Out, len(in)), 0)
	if err == nil {
		op.Out = out
	}
	return err
}

// checkOAEP refuses hashes that the token's RSA OAEP does not take.
func (s *Session) checkOAEP(h hsm.Hash) error {
	if slices.Contains(s.t.info.OAEPHashes, h) {
		return nil
	}
	if h.Size() == 0 {
		return refused("RSA OAEP needs a hash")
	}
	return unsupportedHash(h)
}

func (s *Session) decryptOAEP(op *hsm.Op) error {
	if err := s.checkOAEP(op.Mech.Hash); err != nil {
		return err
	}
	if err := checkBlob(hsm.RSAPKCSOAEP, len(op.In)); err != nil {
		return err
	}
	o := operation{kind: decrypt, mechanism: hsm.RSAPKCSOAEP, hash: hashOf(op.Mech.Hash)}
	out, err := s.call(hsm.FnDecrypt, op.Key, o, nil, nil, op.In, room(op.Out, len(op.In)), 0)
	if err == nil {
		op.Out = out
	}
	return err
}

func (s *Session) randomBytes(op *hsm.Op) error {
	if op.Len <= 0 || op.Len > mostRandom {
		return refused("%d random bytes: ask for 1 to %d", op.Len, mostRandom)
	}
	out := room(op.Out, op.Len)
	if r := s.t.lib.random(s.h, out); r.code != hsm.OK {
		return s.failed(r.code, hsm.FnRandom)
	}
	op.Out = out
	return nil
}
