//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/pool"
)

// The token that takes time takes it, says when it is busy, and shows which key it used.
func TestATimedTokenIsWhatItSays(t *testing.T) {
	tok := &timed{mean: 2 * time.Millisecond, most: 1}
	p, err := timedPool(t.Context(), []*timed{tok}, pool.MemberConfig{Sessions: 1, Handles: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 20 {
		if _, err := askTimed(t.Context(), p, timedKey(i%2)); err != nil {
			t.Fatal(err)
		}
	}
	// Each answer took a destruction, a loading and the call itself; the mean is right whatever single sleeps were.
	calls, spent := timedTotals([]*timed{tok})
	if calls < 59 || tok.live.Load() != 1 || tok.peak.Load() != 1 {
		t.Errorf("%d calls, %d objects, %d at most", calls, tok.live.Load(), tok.peak.Load())
	}
	if mean := spent / time.Duration(calls); mean < tok.mean/2 {
		t.Errorf("calls of %s took %s", tok.mean, mean)
	}
	s, err := tok.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tok.inside.Add(1)
	op := hsm.Op{Kind: hsm.OpRandom, Len: 1}
	if err := s.Do(&op); err != nil || hsm.FaultOf(op.Err) != hsm.Busy {
		t.Errorf("a second call at once: %v, %v", err, op.Err)
	}
}

func TestWrongAnswersEndARun(t *testing.T) {
	p := &pacer{want: []byte("right")}
	c := &connection{in: make([]byte, 0, pacedBuffer)}
	for _, body := range []string{"right", "wrong"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body); err != nil {
			t.Fatal(err)
		}
		c.fd, c.in = int(r.Fd()), c.in[:0]
		var into cell
		done, err := p.take(&into, c)
		if good := body == "right"; done != good || (err == nil) != good || into.ops == 1 != good {
			t.Errorf("%s: %v, %v, %d counted", body, done, err, into.ops)
		}
		if err := errors.Join(w.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestScaleUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"-duration", "0s"}, {"-only", "x", "-keyway", "/bin/sh"}, {"stray"}, {"-nothing"}, {"-keyway", "/nonexistent/keyway"}, {"-lines", "("}} {
		var log bytes.Buffer
		if code := run(t.Context(), append([]string{"-scale"}, args...), &log, &log); code != 2 {
			t.Errorf("%v: exit code %d, want 2: %s", args, code, &log)
		}
	}
}

func TestScaleArithmetic(t *testing.T) {
	if n := (&capacityRow{Members: 8, AtOnce: 16, Service: 2 * time.Millisecond}).nominal(); n != 64_000 {
		t.Errorf("8 × 16 / 2 ms is %v", n)
	}
	if m := (&fairnessRow{AloneP99: 2 * time.Millisecond, BesideP99: 3 * time.Millisecond}).more(); m != 0.5 {
		t.Errorf("3 ms is %v more than 2 ms", m)
	}
	if n := (&crowd{Connections: 100, Before: 1000, After: 3000}).each(); n != 20 {
		t.Errorf("%d bytes each", n)
	}
	var w strings.Builder
	(&adaptiveFigure{AtOnce: 10, Service: time.Millisecond, Rows: []adaptiveRow{{Members: 1, Sessions: 10, Rate: 200}, {Members: 1, Sessions: 64, Rate: 190}}}).table(&w)
	if !strings.Contains(w.String(), "| 190 | 95 % |") {
		t.Errorf("190 of 200 is 95 %%: %s", w.String())
	}
	w.Reset()
	(&handlesFigure{[]handlesRow{{Token: "x", Handles: 9, Keys: 9, Rate: 400}, {Token: "x", Handles: 1, Keys: 9, Rate: 100}}}).table(&w)
	if !strings.Contains(w.String(), "| 100 | 25 % |") {
		t.Errorf("100 of 400 is 25 %%: %s", w.String())
	}
}
