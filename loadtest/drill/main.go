//go:build linux

// Command drill measures what the pool promises on bad days: workers killed, stopped and hung, devices dead, slow and pulled out, members
// drained and removed, the whole gateway restarted, while requests flow whose answers are checked. It exits with 1 when a request failed, was
// answered wrongly or too late; times are reported, since machines differ. docs/performance.md shows what it prints.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// settings are one run's.
type settings struct {
	keyway string
	dir    string // "" for one that is removed
	rate   int
	conns  int
	// deadline is the gateway's for a request.
	deadline time.Duration
	// hedge is the pool's, 0 for its default.
	hedge time.Duration
	json  string
	only  string // acts whose name holds it
	// calm is how long there is load before and after each trouble.
	calm  time.Duration
	short bool
}

// lasts is how long a trouble lasts that takes d in the long form.
func (s settings) lasts(d time.Duration) time.Duration {
	if s.short {
		return d / 3
	}
	return d
}

var acts = []act{
	{"kill", true, killed},
	{"hang", false, hung},
	{"orders", true, ordered},
	{"dead", true, dead},
	{"pulled", false, pulled},
	{"slow", false, slow},
	{"custody", false, custodyAway},
	{"ready", false, ready},
	{"restart", false, restarted},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit code: 0 correct, 1 a promise of correctness broken or something failed, 2 usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "drill: %v\n", err)
		return 2
	}
	r, err := drill(ctx, s, stderr)
	if r != nil {
		r.Command = "go run ./loadtest/drill " + strings.Join(args, " ")
		r.table(stdout)
		if s.json != "" {
			err = errors.Join(err, r.write(s.json))
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "drill: %v\n", err)
		return 1
	}
	if r.broke() {
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("drill", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.keyway, "keyway", "bin/keyway", "the program")
	f.StringVar(&s.dir, "dir", "", "keep tokens, store and log in this directory, which must not exist or be empty")
	f.IntVar(&s.rate, "rate", 300, "requests a second at moderate load")
	f.IntVar(&s.conns, "connections", 32, "connections of the full load")
	f.DurationVar(&s.deadline, "deadline", 5*time.Second, "the gateway's for a request")
	f.DurationVar(&s.hedge, "hedge", 0, "the pool's hedge; 0: its default")
	f.DurationVar(&s.calm, "calm", 3*time.Second, "load before and after each trouble")
	f.StringVar(&s.only, "only", "", "only acts whose name holds this: kill, hang, orders, dead, pulled, slow, custody, ready, restart")
	f.BoolVar(&s.short, "short", false, "the short form: kill, orders, dead, shorter troubles")
	f.StringVar(&s.json, "json", "", "write the report as JSON here")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("%q: there are only flags", f.Arg(0))
	}
	if s.rate < 1 || s.conns < 4 || s.deadline <= 0 || s.hedge < 0 || s.calm <= 0 {
		return s, errors.New("-rate, -deadline and -calm must be positive, -connections at least 4")
	}
	return s, nil
}

// drill plays the acts. The report is there as soon as one was begun, even when the error says that something ended it early.
func drill(ctx context.Context, s settings, say io.Writer) (_ *Report, err error) {
	dir := s.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "keyway-drill-"); err != nil {
			return nil, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	st, err := prepare(ctx, s, dir, say)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.g.Stop()) }()
	r := &st.report
	r.Processors, r.Rate, r.Conns, r.Deadline, r.Load[0] = runtime.NumCPU(), s.rate, s.conns, s.deadline.Seconds(), loadAverage()
	begun := time.Now()
	for _, a := range acts {
		if s.short && !a.short || !strings.Contains(a.name, s.only) {
			continue
		}
		fmt.Fprintf(say, "drill: %3.0f s: %s\n", time.Since(begun).Seconds(), a.name)
		if err := a.play(ctx, st); err != nil {
			return r, fmt.Errorf("%s: %w; the gateway's log ends with %s", a.name, err, st.g.Tail())
		}
	}
	r.Load[1] = loadAverage()
	return r, nil
}
