package hsmtest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"

	"keyway/hsm"
)

// sample is an operation that succeeds, with what tells its result.
type sample struct {
	name  string
	op    hsm.Op
	size  int // of the result
	right func(out []byte) error
}

// samples has every kind of operation that the token can do.
func (t *tester) samples(s hsm.Keeper) []sample {
	t.Helper()
	var all []sample
	equal := func(want []byte) func([]byte) error {
		return func(out []byte) error {
			if !bytes.Equal(out, want) {
				return fmt.Errorf("got %x, want %x", out, want)
			}
			return nil
		}
	}
	for _, name := range []string{"AES-256", "HMAC-SHA-256", "HMAC-SHA-512", "EC-256", "EC-521", "Ed25519", "RSA-2048"} {
		x := t.specimen(name)
		if !x.known(t.info) {
			continue
		}
		op := hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: t.load(s, x.spec, x.material), In: x.input()}
		size := len(t.run(s, op))
		if x.public == nil {
			all = append(all, sample{name, op, size, equal(mac(x.mech.Type, x.material, op.In))})
		} else {
			all = append(all, sample{name, op, size, func(out []byte) error { return verify(x.public, x.mech, x.input(), out) }})
		}
	}
	h, raw := t.aes(s, 256, mayAll)
	clear := random(48)
	if t.info.Has(hsm.AESGCM) {
		m := hsm.Mechanism{Type: hsm.AESGCM, AAD: []byte("context")}
		all = append(all, sample{"encrypt", hsm.Op{Kind: hsm.OpEncrypt, Mech: m, Key: h, In: clear}, 48 + 28, func(out []byte) error {
			got, err := newGCM(raw).Open(nil, out[:12], out[12:], []byte("context"))
			return errors.Join(err, equal(clear)(got))
		}})
		iv := random(hsm.GCMIVSize)
		all = append(all, sample{"decrypt", hsm.Op{Kind: hsm.OpDecrypt, Mech: m, Key: h, In: newGCM(raw).Seal(iv, iv, clear, m.AAD)}, 48, equal(clear)})
	}
	for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} {
		if t.info.Has(m) {
			blob := wrapWith(m)(raw, clear)
			all = append(all, sample{"wrap " + m.String(), hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: m}, Key: h, In: clear}, len(blob), equal(blob)},
				sample{"unwrap " + m.String(), hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: m}, Key: h, In: blob}, 48, equal(clear)})
		}
	}
	if t.info.Has(hsm.RSAPKCSOAEP) {
		x := t.specimen("RSA-2048")
		x.spec.May = hsm.MayDecrypt
		hash := t.info.OAEPHashes[0]
		in, err := rsa.EncryptOAEP(hash.Crypto().New(), rand.Reader, x.public.(*rsa.PublicKey), clear, nil)
		if err != nil {
			t.Fatal(err)
		}
		op := hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hash}, Key: t.load(s, x.spec, x.material), In: in}
		all = append(all, sample{"OAEP", op, 48, equal(clear)})
	}
	return append(all, sample{"random", hsm.Op{Kind: hsm.OpRandom, Len: 40}, 40, func(out []byte) error {
		if len(out) != 40 || bytes.Count(out, []byte{0}) > 10 || bytes.Count(out, []byte{0x55}) > 10 {
			return fmt.Errorf("%x is not random", out)
		}
		return nil
	}})
}

// testBuffers: a result is in Out's memory or in new memory, never beyond Out's capacity nor in anybody else's; input stays the caller's.
func testBuffers(t *tester) {
	s := t.session()
	for _, x := range t.samples(s) {
		f := func(what string, out []byte) []byte {
			t.Helper()
			op := x.op
			op.In, op.Mech.AAD = bytes.Clone(x.op.In), bytes.Clone(x.op.Mech.AAD)
			op.Out = out
			got := t.run(s, op)
			if err := x.right(got); err != nil || len(got) != x.size {
				t.Fatalf("%s: %s: %d bytes, %v", x.name, what, len(got), err)
			}
			if !bytes.Equal(op.In, x.op.In) || !bytes.Equal(op.Mech.AAD, x.op.Mech.AAD) {
				t.Errorf("%s: %s: the input was changed", x.name, what)
			}
			kept := bytes.Clone(got)
			for i := range op.In {
				op.In[i] = 0xEE
			}
			for i := range op.Mech.AAD {
				op.Mech.AAD[i] = 0xEE
			}
			t.run(s, hsm.Op{Kind: hsm.OpRandom, Len: 300}) // somebody else's turn
			if !bytes.Equal(got, kept) {
				t.Errorf("%s: %s: the result changed when the input did", x.name, what)
			}
			return got
		}
		f("no Out", nil)
		f("an empty Out", []byte{})
		roomy := bytes.Repeat([]byte{0x55}, x.size+600)
		for _, n := range []int{0, 3, len(roomy)} { // what stands in Out already is of no account
			if got := f("a roomy Out", roomy[:n]); &got[0] != &roomy[0] {
				t.Errorf("%s: a roomy Out of length %d was not used", x.name, n)
			}
		}
		for _, room := range []int{1, 8, x.size - 1, x.size, x.size + 1, x.size + 8, x.size + 20} {
			memory := bytes.Repeat([]byte{0x55}, x.size+100)
			f(fmt.Sprintf("an Out of %d bytes for %d", room, x.size), memory[:0:room])
			if !bytes.Equal(memory[room:], bytes.Repeat([]byte{0x55}, len(memory)-room)) {
				t.Fatalf("%s: bytes beyond an Out of %d were written", x.name, room)
			}
		}
		op := x.op
		for range 3 { // as the pool reuses an operation
			op.Out = t.run(s, op)
			if err := x.right(op.Out); err != nil {
				t.Errorf("%s: used again: %v", x.name, err)
			}
		}
	}
}
