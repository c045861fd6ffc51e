package ask

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
)

// refused wants a status that refuses.
func (a *Asker) refused(ctx context.Context, path string, body any, want int) error {
	status, b, err := a.send(ctx, http.MethodPost, "/api/v1/"+path, body)
	switch {
	case err != nil:
		return err
	case status == want:
		return nil
	case status/100 == 2:
		return wrong("%s of something bad was accepted: %s", path, b)
	}
	return fmt.Errorf("a caller's mistake wants status %d: %w", want, Refusal(status, b))
}

// alphabet is what follows "kw1." in a blob.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// badCiphertext sends a blob of which one character near its end was changed, so that only the token can notice.
func (a *Asker) badCiphertext(ctx context.Context, r *rand.Rand) error {
	s, ok := a.recall("encrypt", r)
	if !ok {
		return a.encrypt(ctx, r)
	}
	b := []byte(s.blob)
	at := len(b) - 2 - r.IntN(20)
	b[at] = alphabet[(strings.IndexByte(alphabet, b[at])+1+r.IntN(len(alphabet)-1))%len(alphabet)]
	return a.refused(ctx, "keys/wrap/decrypt", object{"ciphertext": string(b), "aad": s.aad}, http.StatusUnprocessableEntity)
}

// badRequest makes a mistake that no token hears of.
func (a *Asker) badRequest(ctx context.Context, r *rand.Rand) error {
	switch r.IntN(4) {
	case 0:
		return a.refused(ctx, "keys/ec/sign", object{"digest": []byte("too short")}, http.StatusBadRequest)
	case 1:
		return a.refused(ctx, "keys/nobody/sign", object{"message": []byte("m")}, http.StatusNotFound)
	case 2:
		return a.refused(ctx, "keys/mac/sign", object{"message": []byte("m")}, http.StatusUnprocessableEntity)
	default:
		return a.refused(ctx, "keys/wrap/unwrap", object{"wrapped": "kw1.AAAA"}, http.StatusUnprocessableEntity)
	}
}

// badMAC sends a MAC with one bit changed.
func (a *Asker) badMAC(ctx context.Context, r *rand.Rand) error {
	n := r.Uint64N(messages)
	m := a.knownMAC(n)
	if m == nil {
		return a.mac(ctx, r)
	}
	m[r.IntN(len(m))] ^= 1 << r.IntN(8)
	out, err := a.call(ctx, "keys/mac/mac/verify", object{"message": message(n), "mac": m})
	if err == nil && (out.Valid == nil || *out.Valid) {
		err = wrong("a bad MAC is called valid")
	}
	return err
}
