package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// output is where a command's answer goes: a table for people, or JSON for programs. Notes, logs and the progress bar
// share the screen; notes are for people only.
type output struct {
	w     io.Writer
	notes *screen
	json  bool
}

func newOutput(w, notes io.Writer, json bool) *output {
	return &output{w: w, notes: newScreen(notes), json: json}
}

// answer writes v as JSON, or what human writes.
func (o *output) answer(v any, human func(w io.Writer)) error {
	if o.json {
		e := json.NewEncoder(o.w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(o.w, 0, 4, 2, ' ', 0)
	human(t)
	return t.Flush()
}

// note says something beside the answer.
func (o *output) note(format string, a ...any) {
	if !o.json {
		fmt.Fprintf(o.notes, format+"\n", a...)
	}
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	s := make([]string, len(cells))
	for i, c := range cells {
		s[i] = printable(fmt.Sprint(c))
		if s[i] == "" {
			s[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(s, "\t"))
}

// printable keeps what a server sent from driving the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// fail tells what went wrong.
func (o *output) fail(err error) {
	if !o.json {
		fmt.Fprintf(o.notes, "keyway: %v\n", err)
		return
	}
	v := struct {
		Error string        `json:"error"`
		Wrong []*wrongField `json:"wrong,omitempty"`
	}{Error: err.Error()}
	var c *configError
	if errors.As(err, &c) {
		v.Wrong = c.wrong
	}
	_ = json.NewEncoder(o.notes).Encode(v) // to a standard error that is gone
}

// version answers which program this is.
func (o *output) version() error {
	v := struct {
		Version string `json:"version"`
		Go      string `json:"go"`
		OS      string `json:"os"`
		Arch    string `json:"arch"`
	}{version(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
	return o.answer(v, func(w io.Writer) { fmt.Fprintf(w, "keyway %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch) })
}
