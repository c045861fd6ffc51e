// Command load runs every k6 script once, for a short time, against a keyway
// dev of its own, and prints what came of it. It exits with 1 when a threshold was crossed.
// The scripts themselves, and how to run them for longer against a gateway of one's own, are in loadtest/k6.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"keyway/loadtest/node"
)

// script is a k6 script with the rate it is run at here, in iterations a second: one that two processors shared with the
// gateway and k6 itself can bear.
type script struct {
	name string
	rate string
}

var scripts = []script{{"sign", "400"}, {"wrap", "200"}, {"mixed", "200"}, {"batch", "20"}}

// settings is one run's.
type settings struct {
	keyway, k6, dir string
	embedded        bool
	duration        time.Duration
	scripts         []script
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit code: 0 done, 1 a threshold was crossed or something failed, 2 usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "load: %v\n", err)
		return 2
	}
	results, err := s.runAll(ctx, stderr)
	table(stdout, results)
	if err != nil {
		fmt.Fprintf(stderr, "load: %v\n", err)
		return 1
	}
	fmt.Fprintln(stdout, "every threshold was kept")
	return 0
}

// parse reads the command line.
func parse(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.keyway, "keyway", "bin/keyway", "the program that serves HTTP")
	f.StringVar(&s.k6, "k6", "bin/k6", "the k6 program")
	f.StringVar(&s.dir, "scripts", "loadtest/k6", "the directory of the scripts")
	f.BoolVar(&s.embedded, "embedded", false, "embedded tokens even where SoftHSM 2 is installed")
	f.DurationVar(&s.duration, "duration", 12*time.Second, "how long each script runs")
	only := f.String("only", "", "scripts to run, by commas; default: all of sign,wrap,mixed,batch")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if s.duration < time.Second {
		return nil, errors.New("-duration: at least 1s, so that rates mean something")
	}
	for _, program := range []string{s.keyway, s.k6} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w (make build bin/k6 makes both programs)", err)
		}
	}
	s.scripts = scripts
	if *only == "" {
		return s, nil
	}
	s.scripts = nil
	for name := range strings.SplitSeq(*only, ",") {
		found := false
		for _, sc := range scripts {
			if sc.name == name {
				s.scripts, found = append(s.scripts, sc), true
			}
		}
		if !found {
			return nil, fmt.Errorf("-only: there is no script %q", name)
		}
	}
	return s, nil
}

// runAll runs the scripts one after the other. The results of those that ran are returned in any case.
func (s *settings) runAll(ctx context.Context, log io.Writer) (results []result, err error) {
	dir, err := os.MkdirTemp("", "keyway-load-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(log, "starting a gateway")
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var args []string
	if s.embedded {
		args = append(args, "--embedded")
	}
	n, err := node.Start(starting, node.Config{Keyway: s.keyway, Dir: filepath.Join(dir, "node"), Args: args})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	for _, sc := range s.scripts {
		fmt.Fprintf(log, "%s for %s at %s iterations a second\n", sc.name, s.duration, sc.rate)
		r, failed := s.runOne(ctx, sc, n.File(), filepath.Join(dir, sc.name+".json"))
		if r != nil {
			results = append(results, *r)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", sc.name, failed))
		}
		if ctx.Err() != nil {
			return results, errors.Join(err, ctx.Err())
		}
	}
	return results, err
}

// thresholdsCrossed is the exit code with which k6 says so.
const thresholdsCrossed = 99

// runOne runs one script; summary is the file that the script writes its figures to.
func (s *settings) runOne(ctx context.Context, sc script, devJSON, summary string) (*result, error) {
	var said strings.Builder
	// The REST API of k6 would want a port of its own.
	k6 := exec.CommandContext(ctx, s.k6, "run", "--quiet", "--no-usage-report", "--no-color", "--address", "", filepath.Join(s.dir, sc.name+".js"))
	k6.Env = append(os.Environ(), "K6_NO_USAGE_REPORT=true", "DEV_JSON="+devJSON, "SUMMARY="+summary, "RATE="+sc.rate, "DURATION="+s.duration.String())
	k6.Stdout, k6.Stderr = &said, &said
	k6.Cancel = func() error { return k6.Process.Signal(os.Interrupt) }
	k6.WaitDelay = 10 * time.Second
	failed := k6.Run()
	b, err := os.ReadFile(summary)
	if err != nil {
		return nil, fmt.Errorf("k6 left no summary (%w); it said:\n%s", errors.Join(failed, err), last(said.String()))
	}
	r, err := parseSummary(sc.name, b)
	if err != nil {
		return nil, err
	}
	var exit *exec.ExitError
	if errors.As(failed, &exit) && exit.ExitCode() == thresholdsCrossed && len(r.crossed) > 0 {
		return r, fmt.Errorf("crossed %s; k6 said:\n%s", strings.Join(r.crossed, "; "), last(said.String()))
	}
	if failed != nil {
		return r, fmt.Errorf("k6: %w; it said:\n%s", failed, last(said.String()))
	}
	if len(r.crossed) > 0 {
		return r, fmt.Errorf("crossed %s", strings.Join(r.crossed, "; "))
	}
	return r, nil
}

// last returns the end of what a program said.
func last(s string) string {
	const most = 4 << 10
	return s[max(0, len(s)-most):]
}
