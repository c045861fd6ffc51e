//go:build linux

package worker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keyway/hsm"
)

// BenchmarkDo measures an operation that costs the token nothing: what is left is the border. cpu-ns/op
// is the CPU time of both processes.
func BenchmarkDo(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) {
			w := spawn(b, config(b, "echo", echoParams{}))
			sessions := make([]hsm.Session, n)
			for i := range sessions {
				sessions[i] = openSession(b, w)
			}
			in := make([]byte, 32)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			before := cpu(b, w.PID())
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, s := range sessions {
				wg.Go(func() {
					op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, Key: 7, In: in, Out: make([]byte, 0, 64)}
					for left.Add(-1) >= 0 {
						if err := s.Do(&op); err != nil || op.Err != nil {
							b.Error(err, op.Err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(cpu(b, w.PID())-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu returns the CPU time used by this process and by pid, whose share has the resolution of the kernel's tick.
func cpu(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	d := time.Duration(r.Utime.Nano() + r.Stime.Nano())
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	const ticks = 100 // USER_HZ, the same on every Linux that Go knows
	for _, f := range strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		d += time.Duration(n) * time.Second / ticks
	}
	return d
}
