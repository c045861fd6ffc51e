//go:build linux && cgo

package reaction

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// keys are the working keys of all rows, wrapped under the pool KEK, whose clear values check the results.
type keys struct {
	sign, other, mac, seal *pool.Key
	macValue, sealValue    [32]byte
}

var theKeys = sync.OnceValues(makeKeys)

var blobs = hsm.Mechanism{Type: hsm.AESKeyWrap}

func makeKeys() (*keys, error) {
	k := &keys{macValue: [32]byte{1, 2, 3}, sealValue: [32]byte{4, 5, 6}}
	s, err := soft.New("maker").OpenSession(context.Background())
	if err != nil {
		return nil, err
	}
	keeper := s.(hsm.Keeper)
	kek, err := keeper.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap}, kekValue[:])
	if err != nil {
		return nil, err
	}
	n := byte(0)
	add := func(spec hsm.Spec, material []byte) (*pool.Key, error) {
		n++
		p := &pool.Key{ID: key.ID{0xAA, n}, Spec: spec, Wrap: blobs}
		spec.Extractable, spec.ID = true, p.ID[:]
		var h hsm.Handle
		if material == nil {
			h, err = keeper.Generate(spec)
		} else {
			h, err = keeper.Import(spec, material)
		}
		if err != nil {
			return nil, err
		}
		if spec.ObjectClass() == hsm.ClassPrivate {
			der, err := keeper.Public(h)
			if err != nil {
				return nil, err
			}
			if p.Public, err = x509.ParsePKIXPublicKey(der); err != nil {
				return nil, err
			}
		}
		p.Blob, err = keeper.WrapKey(kek, p.Wrap, h)
		return p, err
	}
	ec := hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign}
	var errs [4]error
	k.sign, errs[0] = add(ec, nil)
	k.other, errs[1] = add(ec, nil)
	k.mac, errs[2] = add(hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign}, k.macValue[:])
	k.seal, errs[3] = add(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayEncrypt | hsm.MayDecrypt}, k.sealValue[:])
	return k, errors.Join(errs[:]...)
}

var (
	message = []byte("what is asked for in every row")
	aad     = []byte("additional data")
)

// ask is an operation of a row and the check of its result.
type ask struct {
	key   *pool.Key
	op    hsm.Op
	check func(out []byte) error
}

// asks are the operations by their names in rows.
func (k *keys) asks(name string) ask {
	gcm := func() cipher.AEAD {
		b, err := aes.NewCipher(k.sealValue[:])
		if err != nil {
			panic(err)
		}
		g, err := cipher.NewGCM(b)
		if err != nil {
			panic(err)
		}
		return g
	}
	digest := sha256.Sum256(message)
	signing := func(key *pool.Key) ask {
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, In: digest[:]}
		return ask{key, op, func(out []byte) error { return hsm.Verify(key.Public, op.Mech, op.In, out) }}
	}
	sealed := func() []byte {
		iv := make([]byte, hsm.GCMIVSize)
		_, _ = rand.Read(iv)
		return gcm().Seal(iv, iv, message, aad)
	}
	open := hsm.Mechanism{Type: hsm.AESGCM, AAD: aad}
	switch name {
	case "sign":
		return signing(k.sign)
	case "other":
		return signing(k.other)
	case "mac":
		return ask{k.mac, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: message}, func(out []byte) error {
			h := hmac.New(sha256.New, k.macValue[:])
			h.Write(message)
			return same(out, h.Sum(nil))
		}}
	case "decrypt":
		return ask{k.seal, hsm.Op{Kind: hsm.OpDecrypt, Mech: open, In: sealed()}, func(out []byte) error { return same(out, message) }}
	case "tampered":
		in := sealed()
		in[len(in)-1] ^= 1
		return ask{k.seal, hsm.Op{Kind: hsm.OpDecrypt, Mech: open, In: in}, func([]byte) error { return errors.New("a forgery was opened") }}
	case "encrypt":
		return ask{k.seal, hsm.Op{Kind: hsm.OpEncrypt, Mech: open, In: message}, func(out []byte) error {
			got, err := gcm().Open(nil, out[:hsm.GCMIVSize], out[hsm.GCMIVSize:], aad)
			return errors.Join(err, same(got, message))
		}}
	case "random":
		return ask{nil, hsm.Op{Kind: hsm.OpRandom, Len: 24}, func(out []byte) error {
			if len(out) != 24 {
				return fmt.Errorf("%d random bytes", len(out))
			}
			return nil
		}}
	}
	panic("no operation " + name)
}

func same(got, want []byte) error {
	if string(got) != string(want) {
		return fmt.Errorf("%x, want %x", got, want)
	}
	return nil
}

// witness is a healthy member: the embedded token, counting what it answers. One of its sessions is held all the time, which
// makes the pool ask every other member first.
type witness struct {
	hsm.Token
	answered [hsm.OpRandom + 1]atomic.Int64
	heard    atomic.Int64 // UnixNano of its last answer
	let      chan struct{}
	once     sync.Once
}

func newWitness() *witness { return &witness{Token: soft.New("b"), let: make(chan struct{})} }

// hold takes a session of the pool's only member and keeps it until release.
func (w *witness) hold(p *pool.Pool) {
	held := make(chan struct{})
	go func() {
		_ = p.With(context.Background(), func(hsm.Keeper) error {
			w.heard.Store(time.Now().UnixNano())
			close(held)
			<-w.let
			return nil
		})
	}()
	<-held
}

func (w *witness) release() { w.once.Do(func() { close(w.let) }) }

// quiet is how long the witness must have said nothing until the pool asks it last; the pool's own limit is 250 ms.
const quiet = 300 * time.Millisecond

func (w *witness) asleep() bool { return time.Now().UnixNano()-w.heard.Load() > int64(quiet) }

func (w *witness) OpenSession(ctx context.Context) (hsm.Session, error) {
	s, err := w.Token.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	return &witnessSession{s.(hsm.Keeper), w}, nil
}

type witnessSession struct {
	hsm.Keeper
	w *witness
}

func (s *witnessSession) Do(op *hsm.Op) error {
	err := s.Keeper.Do(op)
	s.w.heard.Store(time.Now().UnixNano())
	if op.Err == nil {
		s.w.answered[op.Kind].Add(1)
	}
	return err
}
