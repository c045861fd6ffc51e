//go:build !linux

// Command bench measures how fast a token is by itself and through everything
// that Keyway puts in front of it. It reads the CPU clocks and the memory of other processes, which needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: it reads /proc and the CPU clocks of other processes, so it runs on Linux only")
	os.Exit(2)
}
