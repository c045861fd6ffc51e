//go:build linux

// Command chaos runs some keyways of its own, on one store, with a pool of four tokens, sends it requests at a constant rate, checks every
// answer, and meanwhile breaks the tokens in every way it knows, all but one at a time. It exits with 1 when a promise of the
// pool was broken, and writes a page that shows what happened. docs/ops/rehearsal.md says how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settings is one run's.
type settings struct {
	keyway string
	dir    string // "" for one that is removed
	time   time.Duration
	rate   int
	// gateways share the store, and the requests.
	gateways int
	// deadline is the gateway's for a request.
	deadline time.Duration
	seed     uint64
	// defaults: the pool's settings are the defaults, and no token computes wrong signatures, which only verify_signatures notices.
	defaults bool
	html     string
	json     string
	// segment bounds how long a member is the one that is left able, rest how long faults are apart.
	segment, rest span
	// brief leaves out the faults whose ends wait, for work that hangs or for a latch, and has ten times the patience with gateways that follow: a
	// brief run says nothing about speed.
	brief bool
	// recovery is how long a member may take to serve again when nothing is wrong with it any more.
	recovery time.Duration
	// leaving is how long what the load needed may take to go when it has ended.
	leaving time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole command; it returns the exit code: 0 all promises kept, 1 one was broken or something failed, 2 usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "chaos: %v\n", err)
		return 2
	}
	r, err := rehearse(ctx, s, stderr)
	if r != nil {
		r.table(stdout)
		err = errors.Join(err, r.write(s))
	}
	if err != nil {
		fmt.Fprintf(stderr, "chaos: %v\n", err)
		return 1
	}
	if len(r.Broken) > 0 {
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (settings, error) {
	s := settings{deadline: 5 * time.Second, segment: span{12 * time.Second, 24 * time.Second}, rest: span{300 * time.Millisecond, 3 * time.Second}, recovery: 45 * time.Second, leaving: 30 * time.Second}
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.keyway, "keyway", "bin/keyway", "the program")
	f.StringVar(&s.dir, "dir", "", "keep tokens, store and log in this directory, which must not exist or be empty")
	f.DurationVar(&s.time, "time", 10*time.Minute, "how long tokens are broken")
	f.IntVar(&s.rate, "rate", 300, "requests a second")
	f.IntVar(&s.gateways, "gateways", 2, "how many gateways share the store and the requests")
	f.Uint64Var(&s.seed, "seed", 0, "which faults, when and for how long follows from this number; 0 chooses one")
	f.BoolVar(&s.defaults, "defaults", false, "the pool's default settings: 3 attempts, and signatures not verified, so that none is made wrong")
	f.DurationVar(&s.rest.max, "pause", s.rest.max, "the longest time between two faults of a member")
	f.StringVar(&s.html, "html", "bin/chaos.html", "write the page with the report here; empty for none")
	f.StringVar(&s.json, "json", "", "write the report as JSON here")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("%q: there are only flags", f.Arg(0))
	}
	if s.time <= 0 || s.rate < 1 || s.rate > 100_000 {
		return s, errors.New("-time must be positive and -rate from 1 to 100000")
	}
	if s.gateways < 1 || s.gateways > 9 {
		return s, errors.New("-gateways must be from 1 to 9")
	}
	if s.rest.max < s.rest.min {
		return s, fmt.Errorf("-pause must be at least %s", s.rest.min)
	}
	if s.seed == 0 {
		s.seed = rand.Uint64N(1_000_000) + 1
	}
	return s, nil
}

// span is a shortest and a longest time.
type span struct{ min, max time.Duration }

func (s span) pick(r *rand.Rand) time.Duration {
	if s.max <= s.min {
		return s.min
	}
	return s.min + time.Duration(r.Int64N(int64(s.max-s.min)))
}
