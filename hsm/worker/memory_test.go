//go:build linux

package worker

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"keyway/hsm"
)

// search counts how often a secret is in the memory of a process that can be written, which is what a core file would
// hold. The secret is given masked, so that looking for it leaves no copy.
func search(t *testing.T, pid int, masked []byte) int {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	buf := make([]byte, 1<<20)
	found, read := 0, int64(0)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var perms string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &perms); err != nil || !strings.HasPrefix(perms, "rw") {
			continue
		}
		for at := from; at < to; {
			n, err := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
			if n == 0 || err != nil && !errors.Is(err, io.EOF) {
				break // the kernel's own pages
			}
			read += int64(n)
			for i := 0; i+len(masked) <= n; i++ {
				same := true
				for j := 0; same && j < len(masked); j++ {
					same = buf[i+j]^mask == masked[j]
				}
				if same {
					found++
				}
			}
			clear(buf)
			at += max(int64(n-len(masked)), 1)
		}
	}
	if read < 1<<20 {
		t.Fatalf("only %d bytes of process %d could be read", read, pid)
	}
	return found
}

const mask = 0x5A

// newSecret returns random letters and the same masked.
func newSecret() (secret, masked []byte) {
	secret, masked = make([]byte, 24), make([]byte, 24)
	_, _ = rand.Read(secret)
	for i := range secret {
		secret[i] = 'a' + secret[i]%26
		masked[i] = secret[i] ^ mask
	}
	return secret, masked
}

// TestAPINLeavesMemory: once the token is open and its owner has wiped the PIN, it is in no memory that a core file or
// a debugger would show, on either side.
func TestAPINLeavesMemory(t *testing.T) {
	secret, masked := newSecret()
	if n := search(t, os.Getpid(), masked); n == 0 {
		t.Fatal("the search does not find what is there")
	}
	c := config(t, "echo", echoParams{})
	c.PIN = hsm.NewPIN(secret)
	w := spawn(t, c)
	openSession(t, w)
	if err := w.Ping(t.Context()); err != nil { // both receivers have gone on
		t.Fatal(err)
	}
	c.PIN.Wipe()
	clear(secret)
	if n := search(t, os.Getpid(), masked); n != 0 {
		t.Errorf("the PIN is %d times in the supervisor's memory", n)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", w.PID()))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EPERM) {
		return // not even root may look: better still
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = mem.Close()
	if n := search(t, w.PID(), masked); n != 0 {
		t.Errorf("the PIN is %d times in the worker's memory", n)
	}
	for _, name := range []string{"environ", "cmdline"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", w.PID(), name))
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= mask
		}
		if bytes.Contains(b, masked) {
			t.Errorf("the PIN is in the worker's %s", name)
		}
	}
}
