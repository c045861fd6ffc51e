// Command build compiles the fault-injecting PKCS#11 module and its checker into a directory.
package main

import (
	"context"
	"fmt"
	"os"

	"keyway/loadtest/faulthsm"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: build DIRECTORY")
		os.Exit(2)
	}
	err := os.MkdirAll(os.Args[1], 0o750)
	if err == nil {
		var b faulthsm.Binaries
		if b, err = faulthsm.Build(context.Background(), os.Args[1]); err == nil {
			fmt.Println(b.Module)
			fmt.Println(b.Lint)
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
