//go:build linux

package worker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"keyway/hsm"
)

// attackEnv names what a worker does in which somebody else has the word.
const attackEnv = "KEYWAY_WORKER_ATTACK"

// attacks are answers to the first operation of the first session, or to the hello where they begin with "hello".
var attacks = map[string]func(h head) []byte{
	"hello no JSON":      func(h head) []byte { return (&answer{head: h, out: []byte("{")}).append(nil) },
	"hello below zero":   func(h head) []byte { return (&answer{head: h, out: []byte(`{"max_sessions":-1}`)}).append(nil) },
	"hello too long":     func(h head) []byte { return info(h, strings.Repeat("x", maxInfo)) },
	"hello another verb": func(h head) []byte { h.verb = verbOpen; return info(h, "x") },
	"hello escape":       func(h head) []byte { return info(h, "\x1b[31m\u202eevil\x00\xff") },
	"another sequence":   func(h head) []byte { h.seq++; return (&answer{head: h}).append(nil) },
	"another verb":       func(h head) []byte { h.verb = verbFind; return (&answer{head: h}).append(nil) },
	"twice": func(h head) []byte {
		return (&answer{head: h, out: []byte("x")}).append((&answer{head: h, out: []byte("x")}).append(nil))
	},
	"others first": func(h head) []byte {
		stranger, ping := h, head{verb: verbPing, seq: 77}
		stranger.session = 99
		return (&answer{head: h, out: []byte("x")}).append((&answer{head: ping}).append((&answer{head: stranger}).append(nil)))
	},
	"too long a frame": func(head) []byte { return binary.LittleEndian.AppendUint32(nil, maxFrame+1) },
	"no head":          func(head) []byte { return []byte{5, 0, 0, 0, 1, 2, 3, 4, 5} },
	"cut": func(h head) []byte {
		b := (&answer{head: h, out: make([]byte, 100)}).append(nil)
		return b[:50]
	},
	"long words": func(h head) []byte {
		b := beginFrame(nil, head{h.verb | answerBit, h.session, h.seq})
		return endFrame(appendBytes(append(b, hasText), bytes.Repeat([]byte("x"), maxText+1)), 0)
	},
	"no such flags":     func(h head) []byte { return raw(h, 0xF0) },
	"no such sentinel":  func(h head) []byte { return raw(h, hasSentinel, 0, 0x80) },
	"cut in the error":  func(h head) []byte { return raw(h, hasCode, 1, 2) },
	"nothing announced": func(h head) []byte { return raw(h, hasMore) },
	"escape": func(h head) []byte {
		return (&answer{head: h, err: errors.New("\x1b[2J\u202ebad\x00\xff\nline")}).append(nil)
	},
	"error and result": func(h head) []byte {
		return (&answer{head: h, err: hsm.ErrInput, out: []byte("plaintext")}).append(nil)
	},
	"lost, no error": func(h head) []byte {
		return (&answer{head: h, lost: hsm.ErrClosed, out: []byte("plaintext")}).append(nil)
	},
	"much":           func(h head) []byte { return (&answer{head: h, out: make([]byte, maxData)}).append(nil) },
	"a short handle": func(h head) []byte { return (&answer{head: h, out: make([]byte, 7)}).append(nil) },
}

func raw(h head, b ...byte) []byte {
	return endFrame(append(beginFrame(nil, head{h.verb | answerBit, h.session, h.seq}), b...), 0)
}

func info(h head, label string) []byte {
	b, err := json.Marshal(hsm.Info{Label: label})
	if err != nil {
		panic(err)
	}
	return (&answer{head: h, out: b}).append(nil)
}

// hostile is the life of such a worker.
func hostile(name string) {
	conn, err := net.FileConn(os.NewFile(inherited, "supervisor"))
	if err != nil {
		panic(err)
	}
	l := newLink(conn)
	next := func() head {
		frame, err := l.receive()
		if err != nil {
			os.Exit(0)
		}
		h, _, err := parseFrame(frame)
		if err != nil {
			panic(err)
		}
		return h
	}
	attack := attacks[name]
	if h := next(); strings.HasPrefix(name, "hello") {
		_, _ = conn.Write(attack(h))
	} else {
		_, _ = conn.Write(info(h, "hostile"))
		h = next()
		_, _ = conn.Write((&answer{head: h}).append(nil)) // the session is open
		_, _ = conn.Write(attack(next()))
	}
	if name == "cut" {
		os.Exit(0)
	}
	for {
		next()
	}
}

func TestHostileWorker(t *testing.T) {
	sent := []byte("what is asked")
	spawned := func(t *testing.T, name string, log *slog.Logger) (*Token, error) {
		t.Helper()
		c := config(t, "hostile", nil, attackEnv+"="+name)
		c.Log = log
		w, err := Spawn(t.Context(), c)
		if err == nil {
			t.Cleanup(func() {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		return w, err
	}
	do := func(t *testing.T, name string) (w *Token, op hsm.Op, memory []byte, lost error) {
		t.Helper()
		w, err := spawned(t, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		memory = bytes.Repeat([]byte{0x55}, 100)
		op = hsm.Op{Kind: hsm.OpSign, In: sent, Out: memory[:0:20]}
		lost = openSession(t, w).Do(&op)
		if !bytes.Equal(memory[20:], bytes.Repeat([]byte{0x55}, 80)) {
			t.Error("memory beyond Out was written")
		}
		return w, op, memory, lost
	}
	for name := range attacks {
		t.Run(name, func(t *testing.T) {
			switch name {
			case "hello escape":
				w, err := spawned(t, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got := w.Info().Label; strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == 0x202e }) || !strings.Contains(got, "evil") {
					t.Errorf("label %q", got)
				}
			case "hello no JSON", "hello below zero", "hello too long", "hello another verb":
				if _, err := spawned(t, name, nil); hsm.FaultOf(err) != hsm.Device || len(err.Error()) > 500 {
					t.Errorf("Spawn: %v", err)
				}
				if children := childrenOf(t, os.Getpid()); len(children) != 0 {
					t.Errorf("processes left behind: %v", children)
				}
			case "others first", "much":
				if _, op, _, lost := do(t, name); lost != nil || op.Err != nil || len(op.Out) != 1 && len(op.Out) != maxData {
					t.Errorf("%d bytes, %v, %v", len(op.Out), lost, op.Err)
				}
			case "twice": // the first answers the call; the second is one that nobody asked for
				w, op, _, lost := do(t, name)
				if lost != nil && lost != hsm.ErrLinkLost || lost == nil && string(op.Out) != "x" {
					t.Errorf("%q, %v", op.Out, lost)
				}
				<-w.Done()
			case "error and result":
				_, op, memory, lost := do(t, name)
				if lost != nil || !errors.Is(op.Err, hsm.ErrInput) || len(op.Out) != 0 || bytes.Contains(memory, []byte("plain")) {
					t.Errorf("%q, %v, %v; Out's memory holds %q", op.Out, lost, op.Err, memory[:20])
				}
			case "lost, no error":
				_, op, memory, lost := do(t, name)
				if !errors.Is(lost, hsm.ErrClosed) || op.Err != lost || len(op.Out) != 0 || bytes.Contains(memory, []byte("plain")) {
					t.Errorf("%q, %v, %v", op.Out, lost, op.Err)
				}
			case "escape":
				_, op, _, lost := do(t, name)
				if lost != nil || op.Err == nil || strings.ContainsFunc(op.Err.Error(), func(r rune) bool { return r < ' ' && r != '\n' || r == 0x202e }) {
					t.Errorf("%q, %v", op.Err, lost)
				}
			case "a short handle":
				w, err := spawned(t, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				if h, err := openSession(t, w).Find(hsm.ClassSecret, []byte{1}); h != 0 || hsm.FaultOf(err) != hsm.Device {
					t.Errorf("Find = %d, %v", h, err)
				}
			default: // whoever does not speak the protocol is killed, and every call says so
				w, op, _, lost := do(t, name)
				if !errors.Is(lost, hsm.ErrLinkLost) || op.Err != lost || len(op.Out) != 0 {
					t.Errorf("%q, %v, %v", op.Out, lost, op.Err)
				}
				<-w.Done()
			}
		})
	}
}

// A worker whose library never stops talking does not fill the log, nor does a line that never ends.
func TestALibraryThatTalksDoesNotFillTheLog(t *testing.T) {
	var log lines
	copyLines(log.logger(), strings.NewReader(strings.Repeat("chatter\n", 10_000)+strings.Repeat("x", 1<<20)+"\nlast"))
	if got := log.String(); strings.Count(got, "\n") > maxLines+1 || !strings.Contains(got, "left_out=9802") {
		t.Errorf("%d lines in the log; it ends %s", strings.Count(got, "\n"), got[max(0, len(got)-200):])
	}
	log = lines{}
	copyLines(log.logger(), strings.NewReader("one\n\n"+strings.Repeat("y", 3*maxLine)+"\nthree"))
	if got := log.String(); strings.Count(got, "worker says") != 3 || !strings.Contains(got, "line=three") || strings.Contains(got, "left_out") || len(got) > 2*maxLine {
		t.Errorf("the log of three lines has %d: %.300s", strings.Count(got, "\n"), got)
	}
}
