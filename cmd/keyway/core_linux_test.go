package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A node's memory, which holds clear text, must not end in a file when the node crashes, whatever limit it was started with.
func TestNodesWriteNoCoreFiles(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &was); err != nil {
		t.Fatal(err)
	}
	if was.Max == 0 {
		t.Skip("core files are forbidden to this process already, so that nothing can be seen of what the node forbids itself: run it after ulimit -Hc unlimited")
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: was.Max, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &was) })
	r := startDev(t, onEmbedded, t.TempDir())
	var got unix.Rlimit
	if err := unix.Prlimit(r.cmd.Process.Pid, unix.RLIMIT_CORE, nil, &got); err != nil {
		t.Fatal(err)
	}
	if got.Cur != 0 || got.Max != 0 {
		t.Errorf("core files of up to %d bytes (at most %d)", got.Cur, got.Max)
	}
}
