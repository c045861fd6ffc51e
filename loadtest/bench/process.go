//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns the CPU time that process pid has used, all its threads together, dead ones included. It is what utime
// and stime in proc(5) add up to, but in nanoseconds, from the process's CPU clock (clock_getcpuclockid(3) tells how its number is made).
func cpuTime(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(^int32(pid)<<3|schedClock, &t); err != nil {
		return 0, fmt.Errorf("reading the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// cpuOf returns the CPU time of several processes together.
func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, p := range pids {
		d, err := cpuTime(p)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// machineTime is the time that all processors together have spent since the start of the machine: working, and withheld by the
// hypervisor. Its resolution is the kernel's tick.
type machineTime struct{ busy, stolen time.Duration }

func readMachineTime() (machineTime, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}, err
	}
	return parseMachineTime(b)
}

// parseMachineTime reads the line "cpu  user nice system idle iowait irq softirq steal …" of proc(5)'s stat.
func parseMachineTime(b []byte) (t machineTime, err error) {
	const tick = time.Second / 100 // USER_HZ, the same on every Linux that Go knows
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 9 || string(f[0]) != "cpu" {
			continue
		}
		for i, word := range f[1:9] {
			n, err := strconv.ParseInt(string(word), 10, 64)
			if err != nil {
				return machineTime{}, fmt.Errorf("/proc/stat: %w", err)
			}
			switch i {
			case 3, 4: // idle, iowait
			case 7:
				t.stolen += time.Duration(n) * tick
			default:
				t.busy += time.Duration(n) * tick
			}
		}
		return t, nil
	}
	return machineTime{}, errors.New("/proc/stat has no line cpu with eight times")
}

// memory is what a process holds in RAM, in bytes: rss counts shared pages in full, pss (0 when it may not be read)
// divides them among those who share them.
type memory struct{ rss, pss int64 }

// memoryOf reads the memory of a process. Of a worker, which forbids being looked into, only root may read pss.
func memoryOf(pid int) (memory, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	b, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		return memory{}, err
	}
	rss, err := parseStatm(b)
	if err != nil {
		return memory{}, fmt.Errorf("%s/statm: %w", dir, err)
	}
	m := memory{rss: rss * int64(os.Getpagesize())}
	b, err = os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			return m, nil
		}
		return memory{}, err
	}
	if m.pss, err = parseRollup(b); err != nil {
		return memory{}, fmt.Errorf("%s/smaps_rollup: %w", dir, err)
	}
	return m, nil
}

// parseStatm returns the resident pages in statm.
func parseStatm(b []byte) (int64, error) {
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("%q has no resident size", b)
	}
	return strconv.ParseInt(string(f[1]), 10, 64)
}

// parseRollup returns the bytes of the line "Pss: … kB" in smaps_rollup.
func parseRollup(b []byte) (int64, error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == "Pss:" && string(f[2]) == "kB" {
			n, err := strconv.ParseInt(string(f[1]), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("there is no line Pss")
}

// parentOf returns the parent in /proc/PID/stat, whose second field may hold anything, even spaces and parentheses.
func parentOf(stat []byte) (int, error) {
	end := bytes.LastIndexByte(stat, ')')
	f := bytes.Fields(stat[end+1:])
	if end < 0 || len(f) < 2 {
		return 0, fmt.Errorf("%q is no process's stat", stat)
	}
	return strconv.Atoi(string(f[1]))
}

// childrenOf returns the processes whose parent is pid.
func childrenOf(pid int) ([]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		parent, err := parentOf(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if parent != pid {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		out = append(out, child)
	}
	return out, nil
}
