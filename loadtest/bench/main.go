//go:build linux

// Command bench measures, side by side in one run, how fast a token is by
// itself and through everything that Keyway puts in front of it. docs/performance.md
// tells how to read what it prints.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"keyway/hsm/pkcs11"
)

// settings is one run's.
type settings struct {
	keyway      string
	env         []string // added to the gateway's environment
	embedded    bool
	module      string // "" for embedded tokens
	duration    time.Duration
	settle      time.Duration // how long a gateway that has just started is left alone
	rounds      int
	connections int
	sessions    int // of a member of the pool
	operations  []operation
	asides      bool
	command     string // as it was typed, for the report
}

// tokens names the kind of token.
func (s *settings) tokens() string {
	if s.module == "" {
		return "embedded token"
	}
	return "SoftHSM 2, " + s.module
}

func main() {
	if os.Getenv(workerEnv) != "" {
		if err := serveWorker(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit code: 0 done, 1 failed, 2 usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && strings.TrimLeft(args[0], "-") == "scale" {
		return runScale(ctx, args[1:], stdout, stderr)
	}
	s, out, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 2
	}
	b := &bench{settings: s, log: stderr}
	begun := time.Now()
	if err := b.runAll(ctx); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	b.note("done in %s", time.Since(begun).Round(time.Second))
	var report bytes.Buffer
	b.report(&report)
	if out != "" {
		if err := write(out, beginMark, endMark, report.Bytes()); err != nil {
			fmt.Fprintf(stderr, "bench: %v\n", err)
			return 1
		}
		b.note("written to %s", out)
		return 0
	}
	if _, err := stdout.Write(report.Bytes()); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// The marks between which a document holds a report.
const (
	beginMark = "<!-- bench: begin -->\n"
	endMark   = "<!-- bench: end -->\n"
)

// write writes the report to a file, or between the marks of one that has them.
func write(file, begin, end string, report []byte) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, between(old, begin, end, report), 0o644)
}

// between returns old with what stands between its marks replaced by report, or report alone.
func between(old []byte, begin, end string, report []byte) []byte {
	head, rest, begins := bytes.Cut(old, []byte(begin))
	_, tail, ends := bytes.Cut(rest, []byte(end))
	if !begins || !ends {
		return report
	}
	return slices.Concat(head, []byte(begin), report, []byte(end), tail)
}

// parse reads the command line; out is where the report goes, "" for standard output.
func parse(args []string, stderr io.Writer) (s *settings, out string, err error) {
	s = &settings{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.keyway, "keyway", "bin/keyway", "the program that serves HTTP")
	f.StringVar(&out, "o", "", "write the report, in Markdown, to this file; in one that has the two marks, such as docs/performance.md, only between them")
	f.BoolVar(&s.embedded, "embedded", false, "embedded tokens even where SoftHSM 2 is installed")
	f.DurationVar(&s.duration, "duration", time.Second, "how long each cell is measured in each round")
	f.IntVar(&s.rounds, "rounds", 5, "how many rounds there are; the report shows their medians")
	f.IntVar(&s.connections, "connections", 64, "connections of the gateway, and callers of pool.Do")
	f.IntVar(&s.sessions, "sessions", 16, "sessions of the raw loop, besides 1 and one for each processor; the pool opens 16 on each token")
	f.DurationVar(&s.settle, "settle", 2500*time.Millisecond, "how long a gateway that has just started is left alone before its memory is read")
	f.BoolVar(&s.asides, "asides", true, "also measure start, memory and keys not yet loaded")
	f.Bool("scale", false, "the other measurements, of scale and fairness, whose flags -scale -h lists; it must come first")
	names := make([]string, len(operations))
	for i, o := range operations {
		names[i] = o.name
	}
	only := f.String("only", "", "operations to measure, by commas, of "+strings.Join(names, ","))
	if err := f.Parse(args); err != nil {
		return nil, "", err
	}
	if f.NArg() > 0 {
		return nil, "", fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if s.duration <= 0 || s.rounds < 1 || s.connections < 1 || s.sessions < 1 {
		return nil, "", errors.New("-duration, -rounds, -connections and -sessions must be positive")
	}
	if _, err := exec.LookPath(s.keyway); err != nil {
		return nil, "", fmt.Errorf("-keyway: %w (make build makes it)", err)
	}
	s.operations = operations
	if *only != "" {
		if s.operations, err = choose(strings.Split(*only, ",")); err != nil {
			return nil, "", err
		}
	}
	if !s.embedded {
		if s.module, err = pkcs11.FindModule("softhsm"); err != nil {
			return nil, "", fmt.Errorf("%w; or measure embedded tokens with -embedded", err)
		}
	}
	s.command = strings.Join(append([]string{"go run ./loadtest/bench"}, args...), " ")
	return s, out, nil
}

// choose returns the named operations in the order of the report.
func choose(names []string) ([]operation, error) {
	var out []operation
	for _, o := range operations {
		for i, n := range names {
			if n == o.name {
				out = append(out, o)
				names = append(names[:i:i], names[i+1:]...)
				break
			}
		}
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("-only: there is no operation %q", names[0])
	}
	return out, nil
}

// runAll measures everything.
func (b *bench) runAll(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "keyway-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	defer func() {
		for i := len(b.closers) - 1; i >= 0; i-- {
			err = errors.Join(err, b.closers[i]())
		}
	}()
	if err := b.prepare(ctx, dir); err != nil {
		return err
	}
	if err := b.warm(ctx); err != nil {
		return err
	}
	for i := range b.settings.rounds {
		if err := b.round(ctx, i+1); err != nil {
			return err
		}
	}
	if !b.settings.asides {
		return nil
	}
	b.note("measuring memory under load and keys not yet loaded")
	if err := b.aside.underLoad(ctx, b.settings, b.node); err != nil {
		return err
	}
	return b.aside.coldKeys(ctx, b.node)
}
