//go:build cgo

package pkcs11

import (
	"crypto/rand"
	"fmt"
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
	if op.Kind != hsm.OpRandom {
		if err := s.usable(op.Mech.Type); err != nil {
			return err
		}
	}
	if err := op.Check(); err != nil {
		return err
	}
	if op.Kind == hsm.OpRandom {
		return s.randomBytes(op)
	}
	if most := s.t.profile.LargestMessage; most > 0 && op.Mech.Type == hsm.AESGCM && len(op.In) > most+overhead[op.Kind] {
		return fmt.Errorf("%w: AES-GCM over more than %d bytes", hsm.ErrUnsupported, most)
	}
	if err := s.fits(op.Mech.Type, op.Key, functionOf[op.Kind]); err != nil {
		return err
	}
	switch op.Kind {
	case hsm.OpSign:
		return s.sign(op)
	case hsm.OpEncrypt:
		return s.encryptGCM(op)
	case hsm.OpDecrypt:
		if op.Mech.Type == hsm.AESGCM {
			return s.decryptGCM(op)
		}
		return s.decryptOAEP(op)
	case hsm.OpWrap:
		return s.wrapBytes(op)
	}
	return s.unwrapBytes(op)
}

// overhead is what an operation's input has beside the message.
var overhead = [...]int{hsm.OpEncrypt: 0, hsm.OpDecrypt: hsm.GCMIVSize + hsm.GCMTagSize}

// functionOf is the function that an operation begins with.
var functionOf = [...]hsm.Function{
	hsm.OpSign: hsm.FnSign, hsm.OpEncrypt: hsm.FnEncrypt, hsm.OpDecrypt: hsm.FnDecrypt, hsm.OpWrap: hsm.FnWrap, hsm.OpUnwrap: hsm.FnUnwrap,
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
	if !r.fits(out[at:]) {
		clear(out)
		return nil, s.failed(r.code, fn)
	}
	// What a token left behind its answer may be plaintext or padding.
	clear(out[at+r.n:])
	return out[:at+r.n], nil
}

func (s *Session) sign(op *hsm.Op) error {
	most := outputs[op.Mech.Type]
	in := op.In
	if op.Mech.Type == hsm.RSAPKCS {
		n := copy(s.scratch[:], digestInfo[op.Mech.Hash])
		n += copy(s.scratch[n:], in)
		in = s.scratch[:n]
	}
	o := operation{kind: sign, mechanism: op.Mech.Type}
	if op.Mech.Type == hsm.RSAPKCSPSS {
		o.hash = hashOf(op.Mech.Hash)
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
	return unsupportedHash(h)
}

func (s *Session) decryptOAEP(op *hsm.Op) error {
	if err := s.checkOAEP(op.Mech.Hash); err != nil {
		return err
	}
	o := operation{kind: decrypt, mechanism: hsm.RSAPKCSOAEP, hash: hashOf(op.Mech.Hash)}
	out, err := s.call(hsm.FnDecrypt, op.Key, o, nil, nil, op.In, room(op.Out, len(op.In)), 0)
	if err == nil {
		op.Out = out
	}
	return err
}

// mostRandom is what NIST SP 800-90A lets a generator give at once, in bytes; NSS refuses more.
const mostRandom = 1 << 16

func (s *Session) randomBytes(op *hsm.Op) error {
	out := room(op.Out, op.Len)
	for left := out; len(left) > 0; {
		n := min(len(left), mostRandom)
		if r := s.t.lib.random(s.h, left[:n]); r.code != hsm.OK {
			return s.failed(r.code, hsm.FnRandom)
		}
		left = left[n:]
	}
	op.Out = out
	return nil
}
