//go:build linux && cgo

package faulthsm

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
)

// lint is a running checker, which is the module's own parser.
type lint struct {
	testing.TB
	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

func newLint(tb testing.TB, path string) *lint {
	tb.Helper()
	l := &lint{TB: tb, cmd: exec.Command(path, "--frames")}
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if l.out, err = l.cmd.StdoutPipe(); err != nil {
		tb.Fatal(err)
	}
	l.cmd.Stderr = tb.Output()
	if err := l.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = l.in.Close()
		if err := l.cmd.Wait(); err != nil {
			tb.Errorf("the checker ended with %v", err)
		}
	})
	return l
}

// ask returns "ok" and the canonical statements, or "error LINE TEXT".
func (l *lint) ask(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	if _, err := l.in.Write(append(b, text...)); err != nil {
		l.Fatalf("the checker is gone: %v", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(l.out, head[:]); err != nil {
		l.Fatalf("the checker is gone: %v", err)
	}
	answer := make([]byte, binary.LittleEndian.Uint32(head[:]))
	if _, err := io.ReadFull(l.out, answer); err != nil {
		l.Fatalf("the checker is gone: %v", err)
	}
	return string(answer)
}

func TestLanguageIsUnderstood(t *testing.T) {
	l := newLint(t, lintPath(t))
	f := func(text, want string) {
		t.Helper()
		if got := l.ask(text); got != "ok\n"+want {
			t.Errorf("%q: %s\nwant %s", text, got, want)
		}
	}
	f("", "")
	f("\n# a comment\n  \t\r\n", "")
	f("rule a on C_Sign do hang", "rule a on C_Sign do hang\n")
	f("  rule a on Sign,C_Encrypt do hang # trailing", "rule a on C_Encrypt,C_Sign do hang\n")
	f("rule a on any do nothing\r\nrule b on crypto do nothing\nrule c on session do nothing", "rule a on any do nothing\nrule b on crypto do nothing\nrule c on session do nothing\n")
	f("rule a on C_Sign do return CKR_DEVICE_ERROR", "rule a on C_Sign do return DEVICE_ERROR\n")
	f("rule a on C_Sign do return 0x30", "rule a on C_Sign do return DEVICE_ERROR\n")
	f("rule a on C_Sign do return 48 leave-active", "rule a on C_Sign do return DEVICE_ERROR leave-active\n")
	f("rule a on C_Sign do return 0x8000001a", "rule a on C_Sign do return 0x8000001A\n")
	f("rule a on C_Sign do sleep 1.5s", "rule a on C_Sign do sleep 1500ms\n")
	f("rule a on C_Sign do sleep fixed 90m", "rule a on C_Sign do sleep 90m\n")
	f("rule a on C_Sign do sleep uniform 1ms 2ms then call then sleep exponential 5us then return OK",
		"rule a on C_Sign do sleep uniform 1ms 2ms then call then sleep exponential 5us then return OK\n")
	f("rule a on C_Sign do sleep lognormal 5ms 0.50", "rule a on C_Sign do sleep lognormal 5ms 0.5\n")
	f("rule a on C_Sign times 2 every 3 skip 4 probability 0.25 from 1s lasts 2m session 0x10 key 7 slot 0 mechanism CKM_ECDSA do crash",
		"rule a on C_Sign every 3 skip 4 times 2 probability 0.25 from 1s lasts 2m session 16 key 7 slot 0 mechanism ECDSA do crash\n")
	f("rule a on C_Sign nth 5 mechanism 0x80000001 do logout code USER_NOT_LOGGED_IN", "rule a on C_Sign nth 5 mechanism 0x80000001 do logout code USER_NOT_LOGGED_IN\n")
	f("rule a on C_Sign do logout then close-session then close-sessions then forget-objects then remove-token for 3s then leak 64KiB",
		"rule a on C_Sign do logout then close-session then close-sessions then forget-objects then remove-token for 3s then leak 65536B\n")
	f("rule a on C_Sign do flip then flip bit 3 then shorten 2B", "rule a on C_Sign do flip then flip bit 3 then shorten 2B\n")
	f("rule a on C_Sign do serve 16 2ms refuse FUNCTION_FAILED beyond 1s", "rule a on C_Sign do serve 16 2ms refuse FUNCTION_FAILED beyond 1s\n")
	f("limit sessions 16 linger 30s\nlimit objects 100\nlimit opens 10 per 1s code ARGUMENTS_BAD",
		"limit sessions 16 linger 30s code SESSION_COUNT\nlimit objects 100 code DEVICE_MEMORY\nlimit opens 10 per 1s code ARGUMENTS_BAD\n")
	f("pin tries 3\ntoken absent\ndevice tpm scale 0.5\nseed 0xff", "pin tries 3\ntoken absent code DEVICE_REMOVED\ndevice tpm scale 0.5\nseed 255\n")
	f("token present", "token present\n")
	f("clock ahead 90s", "clock ahead 90s\n")
	f("clock behind 2m", "clock behind 2m\n")
	f("clock absent", "clock absent\n")
}

// TestLanguageErrorsHelp: every mistake names its line, what is wrong and what to write instead.
func TestLanguageErrorsHelp(t *testing.T) {
	l := newLint(t, lintPath(t))
	f := func(text, line string, parts ...string) {
		t.Helper()
		got := l.ask(text)
		if !strings.HasPrefix(got, "error "+line+" ") {
			t.Errorf("%q: %q, want an error in line %s", text, got, line)
		}
		for _, p := range parts {
			if !strings.Contains(got, p) {
				t.Errorf("%q: %q does not say %q", text, got, p)
			}
		}
	}
	f("seed 1\nrules a on any do hang", "2", `"rules"`, "write one of rule, limit, pin, clock, token, device, seed")
	f("rule", "1", "the rule's id")
	f("rule A on any do hang", "1", `"A" is no id`, "a-z, 0-9")
	f("rule a at any do hang", "1", `write "on"`)
	f("rule a on C_Sing do hang", "1", `"C_Sing"`, "did you mean C_Sign?")
	f("rule a on GenerateRandon do hang", "1", "did you mean C_GenerateRandom?")
	f("rule a on everything do hang", "1", "any, session or crypto")
	f("rule a on C_Sign, C_Encrypt do hang", "1", "a comma too many", "without spaces")
	f("rule a on C_Sign hang", "1", `unknown condition "hang"`, "nth, every")
	f("rule a on C_Sign", "1", `"do" and an effect`)
	f("rule a on C_Sign do", "1", "an effect")
	f("rule a on C_Sign do explode", "1", `unknown effect "explode"`, "return, sleep, hang")
	f("rule a on C_Sign do return DEVICE_EROR", "1", "did you mean DEVICE_ERROR?")
	f("rule a on C_Sign do return BANANA_SPLIT_99", "1", "a name as DEVICE_ERROR or a number as 0x30")
	f("rule a on C_Sign do return 0xZZ", "1", "write a whole number")
	f("rule a on C_Sign do sleep 5", "1", `"5" is not a time`, "500us, 5ms")
	f("rule a on C_Sign do sleep 5 ms", "1", `"5" is not a time`)
	f("rule a on C_Sign do sleep -5ms", "1", "no time")
	f("rule a on C_Sign do sleep 1h1m", "1", "a number with its unit")
	f("rule a on C_Sign do sleep 25h", "1", "from 1ns to 24h")
	f("rule a on C_Sign do sleep 0ms", "1", "from 1ns to 24h")
	f("rule a on C_Sign do sleep uniform 2ms 1ms", "1", "the shorter time first")
	f("rule a on C_Sign do sleep normal 2ms", "1", "lognormal 5ms 0.5")
	f("rule a on C_Sign do sleep lognormal 5ms 9", "1", "at most 5")
	f("rule a on C_Sign do hang and crash", "1", `"and" is too much here`)
	f("rule a on C_Sign do return OK then hang", "1", `nothing comes after "return"`)
	f("rule a on C_Sign do crash then hang", "1", "put them last")
	f("rule a on C_Sign do call then call", "1", `"call" is said twice`)
	f("rule a on C_Sign do serve 1 1ms then serve 1 1ms", "1", `"serve" is said twice`)
	f("rule a on C_Sign do serve 0 1ms", "1", "from 1 to 1024")
	f("rule a on C_Sign do serve 1 1ms refuse OK", "1", `write "beyond"`)
	f("rule a on C_Sign do leak 100", "1", "512B, 64KiB, 1MiB")
	f("rule a on C_Sign do leak 65MiB", "1", "1B to 64MiB")
	f("rule a on C_Sign nth 0 do hang", "1", "which call")
	f("rule a on C_Sign nth 1 times 2 do hang", "1", "leave out every, skip and times")
	f("rule a on C_Sign times 1 times 2 do hang", "1", `"times" is said twice`)
	f("rule a on C_Sign probability 1.5 do hang", "1", "at most 1")
	f("rule a on C_Sign probability 0 do hang", "1", "above 0")
	f("rule a on C_Sign mechanism ECDSB do hang", "1", "did you mean ECDSA?")
	f("rule a on C_Sign session x do hang", "1", "a session's handle")
	f("rule a on C_Sign key 99999999999999999999 do hang", "1", "a key's handle")
	f("rule a on C_Sign do hang\nrule a on C_Sign do crash", "2", `"a" above already`, "another id")
	f("seed 1\n\nseed 2", "3", "say it once")
	f("limit", "1", "limit sessions N")
	f("limit speed 3", "1", `unknown limit "speed"`)
	f("limit opens 3", "1", `write "per"`)
	f("limit sessions many", "1", `"many" is not how many sessions`)
	f("pin 3", "1", "write pin tries N")
	f("pin tries 0", "1", "from 1 to 100")
	f("clock slow", "1", "write clock ahead TIME, clock behind TIME or clock absent")
	f("clock ahead", "1", "how far it is ahead")
	f("token gone", "1", "write token absent or token present")
	f("token present code DEVICE_REMOVED", "1", "too much")
	f("device lunar", "1", "luna-a790", "yubihsm2", "tpm", "cloudhsm-hsm2m")
	f("device tpm scale 0", "1", "above 0")
	f("seed -1", "1", "a whole number")
	f("rule a on C_Sign do hang\x00", "1", "0x00", "printable ASCII")
	f("rule ä on C_Sign do hang", "1", "0xC3")
	f("rule a on C_Sign do hang "+strings.Repeat("#", 5000), "1", "5025 characters", "4096")
	f("rule a on C_Sign do "+strings.Repeat("hang then ", 8)+"hang", "1", "at most 8 effects")
	f(strings.Repeat("x ", 300), "1", "more than 256 words")
}

// TestTypedStatementsAreUnderstood draws rules at random: whatever the types can say, the language has.
func TestTypedStatementsAreUnderstood(t *testing.T) {
	l := newLint(t, lintPath(t))
	rnd := rand.New(rand.NewPCG(1, 2))
	d := func() time.Duration { return time.Duration(1 + rnd.Int64N(int64(time.Hour))) }
	number := func() *uint64 {
		if rnd.IntN(2) == 0 {
			return nil
		}
		n := rnd.Uint64()
		return &n
	}
	times := []func() Time{
		func() Time { return Fixed(d()) },
		func() Time { a := d(); return Uniform(a, a+d()) },
		func() Time { return Exponential(d()) },
		func() Time { return LogNormal(d(), 0.001+4.9*rnd.Float64()) },
	}
	some := func() Time { return times[rnd.IntN(len(times))]() }
	code := func() hsm.Code { return hsm.Code(rnd.Uint64() >> rnd.IntN(64)) }
	effects := []func() Effect{
		func() Effect { return Sleep(some()) }, Hang, Logout, CloseSession, CloseSessions, ForgetObjects, Flip, Nothing,
		func() Effect { return LogoutWith(code()) },
		func() Effect { return RemoveToken(0) },
		func() Effect { return RemoveToken(d()) },
		func() Effect { return FlipBit(rnd.IntN(1 << 20)) },
		func() Effect { return Shorten(1 + rnd.IntN(100)) },
		func() Effect { return Leak(1 + rnd.IntN(1<<20)) },
	}
	ends := []func() Effect{
		func() Effect { return Return(code()) }, func() Effect { return ReturnPending(code()) }, Crash,
		func() Effect { return Serve(1+rnd.IntN(1024), some()) },
		func() Effect { return ServeRefusing(1+rnd.IntN(1024), some(), code(), d()) },
	}
	for i := range 2000 {
		r := Rule{
			ID: "r", On: []string{"C_Sign", "crypto"}, Every: rnd.IntN(3), Skip: rnd.IntN(3), Times: rnd.IntN(3),
			Probability: float64(rnd.IntN(3)) / 2, From: time.Duration(rnd.IntN(2)) * d(), Lasts: time.Duration(rnd.IntN(2)) * d(),
			Session: number(), Key: number(), Slot: number(),
		}
		if rnd.IntN(2) == 0 {
			m := hsm.MechanismType(rnd.Uint32())
			r.Mechanism = &m
		}
		for range rnd.IntN(4) {
			r.Do = append(r.Do, effects[rnd.IntN(len(effects))]())
		}
		r.Do = append(r.Do, Call(), ends[rnd.IntN(len(ends))]())
		all := []Statement{r, Sessions{rnd.IntN(100), d(), code()}, Objects{rnd.IntN(100), code()}, Opens{1 + rnd.IntN(64), d(), code()},
			PINTries(1 + rnd.IntN(100)), Clock{Ahead: d() - time.Hour, Absent: rnd.IntN(3) == 0}, Token{Absent: rnd.IntN(2) == 0, Code: 0x30}, Device{"tpm", 0.5}, Seed(rnd.Uint64() >> 2), Text("# " + r.ID)}
		answer, ok := strings.CutPrefix(l.ask(join(all)), "ok\n")
		if !ok {
			t.Fatalf("%d: %s\n%s", i, answer, join(all))
		}
		if again := l.ask(answer); again != "ok\n"+answer {
			t.Fatalf("%d: the canonical form is not understood as itself:\n%s%s", i, answer, again)
		}
	}
}

// sanitize lets the compiler look for mistakes with memory and numbers, at no more cost than it must.
var sanitize = []string{"-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}

// FuzzLanguage: no text crashes the parser (which is built with sanitizers here), an error has a line and a text, and what is understood
// is understood again as itself in its canonical form.
func FuzzLanguage(f *testing.F) {
	path := filepath.Join(f.TempDir(), "lint")
	if err := buildLint(context.Background(), path, sanitize...); err != nil {
		f.Skipf("no sanitizers here: %v", err)
	}
	l := newLint(f, path)
	for _, s := range []string{
		"rule a on C_Sign,any every 3 skip 4 times 2 probability 0.25 from 1s lasts 2m session 0x10 key 7 slot 0 mechanism ECDSA do sleep lognormal 5ms 0.5 then call then return DEVICE_ERROR leave-active",
		"limit sessions 16 linger 30s code 0xB1\nlimit objects 3\nlimit opens 10 per 1s", "pin tries 3\ntoken absent code 5\ndevice yubihsm2 scale 0.1\nseed 1",
		"rule b on crypto do serve 3 uniform 1ms 2ms refuse FUNCTION_FAILED beyond 1s then flip bit 3 then shorten 1B then leak 1KiB", "rule\x00", "rule a on \xff do", "# c\n\r\n",
		"rule c on session nth 5 do hang then crash", "rule d on C_Verify lasts 1.5h do logout code USER_NOT_LOGGED_IN then close-session then forget-objects",
		"rule e on any do remove-token for 3s then nothing then close-sessions then flip then serve 1 exponential 5us", "token present", "limit opens 64 per 24h code 0x8000001A",
		"rule f on C_Sign do sleep fixed 0.5ns then return", "seed 18446744073709551615", "device luna-a790 scale 100", "pin tries 100 100", "clock behind 1ns", "clock absent",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<20 {
			return
		}
		answer := l.ask(text)
		if canonical, ok := strings.CutPrefix(answer, "ok\n"); ok {
			if again := l.ask(canonical); again != answer {
				t.Errorf("%q is understood as %q, and that as %q", text, canonical, again)
			}
			return
		}
		line, reason, _ := strings.Cut(strings.TrimPrefix(answer, "error "), " ")
		if line == "0" || line == "" || len(reason) < 10 {
			t.Errorf("%q: %q", text, answer)
		}
	})
}
