//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
)

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		if err := serveWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The whole program, with little time, on embedded tokens: every way must do its work and verify, and the report must have every line.
func TestABenchOnEmbeddedTokens(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	keyway := filepath.Join(dir, "keyway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", keyway, "../../cmd/keyway").CombinedOutput(); err != nil {
		t.Fatalf("building keyway: %v\n%s", err, out)
	}
	report := filepath.Join(dir, "report.md")
	var log bytes.Buffer
	if code := run(ctx, []string{"-keyway", keyway, "-embedded", "-duration", "10ms", "-rounds", "2", "-settle", "50ms", "-connections", "8", "-o", report}, &log, &log); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &log)
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"with embedded token on", "Meanwhile other programs had ", "### P-256 sign\n", "### RSA-2048 sign (PSS)\n", "### AES-GCM wrap of 32 bytes\n", "### HMAC-SHA-256 of 32 bytes\n",
		"\n| pool.Do, workers | ", "\n| HTTP, 8 connections | ", "\n| HTTP, 1 connection | ", "\n| HTTP, batches of 48, 1 connection | ", "raw PKCS#11, 1 session", "raw PKCS#11, 16 sessions",
		"\n| isolation, of in-process P-256 sign |", "\n| `pool.Do` alone | ≤ 6 allocations |", "\n| memory under 8 connections | ≤ 300 MB |", "\n| rsa-2048, sign |",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, bad := range []string{"NaN", "Inf", "| 0 (0–0) |"} {
		if strings.Contains(string(b), bad) {
			t.Errorf("the report has %q", bad)
		}
	}
	if t.Failed() {
		t.Logf("%s", b)
	}
}

// Results that are wrong are found, whatever made them.
func TestWrongResultsAreNoticed(t *testing.T) {
	ctx := t.Context()
	w, err := newWorkshop(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := w.inProcess(ctx, "raw")
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	s, err := tok.OpenSession(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range operations {
		o := &operations[i]
		m, err := o.makeMaterial(s.(hsm.Keeper))
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDirect(ctx, tok, m, o, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var c *cell
		for long := time.Millisecond; c == nil || c.ops == 0 && long < 10*time.Second; long *= 4 { // RSA may take longer than a cell
			if c, err = d.run(ctx, long); err != nil { // verifies what it did
				t.Fatal(err)
			}
		}
		if len(c.samples) == 0 || c.ops == 0 || c.times.n != uint64(c.ops) {
			t.Fatalf("%s: %d operations, %d timed, %d kept", o.title, c.ops, c.times.n, len(c.samples))
		}
		bad := bytes.Clone(c.samples[0])
		bad[len(bad)-1] ^= 1
		do := func(_ context.Context, op hsm.Op) ([]byte, error) {
			op.Key = d.ops[0].Key
			if err := d.sessions[0].Do(&op); err != nil {
				return nil, err
			}
			return op.Out, op.Err
		}
		if err := o.verify(ctx, m, do, [][]byte{c.samples[0], bad}); err == nil {
			t.Errorf("%s: a wrong result was not noticed", o.title)
		}
	}
}

func TestWrongAnswersAreNoticed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	d := &overHTTP{op: &operations[0]}
	sign := func(m []byte) []byte {
		h := sha256.Sum256(m)
		sig, err := ecdsa.SignASN1(rand.Reader, key, h[:])
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Appendf(nil, `{"key":"demo-sign","signature":%q}`, base64.StdEncoding.EncodeToString(sig))
	}
	if err := d.verifyOne(t.Context(), sign(message), public); err != nil {
		t.Errorf("a good answer: %v", err)
	}
	for _, bad := range [][]byte{sign([]byte("another")), []byte(`{}`), []byte(`{"signature":"!"}`), []byte(`x`)} {
		if err := d.verifyOne(t.Context(), bad, public); err == nil {
			t.Errorf("not noticed: %s", bad)
		}
	}
}

func TestWrongBatchesAreNoticed(t *testing.T) {
	d := &overHTTP{op: &operation{call: "nothing", answer: "x"}, batch: 2}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("none")})
	for _, body := range []string{
		`{"results":[{"id":"0","status":200,"x":"AA=="}]}`,
		`{"results":[{"id":"0","status":200,"x":"AA=="},{"id":"1","status":503,"x":"AA=="}]}`,
		`{"results":[{"id":"1","status":200,"x":"AA=="},{"id":"0","status":200,"x":"AA=="}]}`,
	} {
		if err := d.verifyBatch(t.Context(), []byte(body), public); err == nil || strings.Contains(err.Error(), "asn1") {
			t.Errorf("%s: %v", body, err)
		}
	}
	if err := d.verifyBatch(t.Context(), []byte(`{"results":[{"id":"0","status":200,"x":"AA=="},{"id":"1","status":200,"x":"AA=="}]}`), public); err == nil || !strings.Contains(err.Error(), "asn1") {
		t.Errorf("a batch whose results have places and status but do not verify: %v", err)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-duration", "-1s"}, {"-only", "x", "-keyway", "/bin/sh"}, {"stray"}, {"-nothing"}, {"-keyway", "/nonexistent/keyway"}} {
		var log bytes.Buffer
		if code := run(t.Context(), args, &log, &log); code != 2 {
			t.Errorf("%v: exit code %d, want 2: %s", args, code, &log)
		}
	}
}
