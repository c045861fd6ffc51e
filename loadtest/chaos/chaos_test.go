//go:build linux && cgo

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
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

// The short form of make chaos: some seconds of faults, and every promise kept. The deadline is so long that a machine busy
// with other tests keeps it too: a short form says nothing about speed.
func TestAShortRun(t *testing.T) {
	if os.Getenv("CHAOS_SHORT") == "" {
		t.Skip("a rehearsal keeps real time, which a busy machine does not give it: run make chaos, or set CHAOS_SHORT=1 for this short one")
	}
	need(t, "softhsm", "REQUIRE_SOFTHSM")
	need(t, "nss", "REQUIRE_NSS")
	dir := t.TempDir()
	s := settings{
		keyway: filepath.Join(dir, "keyway"), dir: filepath.Join(dir, "run"), time: 6 * time.Second, rate: 60, deadline: 30 * time.Second, seed: 7, html: filepath.Join(dir, "page.html"),
		segment: seconds(2.5, 3), rest: seconds(.2, .6), recovery: 2 * time.Minute, leaving: 15 * time.Second,
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
	if r.total().Right < 200 || len(r.Faults) < 4 || r.kinds() < 4 {
		t.Errorf("this run shows little:\n%s", &table)
	}
	for _, q := range questions {
		if c := r.Counts[q.name]; c == nil || c.Right == 0 {
			t.Errorf("no right answer to %q", q.name)
		}
	}
	if err := r.write(s); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.html); err != nil || !strings.Contains(string(b), "<svg") || !strings.Contains(string(b), "every promise was kept") {
		t.Errorf("the page: %v", err)
	}
}
