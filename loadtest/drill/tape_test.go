//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyway/loadtest/ask"
)

func TestATapeTellsWhatCameOfRequests(t *testing.T) {
	tp := newTape(time.Second)
	at := func(d time.Duration) time.Time { return tp.begun.Add(d) }
	for i := range 100 { // a second of one every 10 ms, which take 1 to 100 ms
		d := time.Duration(i+1) * time.Millisecond
		tp.add("q", at(time.Duration(i)*10*time.Millisecond), d, d, nil)
	}
	tp.add("q", at(2*time.Second), 0, 0, errors.New("refused"))
	tp.add("q", at(2*time.Second), 0, 0, fmt.Errorf("%w: not that", ask.ErrWrong))
	tp.add("q", at(2*time.Second), 1100*time.Millisecond, 1100*time.Millisecond, nil)
	tp.add("sent late", at(2*time.Second), 3*time.Second, time.Second, nil)
	if f := tp.between(0, time.Second); f != (Figures{N: 100, Rate: 100, P50: 50, P99: 99, Good: 99, Max: 100}) {
		t.Errorf("%+v", f)
	}
	if f := tp.between(2*time.Second, 3*time.Second); f.N != 4 || f.Failed != 1 || f.Wrong != 1 || f.Late != 1 || f.Rate != 2 {
		t.Errorf("%+v", f)
	}
	tp.add("bad mac", at(3*time.Second), time.Second, 0, nil)
	tp.add("mac", at(3*time.Second), time.Millisecond, 0, nil)
	if f := tp.between(3*time.Second, 4*time.Second); f.P99 != 1000 || f.Good != 1 {
		t.Errorf("%+v", f)
	}
	if f := tp.between(time.Second, 2*time.Second); f != (Figures{}) {
		t.Errorf("of nothing: %+v", f)
	}
	if len(tp.examples) != 3 {
		t.Errorf("%q", tp.examples)
	}
}

func TestFullThroughputIsHalfASecondOfIt(t *testing.T) {
	tp := newTape(time.Second)
	for i := range 3000 { // 100/s for a second, then 1000/s
		d := time.Duration(i) * time.Millisecond
		if d < time.Second && i%10 != 0 {
			continue
		}
		tp.add("q", tp.begun.Add(d), 0, 0, nil)
	}
	if d := tp.full(0, 3*time.Second, 990); d != time.Second {
		t.Errorf("full again after %s, want 1 s", d)
	}
	if d := tp.full(0, 3*time.Second, 1100); d >= 0 {
		t.Errorf("a rate that never came was seen after %s", d)
	}
	if d := tp.full(0, 1200*time.Millisecond, 990); d >= 0 {
		t.Errorf("two tenths of a second were taken for half a second (%s)", d)
	}
}

// What is wrong in an answer under full load is noticed.
func TestSaturationFindsLiesAndFailures(t *testing.T) {
	var n atomic.Int64
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	answers := func(status int, mac func() []byte) Figures {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"mac": mac()})
		}))
		defer srv.Close()
		s := &saturation{addr: strings.TrimPrefix(srv.URL, "http://"), conns: 4, ec: &ec.PublicKey, tape: newTape(time.Second)}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		s.run(ctx)
		return s.tape.between(0, time.Minute)
	}
	same := func() []byte { return make([]byte, 32) }
	if f := answers(200, same); f.N == 0 || f.Wrong == 0 || f.Wrong == f.N || f.Failed != 0 {
		t.Errorf("MACs are right, signatures none: %+v", f)
	}
	if f := answers(200, func() []byte { return binary.BigEndian.AppendUint64(make([]byte, 24), uint64(n.Add(1))) }); f.Wrong != f.N-1 { // all but the first MAC, and every signature
		t.Errorf("MACs that differ: %+v", f)
	}
	if f := answers(502, same); f.N == 0 || f.Failed != f.N {
		t.Errorf("refusals: %+v", f)
	}
}

// Who is patient asks again when nobody is there or the gateway says that it goes, and nobody else does.
func TestPatienceIsForThoseWhoAreToldToComeAgain(t *testing.T) {
	var n atomic.Int64
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h := sha256.Sum256(message)
		sig, _ := ecdsa.SignASN1(rand.Reader, ec, h[:])
		_ = json.NewEncoder(w).Encode(map[string]any{"signature": sig, "mac": make([]byte, 32)})
	}))
	defer srv.Close()
	for _, patient := range []bool{false, true} {
		s := &saturation{addr: strings.TrimPrefix(srv.URL, "http://"), conns: 4, ec: &ec.PublicKey, patient: patient, tape: newTape(time.Second)}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		s.run(ctx)
		cancel()
		if f := s.tape.between(0, time.Minute); f.N == 0 || (f.Failed == 0) != patient {
			t.Errorf("patient %t: %+v", patient, f)
		}
	}
}

// A broken promise of correctness is what the exit code tells of; a missed one of speed is not.
func TestOnlyCorrectnessBreaksADrill(t *testing.T) {
	var r Report
	r.must("a", "p", "m", true)
	r.should("a", "p", "m", false)
	if r.broke() {
		t.Error("a slow machine broke a promise of correctness")
	}
	r.must("a", "p", "m", false, "why")
	if !r.broke() {
		t.Error("a broken promise was not noticed")
	}
	var table strings.Builder
	r.table(&table)
	for _, want := range []string{"**BROKEN**", "**missed**", "why"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, &table)
		}
	}
}
