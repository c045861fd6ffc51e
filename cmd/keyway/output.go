package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// output is where a command's answer goes: a table for people, or JSON for programs. Notes are for people only.
type output struct {
	w, notes io.Writer
	json     bool
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

// progress shows how far long work is: a bar on a terminal, a line for each step elsewhere.
type progress struct {
	w           io.Writer
	bar         bool
	done, total int
}

func newProgress(w io.Writer, total int) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, bar: ok && term.IsTerminal(int(f.Fd())), total: total}
}

// step says what is being done now, which is one of the total.
func (p *progress) step(format string, a ...any) {
	p.done = min(p.done+1, p.total)
	what := fmt.Sprintf(format, a...)
	if !p.bar {
		fmt.Fprintf(p.w, "[%d/%d] %s\n", p.done, p.total, what)
		return
	}
	const width = 30
	full := width * p.done / max(1, p.total)
	fmt.Fprintf(p.w, "\r\x1b[K[%s%s] %d/%d %s", strings.Repeat("#", full), strings.Repeat(".", width-full), p.done, p.total, what)
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
