//go:build linux && cgo

package faulthsm

import (
	"context"
	"fmt"
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

// once builds something at most once, when it is first wanted.
type once struct {
	sync.Once
	path string
	err  error
}

func (o *once) get(t testing.TB, name string, build func(path string) error) string {
	t.Helper()
	o.Do(func() {
		o.path = filepath.Join(dir, name)
		o.err = build(o.path)
	})
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o.path
}

var binaries, probe once

// modulePath and lintPath are what Build makes, probePath is testdata/probe.c built.
func modulePath(t testing.TB) string {
	t.Helper()
	return binaries.get(t, "faulthsm.so", func(string) error {
		b, err := Build(context.Background(), dir)
		if err == nil && b != (Binaries{filepath.Join(dir, "faulthsm.so"), filepath.Join(dir, "faulthsm-lint")}) {
			err = fmt.Errorf("built %+v", b)
		}
		return err
	})
}

func lintPath(t testing.TB) string {
	t.Helper()
	return filepath.Join(filepath.Dir(modulePath(t)), "faulthsm-lint")
}

func probePath(t testing.TB) string {
	t.Helper()
	return probe.get(t, "probe", func(path string) error { return buildProbe(path) })
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
