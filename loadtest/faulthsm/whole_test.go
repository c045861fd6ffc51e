//go:build linux && cgo

package faulthsm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWithoutRulesNothingDiffers runs one script of calls, good and bad, through every function of the list, on the real module
// and behind this one: handles, codes, lengths and results must be the same.
func TestWithoutRulesNothingDiffers(t *testing.T) {
	r := softHSM(t)
	_ = r.tok.Close()
	script := func(module string, env ...string) string {
		t.Helper()
		out, err := command(t, env, probePath(t), module, "differ", r.cfg.TokenLabel, userPIN)
		if err != nil {
			t.Fatalf("%s: %v\n%s", module, err, out)
		}
		return out
	}
	same := func(name, want, got string) {
		t.Helper()
		a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
		for i := range max(len(a), len(b)) {
			switch {
			case i >= len(a) || i >= len(b):
				t.Fatalf("%s: %d lines, want %d", name, len(b), len(a))
			case a[i] != b[i]:
				t.Errorf("%s: line %d: %q, want %q", name, i+1, b[i], a[i])
			}
		}
	}
	real := realModule(t, "softhsm", "REQUIRE_SOFTHSM")
	want := script(real)
	if n := strings.Count(want, "\n"); n < 140 || !strings.Contains(want, "C_Sign RSA ") {
		t.Fatalf("the script has only %d lines:\n%s", n, want)
	}
	same("SoftHSM again", want, script(real)) // else the comparison would mean nothing
	same("SoftHSM behind the module", want, script(r.m.Path))
	// Neither do rules that fit nothing.
	if err := r.m.Write(fails("none", "C_Sign"), Rule{ID: "later", On: []string{"any"}, From: time.Hour, Do: []Effect{Crash()}}); err != nil {
		t.Fatal(err)
	}
	if got := script(r.m.Path); got == want {
		t.Error("a rule that lets C_Sign fail made no difference: does the comparison see anything?")
	}
	if err := r.m.Write(Rule{ID: "later", On: []string{"any"}, From: time.Hour, Do: []Effect{Crash()}}); err != nil {
		t.Fatal(err)
	}
	same("SoftHSM behind the module with a rule for later", want, script(r.m.Path))

	nssModule := realModule(t, "nss", "REQUIRE_NSS")
	behind := install(t, nssModule)
	run := func(module string) string {
		t.Helper()
		db := t.TempDir()
		// NSS's first slot wants no login and has no token of its own.
		env := fmt.Sprintf("PROBE_INIT=configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= minPWLen=0", db)
		out, err := command(t, []string{env}, probePath(t), module, "differ", "NSS Generic Crypto Services", "")
		if err != nil {
			t.Fatalf("%s: %v\n%s", module, err, out)
		}
		return out
	}
	same("NSS behind the module", run(nssModule), run(behind.Path))
}

// sanitized builds the probe and the module with a sanitizer, or skips where there is none.
func sanitized(t *testing.T, flags ...string) (probe, module string) {
	t.Helper()
	d, err := os.MkdirTemp(dir, "sanitized-")
	if err != nil {
		t.Fatal(err)
	}
	probe, module = filepath.Join(d, "probe"), filepath.Join(d, "faulthsm.so")
	done := make(chan error, 1)
	go func() { done <- buildProbe(probe, flags...) }()
	err = buildModule(t.Context(), module, flags...)
	if e := <-done; err == nil {
		err = e
	}
	if err != nil {
		t.Skipf("no sanitizers here: %v", err)
	}
	return probe, module
}

// TestMemory hammers the module, built with the address and undefined-behaviour sanitizers, with eight threads while statements of every kind
// come and go by socket and file: nothing is used after it was freed, and nothing is lost.
func TestMemory(t *testing.T) {
	r := softHSM(t)
	probe, module := sanitized(t, sanitize...)
	hammer(t, r, probe, module, "ASAN_OPTIONS=detect_leaks=1:exitcode=99", "LSAN_OPTIONS=suppressions="+suppressions(t))
}

// suppressions names the libraries that are not ours: SoftHSM and OpenSSL keep things at exit.
func suppressions(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leaks")
	if err := os.WriteFile(path, []byte("leak:libsofthsm2\nleak:libcrypto\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func hammer(t *testing.T, r *rig, probe, module string, env ...string) {
	t.Helper()
	d, err := os.MkdirTemp(dir, "hammer-")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Install(d, module, realModule(t, "softhsm", "REQUIRE_SOFTHSM"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, probe, m.Path, "hammer", r.cfg.TokenLabel, userPIN, "1")
	cmd.Env = append(os.Environ(), env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		_ = cmd.Wait()
		t.Fatalf("the probe did not begin: %q %s", lines.Text(), said.String())
	}
	conn, err := m.Conn(ctx, cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rounds := 0
	for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); rounds++ {
		if err := conn.Add(ctx, everything(rounds)...); err != nil {
			t.Fatal(err)
		}
		if err := m.Write(Rule{ID: fmt.Sprint("file", rounds), On: []string{"crypto"}, Probability: 0.01, Do: []Effect{Hang()}}, fails("stays", "C_Verify")); err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"list", "stats", "log 500", "status", "release all", "now logout code 257", "now forget-objects", "now leak 10KiB", "reload"} {
			if _, err := conn.Do(ctx, verb); err != nil {
				t.Fatalf("%s: %v", verb, err)
			}
		}
		if rounds%5 == 0 {
			if err := conn.Now(ctx, CloseSessions()); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Clear(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Apply(ctx); err != nil { // so that nothing hangs when it wants to end
		t.Fatal(err)
	}
	if err := conn.Clear(ctx); err != nil {
		t.Fatal(err)
	}
	lines.Scan()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	var good, bad int
	if _, err := fmt.Sscanf(lines.Text(), "good %d bad %d", &good, &bad); err != nil || good == 0 || bad == 0 || rounds < 2 {
		t.Errorf("%q after %d rounds: %v; want both good and bad calls", lines.Text(), rounds, err)
	}
}

// everything is a rule with each effect that a hammered process survives, and each other statement.
func everything(round int) []Statement {
	all := []Statement{
		Sessions{Max: 20}, Objects{Max: 30}, Opens{Max: 64, Per: time.Second}, PINTries(5), Clock{Ahead: time.Duration(round+1) * time.Minute}, Seed(round), Device{"yubihsm2", 0.001},
	}
	effects := []Effect{
		Return(0x30), ReturnPending(0x6), Return(0x150), Sleep(Exponential(time.Millisecond)), Flip(), Shorten(4), Leak(100), CloseSession(),
		CloseSessions(), ForgetObjects(), Logout(), LogoutWith(0x101), RemoveToken(time.Millisecond), Serve(3, Uniform(time.Microsecond, time.Millisecond)), Nothing(),
	}
	for i, e := range effects {
		all = append(all, Rule{ID: fmt.Sprint("r", i), On: []string{"C_SignInit", "C_Sign", "C_CreateObject", "C_DestroyObject", "C_OpenSession"},
			Probability: 0.02, Do: []Effect{e}})
		if !strings.HasPrefix(string(e), "return") {
			all = append(all, Rule{ID: fmt.Sprint("late", i), On: []string{"session"}, Every: 97 + i, Do: []Effect{Call(), e, Return(0x5)}})
		}
	}
	return all
}

// TestFork: children of a process whose threads are inside the module find nothing locked, and one may begin anew, with a socket of its own.
func TestFork(t *testing.T) {
	r := softHSM(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := r.m.Write(Rule{ID: "busy", On: []string{"session"}, Do: []Effect{Nothing()}}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, probePath(t), r.m.Path, "fork", r.cfg.TokenLabel, userPIN)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	lines := bufio.NewScanner(out)
	said := map[string]bool{}
	for lines.Scan() {
		said[lines.Text()] = true
		_, _ = fmt.Sscanf(lines.Text(), "child %d", &child)
		if child == 0 || !said["child: session"] {
			continue
		}
		conn, err := r.m.Conn(ctx, child)
		if err != nil {
			t.Fatal(err)
		}
		st, err := conn.Status(ctx)
		if err != nil || st.PID != child || st.Sessions == 0 || st.Statements != 1 {
			t.Errorf("the child: %+v, %v", st, err)
		}
		if err := conn.Now(ctx, Crash()); err == nil {
			t.Error("the child did not crash")
		}
		_ = conn.Close()
		child = 0
		said["child: session"] = false
	}
	if err := cmd.Wait(); err != nil || !said["child ended 11"] {
		t.Errorf("%v, %v", err, said)
	}
}
