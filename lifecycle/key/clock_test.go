package key

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// twoClocks is a machine whose clock can be set; what passes by the other one cannot.
type twoClocks struct {
	mu      sync.Mutex
	wall    time.Time
	elapsed time.Duration
}

func (c *twoClocks) source() (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall, c.elapsed
}

func (c *twoClocks) pass(d, jump time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.elapsed = c.wall.Add(d+jump), c.elapsed+d
}

// An hour's jump neither ends a key nor keeps one alive, and it is told.
func TestClockIsNotLedAstrayByAJump(t *testing.T) {
	m := &twoClocks{wall: noon}
	c := NewClock(m.source, time.Time{})
	f := func(pass, jump time.Duration, want time.Duration, held bool) {
		t.Helper()
		m.pass(pass, jump)
		r := c.Read()
		if got := r.Now.Sub(noon); got != want || r.Held != held {
			t.Errorf("%s passed, jump of %s: %s after noon, held=%v; want %s, %v", pass, jump, got, r.Held, want, held)
		}
		if !r.Wall.Equal(m.wall) {
			t.Errorf("reported %s, the machine says %s", r.Wall, m.wall)
		}
	}
	f(time.Second, 0, time.Second, false)
	f(0, time.Hour, ClockSlack+time.Second, true)
	f(0, -time.Hour, ClockSlack+time.Second, false) // held at the highest told, and the machine is right again
	f(ClockSlack, 0, ClockSlack+time.Second, false)
	f(time.Minute, 0, ClockSlack+time.Minute+time.Second, false)
	f(0, -time.Hour, ClockSlack+time.Minute+time.Second, true)
	f(time.Hour, 0, 3659019*time.Millisecond, true) // 3961 s passed, less 300 s of slack and 3961/2000 s
	c.Confirm(noon.Add(3 * time.Hour))
	if got := c.Now().Sub(noon); got != 3*time.Hour-ClockSlack {
		t.Errorf("three hours confirmed against a machine that says less: %s after noon", got)
	}
}

// Many small jumps are one large one.
func TestClockDoesNotAddUpSmallJumps(t *testing.T) {
	m := &twoClocks{wall: noon}
	c := NewClock(m.source, time.Time{})
	for range 60 {
		m.pass(time.Second, time.Minute)
		c.Now()
	}
	if r := c.Read(); r.Now.Sub(noon) > ClockSlack+time.Minute+time.Second || !r.Held {
		t.Errorf("after a minute and sixty jumps of one: %s, held=%v", r.Now.Sub(noon), r.Held)
	}
}

// A clock that is disciplined for months is followed.
func TestClockFollowsASlowDrift(t *testing.T) {
	m := &twoClocks{wall: noon}
	c := NewClock(m.source, time.Time{})
	for range 365 {
		m.pass(24*time.Hour, 40*time.Second)
		if r := c.Read(); r.Held || !r.Now.Equal(m.wall) {
			t.Fatalf("%+v, the machine says %s", r, m.wall)
		}
	}
}

func TestClockStartsAtWhatWasSeen(t *testing.T) {
	m := &twoClocks{wall: noon}
	if got := NewClock(m.source, noon.Add(48*time.Hour)).Now(); !got.Equal(noon.Add(48 * time.Hour)) {
		t.Errorf("two days were told before, and it is %s", got)
	}
	if got := NewClock(m.source, noon.Add(-48*time.Hour)).Now(); !got.Equal(noon) {
		t.Errorf("a stop of two days, and it is %s", got)
	}
	if d := time.Since(NewClock(SystemClock(), time.Time{}).Now()).Abs(); d > time.Minute {
		t.Errorf("the machine's own clock is %s away", d)
	}
}

// Whatever the machine's clock does, and whatever is confirmed, what a date ended stays ended.
func TestNoClockReactivates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &twoClocks{wall: noon}
		c := NewClock(m.source, time.Time{})
		v := Version{Name: "k", Number: 1, State: Active, Usages: Sign | Verify, NotBefore: noon.Add(time.Minute), OriginatorEnd: noon.Add(30 * time.Minute), RecipientEnd: noon.Add(2 * time.Hour)}
		ended, shut := false, false
		last := c.Now()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				c.Confirm(noon.Add(time.Duration(rapid.IntRange(-180, 180).Draw(t, "confirmed")) * time.Minute))
			case 1: // a restart, with what the store kept
				c = NewClock(m.source, last)
			default:
				m.pass(time.Duration(rapid.IntRange(0, 20).Draw(t, "passed"))*time.Minute, time.Duration(rapid.IntRange(-120, 120).Draw(t, "jump"))*time.Minute)
			}
			now := c.Now()
			if now.Before(last) {
				t.Fatalf("it went back from %s to %s", last, now)
			}
			last = now
			signs, verifies := v.Permits(Sign, now) == nil, v.Permits(Verify, now) == nil
			if ended && signs || shut && verifies {
				t.Fatalf("at %s it signs=%v verifies=%v again", now, signs, verifies)
			}
			ended = ended || v.Effective(now) == Deactivated
			shut = shut || !now.Before(v.RecipientEnd)
		}
	})
}

func TestClockIsSafeForMany(t *testing.T) {
	m := &twoClocks{wall: noon}
	c := NewClock(m.source, time.Time{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			last := time.Time{}
			for i := range 2000 {
				m.pass(time.Millisecond, time.Duration(i%7-3)*time.Second)
				if i%500 == 0 {
					c.Confirm(m.wallNow())
				}
				now := c.Now()
				if now.Before(last) {
					t.Errorf("it went back from %s to %s", last, now)
					return
				}
				last = now
			}
		})
	}
	wg.Wait()
}

// Two that raise the highest time at once do not put back what the other one told.
func TestHighestTimeSurvivesARace(t *testing.T) {
	c := NewClock((&twoClocks{}).source, time.Time{})
	var wg sync.WaitGroup
	for g := range int64(4) {
		wg.Go(func() {
			last := int64(0)
			for i := range int64(100_000) {
				got := c.raise(i - g*(i%5)*10)
				if got < last {
					t.Errorf("told %d after %d", got, last)
					return
				}
				last = got
			}
		})
	}
	wg.Wait()
}

func (c *twoClocks) wallNow() time.Time { w, _ := c.source(); return w }

func BenchmarkClock(b *testing.B) {
	c := NewClock(SystemClock(), time.Time{})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Now()
		}
	})
}
