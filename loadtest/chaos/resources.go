//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"keyway/loadtest/rig"
)

// Resources are what the gateway's process and its workers hold.
type Resources struct {
	Goroutines int `json:"goroutines"`
	Threads    int `json:"threads"`
	Files      int `json:"files"`
	// RSS is the gateway's resident memory in bytes.
	RSS     int64                      `json:"rss"`
	Members map[string]MemberResources `json:"members"`
}

// MemberResources are what a member's worker holds. Sessions are the pool's, TokenSessions those that
// faulthsm counts, 0 where it does not stand before the token.
type MemberResources struct {
	Sessions      int   `json:"sessions"`
	TokenSessions int   `json:"token_sessions"`
	Threads       int   `json:"threads"`
	Files         int   `json:"files"`
	RSS           int64 `json:"rss"`
}

// resources looks at every gateway and its workers.
func (c *cluster) resources(ctx context.Context) (all []Resources, err error) {
	c.http.CloseIdleConnections() // theirs end with ours
	time.Sleep(100 * time.Millisecond)
	for _, g := range c.gateways {
		r, err := g.resources(ctx, c.members)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func (g *gateway) resources(ctx context.Context, members []*token) (Resources, error) {
	out := Resources{Members: map[string]MemberResources{}}
	st, err := g.Stat(ctx)
	if err != nil {
		return out, err
	}
	if out.Threads, out.Files, out.RSS, err = processOf(g.PID()); err != nil {
		return out, err
	}
	for _, m := range st.Members {
		r := MemberResources{Sessions: m.Sessions}
		if m.PID > 0 {
			if r.Threads, r.Files, r.RSS, err = processOf(m.PID); err != nil {
				return out, err
			}
		}
		for _, t := range members {
			if t.Record.Name != m.Name || t.Module == nil || m.PID == 0 {
				continue
			}
			c, err := t.Module.Conn(ctx, m.PID)
			if err != nil {
				return out, err
			}
			s, err := c.Status(ctx)
			_ = c.Close()
			if err != nil {
				return out, err
			}
			r.TokenSessions = s.Sessions
		}
		out.Members[m.Name] = r
	}
	out.Goroutines, err = g.goroutines(ctx)
	return out, err
}

// goroutines asks the gateway's metrics.
func (g *gateway) goroutines(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := g.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		if v, ok := strings.CutPrefix(in.Text(), "go_goroutines "); ok {
			_, _ = io.Copy(io.Discard, res.Body)
			return strconv.Atoi(v)
		}
	}
	return 0, fmt.Errorf("%s/metrics (%s) has no go_goroutines", "http://"+g.Admin, res.Status)
}

// processOf counts what process pid holds.
func processOf(pid int) (threads, files int, rss int64, err error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	count := func(dir string) int {
		names, e := os.ReadDir(proc + dir)
		if e != nil && err == nil {
			err = e
		}
		return len(names)
	}
	threads, files = count("task"), count("fd")
	b, e := os.ReadFile(proc + "statm")
	if e != nil {
		return threads, files, 0, e
	}
	var size, pages int64
	if _, e := fmt.Sscan(string(b), &size, &pages); e != nil {
		return threads, files, 0, e
	}
	return threads, files, pages * int64(os.Getpagesize()), err
}

// compare notes what is left behind, once it has had time to go: fasthttp keeps a goroutine of a closed connection for up to
// 20 s, and Go keeps threads and memory that it once needed.
func (r *rehearsal) compare(ctx context.Context, before []Resources) error {
	var left []string
	for began := time.Now(); ; {
		if !rig.Sleep(ctx, settled) {
			return ctx.Err()
		}
		var err error
		if r.after, err = r.c.resources(ctx); err != nil {
			return err
		}
		idle := 0
		if r.leaving < 20*time.Second {
			idle = int(r.c.connections.Load())
		}
		left = nil
		for i, g := range r.c.gateways {
			for _, l := range leftBehind(before[i], r.after[i], idle) {
				left = append(left, g.name+": "+l)
			}
		}
		if len(left) == 0 || time.Since(began) > r.leaving {
			break
		}
	}
	for _, l := range left {
		r.rec.breaks(noLeak, l)
	}
	return nil
}

const megabyte = 1 << 20

// leftBehind names what after holds more than before and its allowance, which does not grow with the number of faults. idle
// is how many goroutines may wait for connections.
func leftBehind(before, after Resources, idle int) (left []string) {
	check := func(what string, was, is, allowed int64) {
		if is > was+allowed {
			left = append(left, fmt.Sprintf("%s: %d, at the begin %d", what, is, was))
		}
	}
	check("goroutines", int64(before.Goroutines), int64(after.Goroutines), 15+int64(idle))
	check("threads", int64(before.Threads), int64(after.Threads), 15)
	check("open files", int64(before.Files), int64(after.Files), 10)
	check("memory (MiB)", before.RSS/megabyte, after.RSS/megabyte, 96)
	for name, a := range after.Members {
		b := before.Members[name]
		if a.Sessions != b.Sessions || a.TokenSessions != b.TokenSessions {
			left = append(left, fmt.Sprintf("sessions of %s: %d (%d on the token), at the begin %d (%d)", name, a.Sessions, a.TokenSessions, b.Sessions, b.TokenSessions))
		}
		check("threads of the worker of "+name, int64(b.Threads), int64(a.Threads), 25)
		check("open files of the worker of "+name, int64(b.Files), int64(a.Files), 5)
		check("memory of the worker of "+name+" (MiB)", b.RSS/megabyte, a.RSS/megabyte, 64)
	}
	if len(after.Members) != len(before.Members) {
		left = append(left, fmt.Sprintf("%d members, at the begin %d", len(after.Members), len(before.Members)))
	}
	return left
}
