//go:build linux && cgo

package faulthsm

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// handleIn reads the number after a word of a line of the log.
func handleIn(t testing.TB, line, word string) uint64 {
	t.Helper()
	_, rest, _ := strings.Cut(line, word)
	rest, _, _ = strings.Cut(rest, " ")
	n, err := strconv.ParseUint(rest, 10, 64)
	if err != nil {
		t.Fatalf("no %s in %q", word, line)
	}
	return n
}

var probe struct {
	once sync.Once
	path string
	err  error
}

// probePath builds testdata/probe.c once.
func probePath(t testing.TB) string {
	t.Helper()
	probe.once.Do(func() {
		probe.path = filepath.Join(dir, "probe")
		probe.err = buildProbe(probe.path)
	})
	if probe.err != nil {
		t.Fatal(probe.err)
	}
	return probe.path
}

func buildProbe(out string, flags ...string) error {
	source, err := filepath.Abs("testdata/probe.c")
	if err != nil {
		return err
	}
	return withSources(func(src string, _ []string) error {
		return compile(context.Background(), src, slices.Concat([]string{"@flags"}, flags, []string{"-I.", "-o", out, source}))
	})
}
