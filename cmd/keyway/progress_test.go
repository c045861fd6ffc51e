package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a pseudo-terminal of so many columns.
func openTerminal(t *testing.T, columns uint16) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	fd := int(ours.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: columns})
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	return ours, theirs
}

// rendered is what a person sees of an output with our one escape sequence: each line after everything was wiped.
func rendered(b []byte) []string {
	var out []string
	for _, line := range strings.Split(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n") {
		parts := strings.Split(line, wipe)
		out = append(out, parts[len(parts)-1])
	}
	return out
}

// On a terminal dev shows a bar, which lines of text and the log push down and which is gone at the end.
func TestDevShowsABarOnATerminal(t *testing.T) {
	ours, theirs := openTerminal(t, 60)
	dir := newDevDir(t, onEmbedded)
	c := exec.Command(program, "dev", "--dir", dir, "--embedded", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "info")
	c.Stderr = theirs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	var seen bytes.Buffer
	read := make(chan struct{})
	go func() { // ends when the program, the last to hold the other end, has ended
		defer close(read)
		_, _ = io.Copy(&seen, ours)
	}()
	for deadline := time.Now().Add(time.Minute); !exists(filepath.Join(dir, "dev.json")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = c.Process.Kill()
			t.Fatal("not ready")
		}
	}
	_ = c.Process.Signal(os.Interrupt)
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	<-read
	text := seen.String()
	bars := regexp.MustCompile(`\[#*\.*\] \d+/13 [^\r\x1b]*`).FindAllString(text, -1)
	if len(bars) < 13 || !strings.Contains(text, "["+strings.Repeat("#", 30)+"] 13/13") {
		t.Errorf("%d bars: %q", len(bars), bars)
	}
	for _, b := range bars {
		if len(b) > 59 {
			t.Errorf("%q is wider than the terminal: it could not be wiped", b)
		}
	}
	ready := false
	for _, line := range rendered(seen.Bytes()) {
		if strings.Contains(line, "/13") {
			t.Errorf("a bar was left behind: %q", line)
		}
		if strings.Contains(line, "level=INFO") && !strings.HasPrefix(line, "time=") {
			t.Errorf("a line of the log is broken: %q", line)
		}
		ready = ready || strings.HasPrefix(line, "ready: gateway http://")
	}
	if !ready {
		t.Errorf("it does not say that it is ready: %q", text)
	}
}

func TestProgressElsewhereIsALineForEachStep(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(newOutput(io.Discard, &b, false), 2)
	p.step("the %s", "first")
	p.step("the second")
	p.step("one more than was foreseen")
	p.end()
	if want := "[1/2] the first\n[2/2] the second\n[3/3] one more than was foreseen\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	p = newProgress(newOutput(io.Discard, &b, true), 1)
	p.step("it")
	p.end()
	if want := `{"doing":"it","of":1,"step":1}` + "\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// Who waits is told so after two seconds, and then now and then; short work is not worth a word.
func TestWaitingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b logBuffer
		o := newOutput(io.Discard, &b, false)
		stop := o.waiting(func() string { return "waiting for x" })
		time.Sleep(1900 * time.Millisecond)
		stop()
		if b.String() != "" {
			t.Errorf("after 1.9 s: %q", b.String())
		}
		stop = o.waiting(func() string { return "waiting for x" })
		time.Sleep(20 * time.Second)
		stop()
		if want := "waiting for x (2s)\nwaiting for x (17s)\n"; b.String() != want {
			t.Errorf("after 20 s: %q, want %q", b.String(), want)
		}
	})
}
