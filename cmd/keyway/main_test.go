package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
)

// program is the keyway that these tests run: real processes of the real program, built once.
var program string

// templates are directories of keyway dev, by kind of token, that tests copy: making their RSA keys takes seconds.
var templates struct {
	sync.Mutex
	root string
	dirs map[string]string
	errs map[string]error
}

func TestMain(m *testing.M) { os.Exit(withProgram(m)) }

func withProgram(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyway-cmd-")
	if err == nil {
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "keyway")
		templates.root, templates.dirs, templates.errs = dir, map[string]string{}, map[string]error{}
		args := append([]string{"build", "-o", program}, raceFlags...)
		var out []byte
		if out, err = exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
			err = fmt.Errorf("building keyway: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const (
	onSoftHSM  = "softhsm"
	onEmbedded = "embedded"
)

// kinds runs f with each kind of token.
func kinds(t *testing.T, f func(t *testing.T, kind string)) {
	for _, k := range []string{onSoftHSM, onEmbedded} {
		t.Run(k, func(t *testing.T) { f(t, k) })
	}
}

// flagsOf are dev's flags for a kind of token.
func flagsOf(kind string) []string {
	if kind == onEmbedded {
		return []string{"--embedded"}
	}
	return nil
}

// need skips a test for SoftHSM where it is not installed, saying so; REQUIRE_SOFTHSM=1 makes that a failure.
func need(t testing.TB, kind string) {
	t.Helper()
	if kind != onSoftHSM {
		return
	}
	if err := pkcs11.Usable(); err != nil {
		t.Skip(err) // make test-pure; make test runs it
	}
	if _, err := pkcs11.FindModule("softhsm"); err != nil {
		if os.Getenv("REQUIRE_SOFTHSM") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// newDevDir returns a directory in which keyway dev has run before, of the test's own.
func newDevDir(t testing.TB, kind string) string {
	t.Helper()
	need(t, kind)
	dir := filepath.Join(t.TempDir(), "dev")
	if err := copyTemplate(kind, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyTemplate copies a template, making it first where it was not needed so far.
func copyTemplate(kind, to string) error {
	templates.Lock()
	defer templates.Unlock()
	from, ok := templates.dirs[kind]
	if !ok {
		from = filepath.Join(templates.root, kind)
		templates.dirs[kind] = from
		templates.errs[kind] = makeTemplate(kind, from)
	}
	if err := templates.errs[kind]; err != nil {
		return err
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func makeTemplate(kind, dir string) error {
	args := append([]string{"dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, flagsOf(kind)...)
	c := exec.Command(program, args...)
	log, err := os.CreateTemp(templates.root, "log")
	if err != nil {
		return err
	}
	defer log.Close()
	c.Stderr = log
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	said := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "dev.json")); err == nil {
			break
		}
		select {
		case err := <-ended:
			return fmt.Errorf("keyway dev ended (%v): %s", err, said())
		default:
		}
		if time.Now().After(deadline) {
			_ = c.Process.Kill()
			return fmt.Errorf("keyway dev is not ready: %s", said())
		}
	}
	_ = c.Process.Signal(os.Interrupt)
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("keyway dev, interrupted: %w: %s", err, said())
		}
		return nil
	case <-time.After(time.Minute):
		_ = c.Process.Kill()
		return errors.New("keyway dev does not end")
	}
}
