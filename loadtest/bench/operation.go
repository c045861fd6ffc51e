//go:build linux

package main

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// operation is one of the things that are measured, in every way.
type operation struct {
	name  string // also what -only names
	title string
	alg   key.Algorithm
	kind  hsm.OpKind
	mech  hsm.Mechanism
	// call is the path of the same operation in the gateway's API, with a key of keyway dev, and field the member of its
	// request that holds message; answer is the member of its answer that holds the result.
	key, call, field, answer string
}

// operations are in the order of the report.
var operations = []operation{
	{"p256", "P-256 sign", key.ECP256, hsm.OpSign, hsm.Mechanism{Type: hsm.ECDSA}, "demo-sign", "sign", "message", "signature"},
	{"rsa", "RSA-2048 sign (PSS)", key.RSA2048, hsm.OpSign, hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: hsm.SHA256}, "demo-rsa", "sign", "message", "signature"},
	{"wrap", "AES-GCM wrap of 32 bytes", key.AES256, hsm.OpEncrypt, hsm.Mechanism{Type: hsm.AESGCM}, "demo-wrap", "wrap", "plaintext_key", "wrapped"},
	{"mac", "HMAC-SHA-256 of 32 bytes", key.HMACSHA256, hsm.OpSign, hsm.Mechanism{Type: hsm.SHA256HMAC}, "demo-mac", "mac", "message", "mac"},
}

// message is what every operation is done with: 32 bytes to sign, wrap or authenticate.
var message = []byte("0123456789abcdef0123456789abcdef")

// op returns a fresh operation on the token, whose input follows message.
func (o *operation) op() hsm.Op {
	in := message
	if o.alg.Asymmetric() {
		d := sha256.Sum256(message)
		in = d[:]
	}
	return hsm.Op{Kind: o.kind, Mech: o.mech, In: in}
}

// material is one key as the tokens of this run know it: wrapped, as the pool loads it.
type material struct {
	id     key.ID
	spec   hsm.Spec
	blob   []byte
	public crypto.PublicKey
}

// kekID is the CKA_ID of the key under which every key of this run travels.
var kekID = []byte("keyway-bench-kek")

var kekWrap = hsm.Mechanism{Type: hsm.AESKeyWrap}

// makeMaterial makes a key for o on the session's token, which holds the KEK, and returns it wrapped. Nothing
// of it stays on the token.
func (o *operation) makeMaterial(k hsm.Keeper) (*material, error) {
	info, err := o.alg.Info()
	if err != nil {
		return nil, err
	}
	spec, err := hsm.SpecFor(o.alg, info.Default)
	if err != nil {
		return nil, err
	}
	m := &material{spec: spec}
	copy(m.id[:], "bench-"+o.name)
	spec.ID, spec.Extractable = m.id[:], true
	kek, err := k.Find(hsm.ClassSecret, kekID)
	if err != nil {
		return nil, fmt.Errorf("the KEK: %w", err)
	}
	h, err := k.Generate(spec)
	if err != nil {
		return nil, fmt.Errorf("generating: %w", err)
	}
	defer func() { _ = k.Destroy(h) }()
	if o.alg.Asymmetric() {
		der, err := k.Public(h)
		if err != nil {
			return nil, fmt.Errorf("public half: %w", err)
		}
		if m.public, err = x509.ParsePKIXPublicKey(der); err != nil {
			return nil, err
		}
	}
	if m.blob, err = k.WrapKey(kek, kekWrap, h); err != nil {
		return nil, fmt.Errorf("wrapping: %w", err)
	}
	return m, nil
}

// load makes the session object of m on the session's token, just as the pool does.
func (m *material) load(k hsm.Keeper) (hsm.Handle, error) {
	kek, err := k.Find(hsm.ClassSecret, kekID)
	if err != nil {
		return 0, fmt.Errorf("the KEK: %w", err)
	}
	s := m.spec
	s.ID = m.id[:]
	return k.UnwrapKey(kek, kekWrap, m.blob, s)
}

// doer runs one operation with the key that is being measured.
type doer func(context.Context, hsm.Op) ([]byte, error)

// verify checks results of o that were made in this process: signatures with the public half, wrappings by opening
// them, MACs against another one of the same message.
func (o *operation) verify(ctx context.Context, m *material, do doer, samples [][]byte) error {
	for _, out := range samples {
		var err error
		switch o.kind {
		case hsm.OpEncrypt:
			var clear []byte
			clear, err = do(ctx, hsm.Op{Kind: hsm.OpDecrypt, Mech: o.mech, In: out})
			if err == nil && string(clear) != string(message) {
				err = errors.New("it opens to something else")
			}
		default:
			if m.public != nil {
				err = hsm.Verify(m.public, o.mech, o.op().In, out)
				break
			}
			var again []byte
			if again, err = do(ctx, o.op()); err == nil && !hmac.Equal(again, out) {
				err = errors.New("it differs from another one of the same message")
			}
		}
		if err != nil {
			return fmt.Errorf("a result of %s does not verify: %w", o.title, err)
		}
	}
	return nil
}

// body returns the body of a request for o's call.
func (o *operation) body() []byte { return marshal(map[string]any{o.field: message}) }

// batchBody returns the body of a batch of n such calls.
func (o *operation) batchBody(n int) []byte {
	var all []map[string]any
	for i := range n {
		all = append(all, map[string]any{"id": strconv.Itoa(i), "op": o.call, "key": o.key, o.field: message})
	}
	return marshal(map[string]any{"operations": all})
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings and bytes always marshal
	}
	return b
}
