// Package ask sends requests whose answers are checked: every signature with the public key, what was wrapped against what comes
// back, MACs against the first one of a message.
package ask

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
)

// ErrWrong is an answer that says something false: the one thing that must never happen.
var ErrWrong = errors.New("wrong answer")

func wrong(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrWrong}, a...)...)
}

// Asker sends requests of all kinds and remembers what their answers must agree with.
type Asker struct {
	urls  []string // of the gateways, which are asked in turn
	next  atomic.Uint64
	token string
	http  *http.Client
	ec    *ecdsa.PublicKey
	rsa   *rsa.PublicKey
	ed    ed25519.PublicKey

	mu     sync.Mutex
	sealed map[string][]sealing  // by call: wrap, encrypt
	macs   map[uint64][]byte     // the first MAC of a message
	seen   map[[16]byte]struct{} // random bytes
}

// sealing is a blob and what must come out of it.
type sealing struct {
	blob       string
	plain, aad []byte
}

const sealingsKept = 512

// New returns an asker for the gateways at urls, which are asked in turn, and a client's token. It takes over the public keys of ec, rsa
// and ed, which the client must be granted, as wrap and mac.
func New(ctx context.Context, client *http.Client, token string, urls ...string) (*Asker, error) {
	a := &Asker{urls: urls, token: token, http: client, sealed: map[string][]sealing{}, macs: map[uint64][]byte{}, seen: map[[16]byte]struct{}{}}
	for _, k := range []struct {
		name string
		take func(any) bool
	}{
		{"ec", func(p any) (ok bool) { a.ec, ok = p.(*ecdsa.PublicKey); return ok }},
		{"rsa", func(p any) (ok bool) { a.rsa, ok = p.(*rsa.PublicKey); return ok }},
		{"ed", func(p any) (ok bool) { a.ed, ok = p.(ed25519.PublicKey); return ok }},
	} {
		_, b, err := a.send(ctx, http.MethodGet, "/api/v1/keys/"+k.name+"/public.pem", nil)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("the public half of %s: %q", k.name, b)
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !k.take(pub) {
			return nil, fmt.Errorf("the public half of %s is a %T", k.name, pub)
		}
	}
	return a, nil
}

func (a *Asker) send(ctx context.Context, method, path string, body any) (int, []byte, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.urls[a.next.Add(1)%uint64(len(a.urls))]+path, in)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := a.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

// answer is what any call may answer.
type answer struct {
	Signature  []byte `json:"signature"`
	Wrapped    string `json:"wrapped"`
	Ciphertext string `json:"ciphertext"`
	Key        []byte `json:"plaintext_key"`
	Plaintext  []byte `json:"plaintext"`
	MAC        []byte `json:"mac"`
	Random     []byte `json:"random"`
	Valid      *bool  `json:"valid"`
}

// call asks for an operation and wants status 200.
func (a *Asker) call(ctx context.Context, path string, body any) (out answer, err error) {
	status, b, err := a.send(ctx, http.MethodPost, "/api/v1/"+path, body)
	if err != nil {
		return out, err
	}
	if status != http.StatusOK {
		return out, Refusal(status, b)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, wrong("%s: %q: %v", path, b, err)
	}
	return out, nil
}

// Refusal is the error of an answer that is no success.
func Refusal(status int, body []byte) error {
	var p struct{ Kind, Detail string }
	_ = json.Unmarshal(body, &p) // one that is no problem has no kind
	if p.Kind == "" {
		return fmt.Errorf("%d %.80q", status, body)
	}
	return fmt.Errorf("%d %s %s", status, p.Kind, p.Detail)
}

type object = map[string]any

func bytesOf(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return b[:n]
}

func (a *Asker) signEC(ctx context.Context, r *rand.Rand) error {
	m := bytesOf(r, 48)
	out, err := a.call(ctx, "keys/ec/sign", object{"message": m})
	if err != nil {
		return err
	}
	h := sha256.Sum256(m)
	if !ecdsa.VerifyASN1(a.ec, h[:], out.Signature) {
		return wrong("an ECDSA signature that does not verify: %x of %x", out.Signature, m)
	}
	return nil
}

func (a *Asker) signRSA(ctx context.Context, r *rand.Rand) error {
	m := bytesOf(r, 48)
	h := sha256.Sum256(m)
	body := object{"message": m, "padding": "pss"}
	pss := r.IntN(2) == 0
	if !pss {
		body["padding"] = "pkcs1v15"
	}
	out, err := a.call(ctx, "keys/rsa/sign", body)
	if err != nil {
		return err
	}
	if pss {
		err = rsa.VerifyPSS(a.rsa, crypto.SHA256, h[:], out.Signature, nil)
	} else {
		err = rsa.VerifyPKCS1v15(a.rsa, crypto.SHA256, h[:], out.Signature)
	}
	if err != nil {
		return wrong("an RSA signature that does not verify: %x of %x: %v", out.Signature, m, err)
	}
	return nil
}

func (a *Asker) signEd(ctx context.Context, r *rand.Rand) error {
	m := bytesOf(r, 48)
	out, err := a.call(ctx, "keys/ed/sign", object{"message": m})
	if err != nil {
		return err
	}
	if !ed25519.Verify(a.ed, m, out.Signature) {
		return wrong("an Ed25519 signature that does not verify: %x of %x", out.Signature, m)
	}
	return nil
}

// remember keeps a sealing for those who open one later, on whatever member.
func (a *Asker) remember(call string, s sealing, r *rand.Rand) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if all := a.sealed[call]; len(all) >= sealingsKept {
		all[r.IntN(len(all))] = s
		return
	}
	a.sealed[call] = append(a.sealed[call], s)
}

func (a *Asker) recall(call string, r *rand.Rand) (sealing, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.sealed[call]
	if len(all) == 0 {
		return sealing{}, false
	}
	return all[r.IntN(len(all))], true
}

func (a *Asker) wrap(ctx context.Context, r *rand.Rand) error {
	s := sealing{plain: bytesOf(r, 32), aad: bytesOf(r, 8)}
	out, err := a.call(ctx, "keys/wrap/wrap", object{"plaintext_key": s.plain, "aad": s.aad})
	if err != nil {
		return err
	}
	if s.blob = out.Wrapped; s.blob == "" {
		return wrong("wrapped into nothing")
	}
	a.remember("wrap", s, r)
	return nil
}

func (a *Asker) unwrap(ctx context.Context, r *rand.Rand) error {
	s, ok := a.recall("wrap", r)
	if !ok {
		return a.wrap(ctx, r)
	}
	out, err := a.call(ctx, "keys/wrap/unwrap", object{"wrapped": s.blob, "aad": s.aad})
	if err != nil {
		return err
	}
	if !bytes.Equal(out.Key, s.plain) {
		return wrong("%s unwraps to %x, it was made of %x", s.blob, out.Key, s.plain)
	}
	return nil
}

func (a *Asker) encrypt(ctx context.Context, r *rand.Rand) error {
	s := sealing{plain: bytesOf(r, 20+r.IntN(200)), aad: bytesOf(r, 8)}
	out, err := a.call(ctx, "keys/wrap/encrypt", object{"plaintext": s.plain, "aad": s.aad})
	if err != nil {
		return err
	}
	if s.blob = out.Ciphertext; s.blob == "" {
		return wrong("encrypted into nothing")
	}
	a.remember("encrypt", s, r)
	return nil
}

func (a *Asker) decrypt(ctx context.Context, r *rand.Rand) error {
	s, ok := a.recall("encrypt", r)
	if !ok {
		return a.encrypt(ctx, r)
	}
	out, err := a.call(ctx, "keys/wrap/decrypt", object{"ciphertext": s.blob, "aad": s.aad})
	if err != nil {
		return err
	}
	if !bytes.Equal(out.Plaintext, s.plain) {
		return wrong("%s decrypts to %x, it was made of %x", s.blob, out.Plaintext, s.plain)
	}
	return nil
}

// messages is of how many messages the MACs are compared.
const messages = 64

func message(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte("message "), n) }

func (a *Asker) mac(ctx context.Context, r *rand.Rand) error {
	n := r.Uint64N(messages)
	out, err := a.call(ctx, "keys/mac/mac", object{"message": message(n)})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	first, ok := a.macs[n]
	if !ok {
		a.macs[n] = out.MAC
		first = out.MAC
	}
	if len(first) != sha256.Size || !bytes.Equal(first, out.MAC) {
		return wrong("the MAC of message %d is %x, the first one was %x", n, out.MAC, first)
	}
	return nil
}

func (a *Asker) knownMAC(n uint64) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return bytes.Clone(a.macs[n])
}

func (a *Asker) verifyMAC(ctx context.Context, r *rand.Rand) error {
	n := r.Uint64N(messages)
	m := a.knownMAC(n)
	if m == nil {
		return a.mac(ctx, r)
	}
	out, err := a.call(ctx, "keys/mac/mac/verify", object{"message": message(n), "mac": m})
	if err == nil && (out.Valid == nil || !*out.Valid) {
		err = wrong("a good MAC is called invalid")
	}
	return err
}

func (a *Asker) random(ctx context.Context, _ *rand.Rand) error {
	out, err := a.call(ctx, "random", object{"bytes": 16})
	if err != nil {
		return err
	}
	if len(out.Random) != 16 {
		return wrong("%d random bytes instead of 16", len(out.Random))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	k := [16]byte(out.Random)
	if _, again := a.seen[k]; again || k == [16]byte{} {
		return wrong("random bytes %x came twice", out.Random)
	}
	a.seen[k] = struct{}{}
	return nil
}

// EC is the public half of the key ec.
func (a *Asker) EC() *ecdsa.PublicKey { return a.ec }
