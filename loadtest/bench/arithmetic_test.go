//go:build linux

package main

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentilesAreRightWithinABucket(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h, parts [3]histogram
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		all = append(all, d)
		h[0].add(d)
		parts[i%3].add(d)
	}
	for i := range parts {
		h[1].merge(&parts[i])
	}
	slices.Sort(all)
	for _, p := range []float64{0.01, 1, 50, 90, 99, 99.9, 100} {
		rank := max(1, int(p*float64(len(all))/100))
		want := all[rank-1]
		for i := range 2 {
			got := h[i].percentile(p)
			if got < want || float64(got) > float64(want)*(1+1.0/subBuckets)+1 {
				t.Errorf("histogram %d: percentile %v is %s, of the sorted list %s", i, p, got, want)
			}
		}
	}
	if got := h[2].percentile(50); got != 0 {
		t.Errorf("of nothing: %s", got)
	}
	h[2].add(time.Hour) // longer than the last bucket says
	if got := h[2].percentile(50); got > time.Hour || got < 15*time.Minute {
		t.Errorf("of an hour: %s", got)
	}
}

func TestBucketsCoverEverythingInOrder(t *testing.T) {
	last := -1
	for _, d := range []time.Duration{-1, 0, 1, 63, 64, 65, 127, 128, 129, 1000, 1 << 20, 1<<20 + 1<<14, 1 << 39, 1<<40 - 1, 1 << 60} {
		b := bucketOf(d)
		if b < last || b >= len(histogram{}.counts) {
			t.Errorf("bucket of %d is %d, the one before was %d", d, b, last)
		}
		last = b
		if d >= 0 && d < 1<<40 && highest(b) < d {
			t.Errorf("bucket %d of %d ends at %d", b, d, highest(b))
		}
		if b > 0 && d > 0 && highest(b-1) >= d {
			t.Errorf("the bucket before that of %d ends at %d", d, highest(b-1))
		}
	}
}

func TestSpread(t *testing.T) {
	f := func(want spread, values ...float64) {
		t.Helper()
		if got := spreadOf(values); got != want {
			t.Errorf("spread of %v: %+v, want %+v", values, got, want)
		}
	}
	f(spread{})
	f(spread{3, 3, 3}, 3)
	f(spread{2, 1, 9}, 9, 1, 2)
	f(spread{2.5, 1, 9}, 9, 1, 2, 3)
}

func TestProcFilesAreParsed(t *testing.T) {
	if n, err := parseStatm([]byte("9750 2105 1530 4 0 2300 0\n")); err != nil || n != 2105 {
		t.Errorf("statm: %d, %v", n, err)
	}
	rollup := "55d1c0000000-7ffd1b5f9000 ---p 00000000 00:00 0   [rollup]\nRss:               29312 kB\nPss:               11807 kB\nPss_Dirty:          5000 kB\n"
	if n, err := parseRollup([]byte(rollup)); err != nil || n != 11807<<10 {
		t.Errorf("smaps_rollup: %d, %v", n, err)
	}
	if p, err := parentOf([]byte("4711 (a ) b) (c) S 42 4711 4711 0 -1")); err != nil || p != 42 {
		t.Errorf("stat: %d, %v", p, err)
	}
	stat := "cpu  100 20 30 9000 500 4 6 50 7 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
	if m, err := parseMachineTime([]byte(stat)); err != nil || m.busy != 1600*time.Millisecond || m.stolen != 500*time.Millisecond {
		t.Errorf("stat: %+v, %v", m, err)
	}
	for _, b := range []string{"", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7 x", "cpu 1 2 3"} {
		if _, err := parseMachineTime([]byte(b)); err == nil {
			t.Errorf("stat %q was accepted", b)
		}
	}
	for _, b := range []string{"", "1", "x y"} {
		if _, err := parseStatm([]byte(b)); err == nil {
			t.Errorf("statm %q was accepted", b)
		}
		if _, err := parseRollup([]byte(b)); err == nil {
			t.Errorf("smaps_rollup %q was accepted", b)
		}
		if _, err := parentOf([]byte(b)); err == nil {
			t.Errorf("stat %q was accepted", b)
		}
	}
}

func TestTheOwnProcessIsSeen(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuOf([]int{pid})
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 20*time.Millisecond; {
	}
	after, err := cpuOf([]int{pid})
	if err != nil {
		t.Fatal(err)
	}
	if after <= before || after-before > 10*time.Second {
		t.Errorf("20 ms of work cost %s", after-before)
	}
	if _, err := cpuOf([]int{pid, 1 << 22}); err == nil { // the kernel's largest process id is less
		t.Error("a process that does not exist has used CPU time")
	}
	m, err := memoryOf(pid)
	if err != nil || m.rss < 1<<20 || m.pss > m.rss {
		t.Errorf("memory: %+v, %v", m, err)
	}
	children, err := childrenOf(os.Getppid())
	if err != nil || !slices.Contains(children, pid) {
		t.Errorf("the parent's children are %v, %v; this is %d", children, err, pid)
	}
}

func TestAnswersAreParsed(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\n"
	whole := head + "12345"
	for n := range whole {
		if b, err := parseAnswer([]byte(whole[:n]), 1024); b != nil || err != nil {
			t.Errorf("%d of %d bytes: %q, %v", n, len(whole), b, err)
		}
	}
	if b, err := parseAnswer([]byte(whole), 1024); err != nil || string(b) != "12345" {
		t.Errorf("the whole answer: %q, %v", b, err)
	}
	for _, bad := range []string{
		strings.Replace(whole, "200", "503", 1), strings.Replace(whole, "Content-Length", "Content-Lenght", 1), strings.Replace(whole, "5\r", "x\r", 1),
		strings.Replace(whole, "5\r", "5000\r", 1), strings.Repeat("x", 1024),
	} {
		if b, err := parseAnswer([]byte(bad), 1024); err == nil {
			t.Errorf("%.60q was accepted: %q", bad, b)
		}
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	f := func(want, got string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f("0", thousands(0))
	f("999", thousands(999))
	f("1,000", thousands(999.6))
	f("1,234,567", thousands(1234567))
	f("1.5 µs", micros(1500*time.Nanosecond))
	f("250 µs", micros(250*time.Microsecond))
	f("83.9 ms", micros(83_900*time.Microsecond))
	f("3 MB RSS", memory{rss: 3_000_000}.String())
	f("2 MB PSS (3 MB RSS)", memory{rss: 3_000_000, pss: 2_000_000}.String())
}

func TestOperationsAreChosen(t *testing.T) {
	got, err := choose([]string{"mac", "p256"})
	if err != nil || len(got) != 2 || got[0].name != "p256" || got[1].name != "mac" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose([]string{"p256", "p512"}); err == nil || !strings.Contains(err.Error(), "p512") {
		t.Errorf("an operation that there is not: %v", err)
	}
}

func TestAReportStandsBetweenItsMarks(t *testing.T) {
	f := func(old, want string) {
		t.Helper()
		if got := string(between([]byte(old), beginMark, endMark, []byte("new\n"))); got != want {
			t.Errorf("into %q: %q, want %q", old, got, want)
		}
	}
	f("", "new\n")
	f("an older report\n", "new\n")
	f("a\n"+beginMark+endMark+"b\n", "a\n"+beginMark+"new\n"+endMark+"b\n")
	f("a\n"+beginMark+"old\n"+endMark+"b\n", "a\n"+beginMark+"new\n"+endMark+"b\n")
}
