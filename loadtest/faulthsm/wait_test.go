//go:build linux && cgo

package faulthsm

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
)

// took runs f and returns how long it took. Tests may say how long at least, never how long at most.
func took(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

func TestSleep(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	for name, c := range map[string]struct {
		e     []Effect
		least time.Duration
	}{
		"before":  {[]Effect{Sleep(Fixed(20 * time.Millisecond))}, 20 * time.Millisecond},
		"after":   {[]Effect{Call(), Sleep(Uniform(15*time.Millisecond, 30*time.Millisecond))}, 15 * time.Millisecond},
		"both":    {[]Effect{Sleep(Fixed(10 * time.Millisecond)), Call(), Sleep(Fixed(10 * time.Millisecond))}, 20 * time.Millisecond},
		"failing": {[]Effect{Sleep(Fixed(20 * time.Millisecond)), Return(hsm.FunctionFailed)}, 20 * time.Millisecond},
	} {
		r.add(Rule{ID: "slow", On: []string{"C_Sign"}, Do: c.e})
		op := mac(key)
		if d := took(func() {
			if err := s.Do(op); err != nil {
				t.Fatal(err)
			}
		}); d < c.least {
			t.Errorf("%s: took %s, want at least %s", name, d, c.least)
		}
		if failed := op.Err != nil; failed != (name == "failing") {
			t.Errorf("%s: %v", name, op.Err)
		}
		r.remove("slow")
	}
}

// TestDistributions draws from the module's own generator, without waiting.
func TestDistributions(t *testing.T) {
	const n = 20000
	draw := func(dist Time, seed int) []float64 {
		t.Helper()
		out, err := command(t, nil, lintPath(t), "--sample", "rule r on any do "+string(Sleep(dist)), strconv.Itoa(seed), strconv.Itoa(n))
		if err != nil {
			t.Fatal(err, out)
		}
		var all []float64
		for _, w := range strings.Fields(out) {
			f, err := strconv.ParseFloat(w, 64)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, f/1e6)
		}
		return all
	}
	about := func(name string, got, want, off float64) {
		t.Helper()
		if math.Abs(got-want) > off {
			t.Errorf("%s: %.3f ms, want %.3f ± %.3f", name, got, want, off)
		}
	}
	mean := func(v []float64) float64 {
		sum := 0.0
		for _, x := range v {
			sum += x
		}
		return sum / float64(len(v))
	}
	ms := time.Millisecond
	if v := draw(Fixed(5*ms), 1); slices.Min(v) != 5 || slices.Max(v) != 5 {
		t.Error("fixed 5ms is not always 5 ms")
	}
	v := draw(Uniform(2*ms, 8*ms), 1)
	about("uniform: mean", mean(v), 5, 0.06)
	if slices.Min(v) < 2 || slices.Max(v) > 8 || slices.Max(v)-slices.Min(v) < 5.9 {
		t.Errorf("uniform from %.3f to %.3f ms", slices.Min(v), slices.Max(v))
	}
	v = draw(Exponential(5*ms), 1)
	about("exponential: mean", mean(v), 5, 0.18)
	slices.Sort(v)
	about("exponential: median", v[n/2], 5*math.Ln2, 0.18)
	v = draw(LogNormal(5*ms, 0.5), 1)
	about("lognormal: mean", mean(v), 5*math.Exp(0.125), 0.11)
	slices.Sort(v)
	about("lognormal: median", v[n/2], 5, 0.11)
	about("lognormal: 95th percentile", v[n*95/100], 5*math.Exp(0.5*1.645), 0.4)
	if slices.Equal(draw(Exponential(ms), 1), draw(Exponential(ms), 2)) {
		t.Error("two seeds draw the same")
	}
}

// hanging starts an operation and waits until it hangs in a rule.
func (r *rig) hanging(s hsm.Session, op *hsm.Op, conn *Conn, id string) <-chan error {
	r.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Do(op) }()
	for {
		i, err := conn.Item(r.ctx(), id)
		if err != nil {
			r.Fatal(err)
		}
		if i.Waiting == 1 {
			return done
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHangUntilReleased(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	for name, free := range map[string]func() error{
		"release": func() error { return r.conn.Release(r.ctx(), "stuck") },
		"all":     func() error { return r.conn.Release(r.ctx(), "all") },
		"remove":  func() error { return r.conn.Remove(r.ctx(), "stuck") },
		"clear":   func() error { return r.conn.Clear(r.ctx()) },
	} {
		r.add(Rule{ID: "stuck", On: []string{"C_Sign"}, Times: 1, Do: []Effect{Hang()}})
		op := mac(key)
		done := r.hanging(s, op, r.conn, "stuck")
		stats, err := r.conn.Stats(r.ctx())
		if err != nil || stats["C_Sign"].Inside != 1 || r.status().Waiting != 1 {
			t.Errorf("%s: while it hangs %+v, %v", name, stats["C_Sign"], err)
		}
		select {
		case <-done:
			t.Errorf("%s: returned before it was released", name)
		case <-time.After(20 * time.Millisecond):
		}
		if err := free(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || op.Err != nil {
			t.Errorf("%s: a released call should go on: %v, %v", name, err, op.Err)
		}
		_ = r.conn.Clear(r.ctx())
	}
}

func TestASleepEndsWithItsRule(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.add(Rule{ID: "long", On: []string{"C_Sign"}, Do: []Effect{Sleep(Fixed(time.Hour))}})
	op := mac(key)
	done := r.hanging(s, op, r.conn, "long")
	r.remove("long")
	if err := <-done; err != nil || op.Err != nil {
		t.Error(err, op.Err)
	}
}

func TestHangAndCrashInAWorker(t *testing.T) {
	r := softHSM(t)
	w, conn := r.worker()
	s := sessionOf(t, w)
	key := r.generate(s, macSpec)
	if err := conn.Add(r.ctx(), Rule{ID: "stuck", On: []string{"C_Sign"}, Do: []Effect{Hang()}}); err != nil {
		t.Fatal(err)
	}
	done := r.hanging(s, mac(key), conn, "stuck")
	w.Kill()
	if err := <-done; !errors.Is(err, hsm.ErrLinkLost) {
		t.Errorf("a worker that hung and was killed: %v", err)
	}

	w, conn = r.worker()
	s = sessionOf(t, w)
	key = r.generate(s, macSpec)
	if err := conn.Add(r.ctx(), Rule{ID: "boom", On: []string{"C_Sign"}, Nth: 3, Do: []Effect{Call(), Crash()}}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 2; i++ {
		if op := mac(key); s.Do(op) != nil || op.Err != nil {
			t.Fatalf("operation %d: %v", i, op.Err)
		}
	}
	if err := s.Do(mac(key)); !errors.Is(err, hsm.ErrLinkLost) {
		t.Errorf("the operation in which the library crashed: %v", err)
	}
	<-w.Done()

	w, conn = r.worker()
	if err := conn.Now(r.ctx(), Crash()); err == nil {
		t.Error("now crash was answered")
	}
	<-w.Done()
}

// TestServe: n servers of a length take at least calls × length / n, whoever calls; who comes to a queue that is too long is refused.
func TestServe(t *testing.T) {
	r := softHSM(t)
	const calls, each = 24, 5 * time.Millisecond
	sessions := make([]hsm.Keeper, 12)
	keys := make([]hsm.Handle, len(sessions))
	for i := range sessions {
		sessions[i] = r.session()
		keys[i] = r.generate(sessions[i], macSpec)
	}
	for _, servers := range []int{1, 3} {
		r.add(Rule{ID: "served", On: []string{"C_Sign"}, Do: []Effect{Serve(servers, Fixed(each))}})
		var wg sync.WaitGroup
		d := took(func() {
			for i, s := range sessions {
				wg.Go(func() {
					for range calls / len(sessions) {
						if op := mac(keys[i]); s.Do(op) != nil || op.Err != nil {
							t.Error(op.Err)
						}
					}
				})
			}
			wg.Wait()
		})
		if least := calls * each / time.Duration(servers); d < least {
			t.Errorf("%d servers: %d calls took %s, want at least %s", servers, calls, d, least)
		}
		r.remove("served")
	}
	// With the one server busy for an hour, who would wait for longer than a minute is refused, and can go on at once.
	r.add(Rule{ID: "served", On: []string{"C_Sign"}, Do: []Effect{ServeRefusing(1, Fixed(time.Hour), hsm.FunctionFailed, time.Minute)}})
	first := mac(keys[0])
	done := r.hanging(sessions[0], first, r.conn, "served")
	if op := mac(keys[1]); sessions[1].Do(op) != nil || codeOf(op.Err) != hsm.FunctionFailed {
		t.Errorf("a call that would wait for an hour: %v", op.Err)
	}
	r.remove("served")
	if err := errors.Join(<-done, first.Err); err != nil {
		t.Error(err)
	}
	if got := r.macs(sessions[1], keys[1], 1); len(got) != 0 {
		t.Error("the refused call left its operation pending")
	}
}

// TestServersAreSharedByProcesses: two workers on one device wait for each other.
func TestServersAreSharedByProcesses(t *testing.T) {
	r := softHSM(t)
	const calls, each = 10, 5 * time.Millisecond
	if err := r.m.Apply(r.ctx(), Rule{ID: "served", On: []string{"C_Sign"}, Do: []Effect{Serve(1, Fixed(each))}}); err != nil {
		t.Fatal(err)
	}
	var sessions []hsm.Keeper
	var keys []hsm.Handle
	for range 2 {
		w, _ := r.worker()
		s := sessionOf(t, w)
		sessions, keys = append(sessions, s), append(keys, r.generate(s, macSpec))
	}
	var wg sync.WaitGroup
	d := took(func() {
		for i, s := range sessions {
			wg.Go(func() {
				for range calls {
					if op := mac(keys[i]); s.Do(op) != nil || op.Err != nil {
						t.Error(op.Err)
					}
				}
			})
		}
		wg.Wait()
	})
	if least := 2 * calls * each; d < least {
		t.Errorf("2 × %d calls of %s at one server took %s, want at least %s", calls, each, d, least)
	}
}
