package worker

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// harden keeps the worker's memory to itself: no core file, and no other process of
// the same user may attach to it or read /proc/PID/mem.
func harden() error {
	if err := NoCoreFiles(); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// NoCoreFiles keeps this process, and those it starts, from leaving its memory in a core file. It is for every process that
// sees PINs or clear text; workers, which hold more, do it by themselves.
func NoCoreFiles() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return os.NewSyscallError("setrlimit(RLIMIT_CORE)", err)
	}
	return nil
}

// childAttributes: a process group of its own, so that a Ctrl-C on the terminal does not end the workers before
// the drain, and an end with the thread that starts it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// socketPair returns two connected sockets, both closed on exec.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "supervisor"), nil
}
