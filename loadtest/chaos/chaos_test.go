//go:build linux && cgo

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
	"keyway/loadtest/ask"
)

// need skips the test where a software token is not installed, saying so; REQUIRE_SOFTHSM=1 and REQUIRE_NSS=1 make that a failure.
func need(t *testing.T, kind, require string) {
	t.Helper()
	if _, err := pkcs11.FindModule(kind); err != nil {
		if os.Getenv(require) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// The short form of make chaos: some seconds of faults on two gateways, and every promise kept. The deadline is so long that a machine busy
// with other tests keeps it too: the short form says nothing about speed. A machine that cannot even send at the rate sends later, and says so.
func TestAShortRun(t *testing.T) {
	need(t, "softhsm", "REQUIRE_SOFTHSM")
	need(t, "nss", "REQUIRE_NSS")
	dir := t.TempDir()
	s := settings{
		keyway: filepath.Join(dir, "keyway"), dir: filepath.Join(dir, "run"), time: 5 * time.Second, rate: 40, gateways: 2, deadline: 30 * time.Second, seed: shortSeed(t), html: filepath.Join(dir, "page.html"),
		segment: seconds(2.4, 2.6), rest: seconds(.1, .4), recovery: 2 * time.Minute, leaving: 30 * time.Second, brief: true,
	}
	if out, err := exec.Command("go", "build", "-o", s.keyway, "../../cmd/keyway").CombinedOutput(); err != nil {
		t.Fatalf("building keyway: %v\n%s", err, out)
	}
	var said bytes.Buffer
	r, err := rehearse(t.Context(), s, &said)
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	var table bytes.Buffer
	r.table(&table)
	if len(r.Broken) > 0 {
		t.Errorf("%s", &table)
	}
	t.Logf("seed %d, %d requests, %d faults of %d kinds, %.0f s; the latest request was sent %.0f ms late", r.Seed, r.total().Right, len(r.Faults), r.kinds(), r.Lasted, r.SentLate)
	if r.total().Right < 150 || len(r.Faults) < 4 || r.kinds() < 4 {
		t.Errorf("this run shows little:\n%s", &table)
	}
	for _, q := range ask.Questions {
		if c := r.Counts[q.Name]; c == nil || c.Right == 0 {
			t.Errorf("no right answer to %q", q.Name)
		}
	}
	if err := r.write(s); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.html); err != nil || !strings.Contains(string(b), "<svg") || !strings.Contains(string(b), "every promise was kept") {
		t.Errorf("the page: %v", err)
	}
}

// shortSeed is the short run's seed: always the same one, or CHAOS_SEED.
func shortSeed(t *testing.T) uint64 {
	t.Helper()
	v := os.Getenv("CHAOS_SEED")
	if v == "" {
		return 7
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("CHAOS_SEED: %v", err)
	}
	return n
}
