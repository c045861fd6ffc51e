package faulthsm

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed module/*.c module/*.h module/flags
var sources embed.FS

// lintSources are the files of the checker; the module has all but lint.c.
var lintSources = []string{"lint.c", "lang.c", "rule.c", "words.c", "canonical.c", "items.c", "names.c", "device.c", "wait.c"}

// Binaries are what Build makes.
type Binaries struct {
	// Module is the path of faulthsm.so.
	Module string
	// Lint is the path of faulthsm-lint, which checks control files.
	Lint string
}

// Build compiles the module and its checker into dir, with the C compiler in $CC or cc. The sources are in the program, so
// no checkout is needed. The error holds what the compiler said.
func Build(ctx context.Context, dir string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, fmt.Errorf("faulthsm: %w", err)
	}
	b := Binaries{Module: filepath.Join(dir, "faulthsm.so"), Lint: filepath.Join(dir, "faulthsm-lint")}
	lint := make(chan error, 1)
	go func() { lint <- buildLint(ctx, b.Lint) }()
	return b, errors.Join(buildModule(ctx, b.Module), <-lint)
}

func buildModule(ctx context.Context, out string, flags ...string) error {
	return withSources(func(src string, all []string) error {
		module := slices.DeleteFunc(all, func(name string) bool { return name == "lint.c" })
		return compile(ctx, src, slices.Concat([]string{"@flags"}, flags, []string{"-shared", "-o", out}, module))
	})
}

func buildLint(ctx context.Context, out string, flags ...string) error {
	return withSources(func(src string, _ []string) error {
		return compile(ctx, src, slices.Concat([]string{"@flags"}, flags, []string{"-o", out}, lintSources))
	})
}

// withSources calls f with a directory that holds the sources, and the names of the .c files.
func withSources(f func(dir string, names []string) error) error {
	dir, err := os.MkdirTemp("", "faulthsm-src-")
	if err != nil {
		return fmt.Errorf("faulthsm: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var names []string
	err = fs.WalkDir(sources, "module", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := sources.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".c") {
			names = append(names, d.Name())
		}
		return os.WriteFile(filepath.Join(dir, d.Name()), b, 0o600)
	})
	if err != nil {
		return fmt.Errorf("faulthsm: unpacking the sources: %w", err)
	}
	return f(dir, names)
}

func compile(ctx context.Context, dir string, args []string) error {
	cc := strings.Fields(os.Getenv("CC")) // as Go itself reads it
	if len(cc) == 0 {
		cc = []string{"cc"}
	}
	args = slices.Concat(cc[1:], args, []string{"-ldl", "-lpthread", "-lm"})
	cmd := exec.CommandContext(ctx, cc[0], args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("faulthsm: no C compiler %q: install one (Debian: apt-get install gcc libc6-dev) or name it in CC", cc[0])
	}
	if err != nil {
		return fmt.Errorf("faulthsm: compiling the module: %w\n%s", err, out)
	}
	return nil
}

// Find returns the path of the module that "make faulthsm" made in the checkout around the working directory.
func Find() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("faulthsm: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			so := filepath.Join(dir, "bin", "faulthsm.so")
			if _, err := os.Stat(so); err != nil {
				return "", fmt.Errorf("faulthsm: no %s: run make faulthsm", so)
			}
			return so, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("faulthsm: the working directory is in no checkout: build the module with Build")
		}
		dir = up
	}
}
