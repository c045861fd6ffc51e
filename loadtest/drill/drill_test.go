//go:build linux && cgo

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
)

// The short form of make drill. The deadline is so long that a machine busy with other tests keeps it too: how long things take is
// for make drill to say.
func TestAShortDrill(t *testing.T) {
	if _, err := pkcs11.FindModule("softhsm"); err != nil {
		if os.Getenv("REQUIRE_SOFTHSM") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	s := settings{keyway: filepath.Join(dir, "keyway"), dir: filepath.Join(dir, "run"), rate: 60, conns: 4, deadline: 30 * time.Second, calm: 300 * time.Millisecond, short: true}
	if out, err := exec.Command("go", "build", "-o", s.keyway, "../../cmd/keyway").CombinedOutput(); err != nil {
		t.Fatalf("building keyway: %v\n%s", err, out)
	}
	var said bytes.Buffer
	r, err := drill(t.Context(), s, &said)
	if err != nil {
		t.Fatalf("%v\n%s", err, &said)
	}
	var table bytes.Buffer
	r.table(&table)
	if r.broke() {
		t.Errorf("%s", &table)
	}
	if r.Verified < 50 || len(r.Days) != 4 {
		t.Errorf("this drill shows little: %d answers of full load verified\n%s", r.Verified, &table)
	}
	for _, d := range r.Days {
		if d.Before.N == 0 || d.During.N == 0 || d.After.N == 0 {
			t.Errorf("%s: a window without requests: %+v", d.Act, d)
		}
	}
}
