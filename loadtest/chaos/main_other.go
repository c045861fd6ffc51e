//go:build !linux

// Command chaos breaks tokens while requests flow, and checks every answer. It stops processes by signals
// and reads /proc, which needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "chaos: it stops processes by signals and reads /proc, so it runs on Linux only")
	os.Exit(2)
}
