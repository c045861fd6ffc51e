//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"keyway/hsm/pkcs11"
	"keyway/loadtest/faulthsm"
)

// figure is one of the measurements of -scale.
type figure struct {
	name, title string
	run         func(context.Context, *scale) (result, error)
}

// result is what a figure measured; it is marshalled as it is into the JSON report.
type result interface {
	// table writes it for people, in Markdown below the figure's title.
	table(w io.Writer)
}

// figures are in the order of the report.
var figures = []figure{
	{"capacity", "Throughput and the number of members", runCapacity},
	{"handles", "More keys than handles", runHandles},
	{"crowd", "Connections", runCrowd},
	{"fairness", "A client that asks for too much", runFairness},
	{"adaptive", "A device that says that it is busy", runAdaptive},
}

// scale is one run of -scale.
type scale struct {
	keyway   string
	duration time.Duration
	figures  []figure
	conns    int            // of crowd
	keys     int            // of handles
	lines    *regexp.Regexp // of the figures, which are measured
	command  string
	log      io.Writer

	dir      string
	devices  int    // that were made
	faulthsm string // the built module
	// What other programs and the hypervisor had of the processors while cells were measured, and all there was.
	others, stolen, whole time.Duration
}

// wants reports whether a line is to be measured.
func (s *scale) wants(title string) bool { return s.lines.MatchString(title) }

func (s *scale) note(format string, a ...any) { fmt.Fprintf(s.log, format+"\n", a...) }

// measure is meter.measure that also adds up what disturbed the run.
func (s *scale) measure(m *meter, work func(*cell) error) (*cell, error) {
	c, err := m.measure(work)
	if err == nil {
		s.others, s.stolen, s.whole = s.others+c.others, s.stolen+c.stolen, s.whole+c.elapsed*time.Duration(runtime.NumCPU())
	}
	return c, err
}

// scaleReport is the JSON report. Times are in nanoseconds.
type scaleReport struct {
	Command    string            `json:"command"`
	Processors int               `json:"processors"`
	Processor  string            `json:"processor"`
	Go         string            `json:"go"`
	Others     float64           `json:"others"` // share of the processors that other programs had
	Stolen     float64           `json:"stolen"` // share that the hypervisor kept back
	Figures    map[string]result `json:"figures"`
}

// runScale is the whole of -scale; it returns the exit code as run does.
func runScale(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, out, jsonFile, err := parseScale(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 2
	}
	begun := time.Now()
	r, err := s.runAll(ctx)
	if err == nil {
		s.note("done in %s", time.Since(begun).Round(time.Second))
		err = s.publish(r, out, jsonFile, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// parseScale reads the command line after -scale.
func parseScale(args []string, stderr io.Writer) (s *scale, out, jsonFile string, err error) {
	s = &scale{log: stderr}
	f := flag.NewFlagSet("bench -scale", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.keyway, "keyway", "bin/keyway", "the program that serves HTTP")
	f.StringVar(&out, "o", "", "write the report, in Markdown, to this file; in one that has the two marks, such as docs/performance.md, only between them")
	f.StringVar(&jsonFile, "json", "", "also write it as JSON to this file")
	f.DurationVar(&s.duration, "duration", 3*time.Second, "how long each cell is measured")
	f.IntVar(&s.conns, "connections", 10_000, "how many connections are open at once")
	f.IntVar(&s.keys, "keys", 10_000, "how many keys are in use where handles are few")
	lines := f.String("lines", "", "measure only lines that this regular expression fits, as they are told meanwhile")
	var names []string
	for _, g := range figures {
		names = append(names, g.name)
	}
	only := f.String("only", "", "figures to measure, by commas, of "+strings.Join(names, ","))
	if err := f.Parse(args); err != nil {
		return nil, "", "", err
	}
	if f.NArg() > 0 {
		return nil, "", "", fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if s.duration <= 0 || s.conns < 1 || s.keys < 1 {
		return nil, "", "", errors.New("-duration, -connections and -keys must be positive")
	}
	if s.lines, err = regexp.Compile(*lines); err != nil {
		return nil, "", "", fmt.Errorf("-lines: %w", err)
	}
	if _, err := exec.LookPath(s.keyway); err != nil {
		return nil, "", "", fmt.Errorf("-keyway: %w (make build makes it)", err)
	}
	if err := pkcs11.Usable(); err != nil {
		return nil, "", "", err
	}
	if _, err := pkcs11.FindModule("softhsm"); err != nil {
		return nil, "", "", err
	}
	s.figures = figures
	if *only != "" {
		s.figures = nil
		for _, name := range strings.Split(*only, ",") {
			i := slices.IndexFunc(figures, func(g figure) bool { return g.name == name })
			if i < 0 {
				return nil, "", "", fmt.Errorf("-only: there is no figure %q", name)
			}
			s.figures = append(s.figures, figures[i])
		}
	}
	s.command = strings.Join(append([]string{"go run ./loadtest/bench -scale"}, args...), " ")
	return s, out, jsonFile, nil
}

// runAll measures every figure.
func (s *scale) runAll(ctx context.Context) (_ *scaleReport, err error) {
	if s.dir, err = os.MkdirTemp("", "keyway-scale-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	b, err := faulthsm.Build(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	s.faulthsm = b.Module
	r := &scaleReport{Command: s.command, Processors: runtime.NumCPU(), Processor: processor(), Go: runtime.Version(), Figures: map[string]result{}}
	for _, f := range s.figures {
		s.note("%s", f.title)
		if r.Figures[f.name], err = f.run(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if s.whole > 0 {
		r.Others, r.Stolen = float64(s.others)/float64(s.whole), float64(s.stolen)/float64(s.whole)
	}
	return r, nil
}

// markdown writes the report for people.
func (r *scaleReport) markdown(w io.Writer) {
	fmt.Fprintf(w, "Made by `%s` on %d × %s, %s. Meanwhile other programs had %.0f %% of the processors and the hypervisor kept back %.0f %%.\n",
		r.Command, r.Processors, r.Processor, r.Go, 100*r.Others, 100*r.Stolen)
	for _, f := range figures {
		if v := r.Figures[f.name]; v != nil {
			fmt.Fprintf(w, "\n### %s\n\n", f.title)
			v.table(w)
		}
	}
}

// The marks between which a document holds the report of -scale.
const (
	scaleBegin = "<!-- scale: begin -->\n"
	scaleEnd   = "<!-- scale: end -->\n"
)

func (s *scale) publish(r *scaleReport, out, jsonFile string, stdout io.Writer) error {
	var text bytes.Buffer
	r.markdown(&text)
	if jsonFile != "" {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(jsonFile, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if out == "" {
		_, err := stdout.Write(text.Bytes())
		return err
	}
	s.note("written to %s", out)
	return write(out, scaleBegin, scaleEnd, text.Bytes())
}

// part writes which part of another rate one is, where the other was measured.
func part(rate, of float64) string {
	if of == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*rate/of)
}
