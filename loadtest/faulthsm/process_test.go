//go:build linux && cgo

package faulthsm

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keyway/hsm"
)

func TestSeveralProcessesFollowOneFile(t *testing.T) {
	r := softHSM(t)
	a, connA := r.worker()
	b, connB := r.worker()
	sa, sb := sessionOf(t, a), sessionOf(t, b)
	ka, kb := r.generate(sa, macSpec), r.generate(sb, macSpec)
	conns, err := r.m.Conns(r.ctx())
	if err != nil || len(conns) != 3 {
		t.Fatalf("%d sockets, %v; want those of two workers and of this process", len(conns), err)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	if err := r.m.Apply(r.ctx(), fails("file", "C_SignInit")); err != nil {
		t.Fatal(err)
	}
	if x, y := r.macs(sa, ka, 1), r.macs(sb, kb, 1); len(x) != 1 || len(y) != 1 {
		t.Errorf("the file's rule failed %v in one process, %v in the other", x, y)
	}
	if err := r.m.Apply(r.ctx()); err != nil {
		t.Fatal(err)
	}
	// What comes by the socket is for one process.
	if err := connA.Add(r.ctx(), fails("mine", "C_SignInit")); err != nil {
		t.Fatal(err)
	}
	if x, y := r.macs(sa, ka, 1), r.macs(sb, kb, 1); len(x) != 1 || len(y) != 0 {
		t.Errorf("the socket's rule failed %v in its process, %v in the other", x, y)
	}
	for _, c := range []*Conn{connA, connB} {
		if st, err := c.Status(r.ctx()); err != nil || st.PID == os.Getpid() {
			t.Errorf("%+v, %v", st, err)
		}
	}
	// A dead process's socket is cleared away.
	a.Kill()
	<-a.Done()
	if conns, err = r.m.Conns(r.ctx()); err != nil || len(conns) != 2 {
		t.Errorf("%d sockets after one process died, %v", len(conns), err)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	if left, _ := filepath.Glob(filepath.Join(r.m.Sockets, "*")); len(left) != 2 {
		t.Errorf("left: %q", left)
	}
}

// TestRulesHoldFromTheStart: what stands in the file acts on the first C_Initialize already.
func TestRulesHoldFromTheStart(t *testing.T) {
	r := softHSM(t)
	for code, want := range map[hsm.Code]string{hsm.DeviceError: "DEVICE_ERROR", hsm.CantLock: "CANT_LOCK"} {
		if err := r.m.Apply(r.ctx(), Rule{ID: "start", On: []string{"C_Initialize"}, Do: []Effect{Return(code)}}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.spawn(userPIN); hsm.FaultOf(err) != hsm.Device || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := r.m.Apply(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.worker()
}

func TestTwoModulesInOneProcess(t *testing.T) {
	a, b := softHSM(t), softHSM(t)
	sa, sb := a.session(), b.session()
	ka, kb := a.generate(sa, macSpec), b.generate(sb, macSpec)
	a.add(fails("a", "C_Sign"))
	if x, y := a.macs(sa, ka, 1), b.macs(sb, kb, 1); len(x) != 1 || len(y) != 0 {
		t.Errorf("the first module's rule failed %v there, %v in the second", x, y)
	}
}

func TestOneSymbol(t *testing.T) {
	f, err := elf.Open(modulePath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range all {
		if s.Section != elf.SHN_UNDEF {
			out = append(out, s.Name)
		}
	}
	if !slices.Equal(out, []string{"C_GetFunctionList"}) {
		t.Errorf("exported: %q", out)
	}
}

// TestConfiguration: what is wrong with it is said where an operator sees it.
func TestConfiguration(t *testing.T) {
	real := realModule(t, "softhsm", "REQUIRE_SOFTHSM")
	d := t.TempDir()
	conf := filepath.Join(d, "conf")
	for _, c := range []struct{ env, want string }{
		{"", "set FAULTHSM_MODULE"},
		{"FAULTHSM_MODULE=/nonexistent.so", "cannot load the real module: /nonexistent.so"},
		{"FAULTHSM_MODULE=" + modulePath(t), "is this module itself"},
		{"FAULTHSM_MODULE=/lib/x86_64-linux-gnu/libc.so.6", "it is no PKCS#11 module"},
		{"FAULTHSM_CONFIG=/nonexistent", "cannot read the configuration /nonexistent"},
		{"# a comment\nmodul /x\n", `line 2: unknown word "modul": write module, control, socket-dir or state`},
		{"module\n", `line 1: "module" has no path`},
		{"module " + real + "\n", "no such token"}, // all is well but the token
	} {
		if strings.HasSuffix(c.env, "libc.so.6") {
			if _, err := os.Stat(strings.TrimPrefix(c.env, "FAULTHSM_MODULE=")); err != nil {
				continue // another machine's C library is elsewhere
			}
		}
		if strings.HasSuffix(c.env, "\n") { // the text of a file
			if err := os.WriteFile(conf, []byte(c.env), 0o600); err != nil {
				t.Fatal(err)
			}
			c.env = "FAULTHSM_CONFIG=" + conf
		}
		out, err := command(t, []string{c.env}, probePath(t), modulePath(t), "flags", "nobody's")
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v, %q; want %q", c.env, err, out, c.want)
		}
	}
}

func TestEverythingByEnvironment(t *testing.T) {
	r := softHSM(t)
	d := t.TempDir()
	control, state := filepath.Join(d, "control"), filepath.Join(d, "state")
	if err := replace(control, []byte("pin tries 1\n")); err != nil {
		t.Fatal(err)
	}
	env := []string{"FAULTHSM_MODULE=" + realModule(t, "softhsm", "REQUIRE_SOFTHSM"), "FAULTHSM_CONTROL=" + control,
		"FAULTHSM_SOCKET_DIR=" + d, "FAULTHSM_STATE=" + state}
	for _, want := range []string{"0xA0", "0xA4"} {
		out, err := command(t, env, probePath(t), modulePath(t), "login", r.cfg.TokenLabel, "wrong")
		if err != nil || strings.TrimSpace(out) != want {
			t.Errorf("%q, %v; want %s", out, err, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(d, "*.sock")); len(left) != 0 {
		t.Errorf("a program that ended left %q behind", left)
	}
	if _, err := os.Stat(state); err != nil {
		t.Error(err)
	}
}
