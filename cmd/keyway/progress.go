package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// screen is standard error: a terminal with perhaps a status line at its bottom, which lines of text push down, or anything
// else, which has lines only. It is safe for concurrent use.
type screen struct {
	w        io.Writer
	terminal *os.File // nil for anything else

	mu     sync.Mutex // guards what follows
	status string
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.terminal = f
	}
	return s
}

// wipe returns to the beginning of the line and clears it.
const wipe = "\r\x1b[K"

// Write writes whole lines above the status line.
func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status == "" {
		return s.w.Write(b)
	}
	if _, err := io.WriteString(s.w, wipe); err != nil {
		return 0, err
	}
	n, err := s.w.Write(b)
	if err == nil {
		_, err = io.WriteString(s.w, s.status)
	}
	return n, err
}

// show replaces the status line; "" takes it away. On anything but a terminal it does nothing.
func (s *screen) show(status string) {
	if s.terminal == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A line that wraps could not be wiped.
	if width, _, err := term.GetSize(int(s.terminal.Fd())); err == nil && width > 1 {
		if r := []rune(status); len(r) >= width {
			status = string(r[:width-1])
		}
	}
	s.status = status
	_, _ = io.WriteString(s.w, wipe+status) // a terminal that is gone; what matters goes through Write
}

// progress shows how far long work is: a bar on a terminal, elsewhere a line for each step, of JSON where that is asked for.
type progress struct {
	out         *output
	done, total int
}

func newProgress(o *output, total int) *progress { return &progress{out: o, total: total} }

// step says what is being done now, which is one of the total.
func (p *progress) step(format string, a ...any) {
	p.done++
	p.total = max(p.total, p.done)
	what := fmt.Sprintf(format, a...)
	switch {
	case p.out.json:
		_ = json.NewEncoder(p.out.notes).Encode(map[string]any{"step": p.done, "of": p.total, "doing": what}) // to a standard error that is gone
	case p.out.notes.terminal != nil:
		p.out.notes.show(bar(p.done, p.total) + " " + what)
	default:
		fmt.Fprintf(p.out.notes, "[%d/%d] %s\n", p.done, p.total, what)
	}
}

// bar draws done of total.
func bar(done, total int) string {
	const width = 30
	full := width * done / max(1, total)
	return fmt.Sprintf("[%s%s] %d/%d", strings.Repeat("#", full), strings.Repeat(".", width-full), done, total)
}

// end takes the bar away.
func (p *progress) end() { p.out.notes.show("") }

// Bounds of how often somebody who waits is told so.
const (
	waitFirst = 2 * time.Second
	waitLine  = 15 * time.Second // between two lines, where there is no terminal
)

// waiting tells, until the function it returns is called, that what goes on: each second on a terminal's status line, now
// and then with a line elsewhere. Work of less than two seconds is not worth a word.
func (o *output) waiting(what func() string) (stop func()) {
	if o.json {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer o.notes.show("")
		every := time.Second
		if o.notes.terminal == nil {
			every = waitLine
		}
		begun := time.Now()
		t := time.NewTimer(waitFirst)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
			}
			line := fmt.Sprintf("%s (%s)", what(), time.Since(begun).Round(time.Second))
			if o.notes.terminal != nil {
				o.notes.show(line)
			} else {
				fmt.Fprintln(o.notes, line)
			}
			t.Reset(every)
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}
