package ask

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// liar answers every call with 200 and something of the right shape that is not true.
func liar(w http.ResponseWriter, r *http.Request) {
	all := map[string]any{
		"signature": make([]byte, 64), "wrapped": "kw1." + strings.Repeat("A", 60), "ciphertext": "kw1." + strings.Repeat("A", 60), "plaintext_key": []byte("not this one"),
		"plaintext": []byte("not this one"), "mac": make([]byte, 31), "random": make([]byte, 16), "valid": strings.Contains(r.Header.Get("X-Lie"), "valid"),
	}
	_ = json.NewEncoder(w).Encode(all)
}

// Whatever is wrong in an answer is noticed, by every kind of question.
func TestALyingGatewayIsFoundOut(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	lie := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Lie", lie)
		liar(w, r)
	}))
	defer srv.Close()
	a := &Asker{urls: []string{srv.URL}, http: srv.Client(), ec: &ec.PublicKey, rsa: &rk.PublicKey, ed: ed, sealed: map[string][]sealing{}, macs: map[uint64][]byte{}, seen: map[[16]byte]struct{}{}}
	r := mrand.New(mrand.NewPCG(1, 2))
	s := sealing{blob: "kw1." + strings.Repeat("B", 60), plain: []byte("the secret"), aad: []byte("aad")}
	a.remember("wrap", s, r)
	a.remember("encrypt", s, r)
	for n := range uint64(messages) {
		a.macs[n] = make([]byte, 32)
	}
	for _, q := range Questions {
		if q.Name == "wrap" || q.Name == "encrypt" {
			continue // their answers are judged when they are opened
		}
		lie = ""
		if q.Name == "bad mac" {
			lie = "valid"
		}
		if err := q.ask(a, context.Background(), r); !errors.Is(err, ErrWrong) {
			t.Errorf("%s: %v, want a wrong answer", q.Name, err)
		}
	}
}

// A refusal is a failure, never a wrong answer, and a caller's mistake wants its own status.
func TestARefusalIsAFailure(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte(`{"kind":"device","detail":"the tokens failed"}`))
	}))
	defer srv.Close()
	a := &Asker{urls: []string{srv.URL}, http: srv.Client(), sealed: map[string][]sealing{}, macs: map[uint64][]byte{}, seen: map[[16]byte]struct{}{}}
	r := mrand.New(mrand.NewPCG(1, 2))
	for _, q := range Questions {
		if err := q.ask(a, context.Background(), r); err == nil || errors.Is(err, ErrWrong) || !strings.Contains(err.Error(), "502 device") {
			t.Errorf("%s: %v", q.Name, err)
		}
	}
}
