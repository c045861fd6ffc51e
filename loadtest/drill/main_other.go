//go:build !linux

// Command drill measures what the pool promises on bad days. It stops processes by signals
// and reads /proc, which needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "drill: it stops processes by signals and reads /proc, so it runs on Linux only")
	os.Exit(2)
}
