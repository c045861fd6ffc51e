//go:build linux && cgo

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
)

// Every figure with little time: all operations must give right answers, and the report must have every line. A token with more
// objects than are allowed, a connection without an answer and a wrong answer fail the run by themselves.
func TestAScaleRun(t *testing.T) {
	if _, err := pkcs11.FindModule("softhsm"); err != nil {
		if os.Getenv("REQUIRE_SOFTHSM") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	keyway := filepath.Join(dir, "keyway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", keyway, "../../cmd/keyway").CombinedOutput(); err != nil {
		t.Fatalf("building keyway: %v\n%s", err, out)
	}
	report, numbers := filepath.Join(dir, "report.md"), filepath.Join(dir, "report.json")
	var log bytes.Buffer
	if code := run(ctx, []string{"-scale", "-keyway", keyway, "-duration", "50ms", "-lines", `in process, 1 × (10|16|64) |workers, 1 × 24|HTTP, 1 ×|64 handles, zipf|SoftHSM, worker, 8 handles|in process, 300 |, 16 × 2 ms|SoftHSM, worker, 1 × 64`, "-connections", "300", "-keys", "300", "-o", report, "-json", numbers}, &log, &log); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &log)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| pool.Do in process | 1 | 16 |", "| pool.Do, workers | 1 | 24 |", "| HTTP | 1 | 24 |", "| 2 ms in process | 64 | 300 | zipf |", "| SoftHSM, worker | 8 | 300 | uniform |",
		"Each of the 300 has had right answers.", "| HTTP | 16 × 2 ms | 100/s |", "| in process | 1 | 64 |", "| SoftHSM, worker | 1 | 64 |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "Inf") || t.Failed() {
		t.Errorf("%s", text)
	}
	b, err := os.ReadFile(numbers)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Figures struct {
			Capacity capacity
			Handles  handlesFigure
			Crowd    crowd
			Fairness fairnessFigure
			Adaptive adaptiveFigure
		}
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	f := r.Figures
	for _, c := range f.Capacity.Rows {
		if c.Rate <= 0 || c.P99 < c.Service/2 || c.Rate > 1.5*c.nominal() {
			t.Errorf("%+v", c)
		}
	}
	for _, c := range f.Handles.Rows {
		if c.Rate <= 0 || c.Objects <= 0 || c.Objects > c.Allowed || (c.Handles >= c.Keys) != (c.Loads == 0) {
			t.Errorf("%+v", c)
		}
	}
	if f.Crowd.Served != 300 || f.Crowd.ManyP99 <= 0 || f.Crowd.FewP99 <= 0 {
		t.Errorf("%+v", f.Crowd)
	}
	for _, c := range f.Fairness.Rows {
		if c.GreedyRate <= 0 || c.AloneP99 <= 0 || c.BesideP99 <= 0 {
			t.Errorf("%+v", c)
		}
	}
	for _, c := range f.Adaptive.Rows {
		if c.Rate <= 0 || c.Permits < 1 || c.Sessions <= f.Adaptive.AtOnce && c.Busy+c.Refused > 0 {
			t.Errorf("%+v", c)
		}
	}
}
