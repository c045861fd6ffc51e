//go:build !linux

package worker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

var errSystem = fmt.Errorf("worker processes need Linux, this is %s; set isolation: none: %w", runtime.GOOS, errors.ErrUnsupported)

func harden() error { return errSystem }

// NoCoreFiles is for systems that have workers.
func NoCoreFiles() error { return nil }

func childAttributes() *syscall.SysProcAttr { return nil }

func socketPair() (ours, theirs *os.File, err error) { return nil, nil, errSystem }
