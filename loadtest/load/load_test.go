package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The scripts with k6 itself, where it has been built, against embedded tokens.
func TestAShortRunWithK6(t *testing.T) {
	k6, err := filepath.Abs("../../bin/k6")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k6); err != nil {
		t.Skip("bin/k6 has not been built, which takes minutes: make load, or make bin/k6, builds it; the scripts' syntax and options have been tested without")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	keyway := filepath.Join(t.TempDir(), "keyway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", keyway, "../../cmd/keyway").CombinedOutput(); err != nil {
		t.Fatalf("building keyway: %v\n%s", err, out)
	}
	for _, s := range scripts {
		if out, err := exec.CommandContext(ctx, k6, "inspect", filepath.Join(scriptDir, s.name+".js")).CombinedOutput(); err != nil {
			t.Errorf("k6 inspect %s: %v\n%s", s.name, err, out)
		}
	}
	// A machine that is busy with other tests may be late with some iterations; that speed is no business of this test.
	t.Setenv("P99_MS", "30000")
	var out, log bytes.Buffer
	if code := run(ctx, []string{"-keyway", keyway, "-k6", k6, "-scripts", scriptDir, "-embedded", "-duration", "1s"}, &out, &log); code != 0 {
		t.Fatalf("exit code %d:\n%s%s", code, &out, &log)
	}
	for _, s := range scripts {
		if !strings.Contains(out.String(), s.name+" ") {
			t.Errorf("no line about %s in\n%s", s.name, &out)
		}
	}
}

// fakeK6 writes a summary, says something and exits with a code.
func fakeK6(t *testing.T, summary string, code int) *settings {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("it is a shell script")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "k6")
	text := fmt.Sprintf("#!/bin/sh\n[ -z '%[1]s' ] || printf '%%s' '%[1]s' > \"$SUMMARY\"\necho it said so\nexit %[2]d\n", summary, code)
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return &settings{k6: file, dir: dir, duration: time.Second}
}

const goodSummary = `{"metrics":{"iterations":{"values":{"rate":99.5,"count":100}},"http_reqs":{"values":{"rate":199}},
"http_req_duration":{"values":{"med":1.5,"p(95)":2.5,"p(99)":3.5},"thresholds":{"p(99)<250":{"ok":true}}},
"http_req_failed":{"values":{"rate":0,"passes":0,"fails":200},"thresholds":{"rate==0":{"ok":true}}},
"answers_verified":{"values":{"count":42}},"dropped_iterations":{"values":{"count":3},"thresholds":{"count==0":{"ok":%t}}}}}`

func TestWhatK6SaysDecides(t *testing.T) {
	good, bad := fmt.Sprintf(goodSummary, true), fmt.Sprintf(goodSummary, false)
	for _, c := range []struct {
		name, summary string
		code          int
		want          string // in the error, "" for none
	}{
		{"all is well", good, 0, ""},
		{"a threshold", bad, thresholdsCrossed, "dropped_iterations count==0"},
		{"a threshold that k6 does not mind", bad, 0, "dropped_iterations count==0"},
		{"k6 fails in another way", good, 107, "exit status 107"},
		{"k6 says a threshold was crossed, and none was", good, thresholdsCrossed, "exit status 99"},
		{"no summary", "", 0, "no summary"},
		{"a summary of nothing", "{}", 0, "no metrics"},
		{"no JSON", "x", 0, "summary of k6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fakeK6(t, c.summary, c.code)
			r, err := s.runOne(t.Context(), script{"sign", "1"}, "dev.json", filepath.Join(t.TempDir(), "summary.json"))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if r.iterations != 99.5 || r.requests != 199 || r.p50 != 1.5 || r.p95 != 2.5 || r.p99 != 3.5 || r.failed != 0 || r.dropped != 3 || r.verified != 42 {
					t.Errorf("%+v", r)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"stray"}, {"-duration", "1ms"}, {"-keyway", "/nonexistent/keyway"}, {"-keyway", "/bin/sh", "-k6", "/bin/sh", "-only", "nothing"}} {
		var out bytes.Buffer
		if code := run(t.Context(), args, &out, &out); code != 2 {
			t.Errorf("%v: exit code %d, want 2: %s", args, code, &out)
		}
	}
}
