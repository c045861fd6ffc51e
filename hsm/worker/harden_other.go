//go:build !linux

package worker

import "syscall"

// harden forbids core files; other systems have no general switch against attaching.
func harden() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
