//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// pacer sends one prepared request at a rate, whether the answers come in time or not, each on the connection that has been idle
// longest. The time of an answer counts from when its request was due, so that waiting for a connection or for this process
// counts too. Like generator it is one goroutine with an epoll.
type pacer struct {
	epoll, timer int
	conns        []*connection
	idle         []int // connections without a request, in the order in which they became so
	events       []unix.EpollEvent
	request      []byte
	want         []byte // the body of every right answer
}

// sourceConns is how many connections come from one address of the loopback network: a pair of addresses has about 28,000 ports,
// of which many are taken for a minute after they were used.
const sourceConns = 4000

// pacedMost is how many requests are under way at most, so that a machine that stands still for a moment does not fill the gateway's
// queue; those that are due wait here, and their time counts.
const pacedMost = 256

// pacedBuffer holds a whole answer.
const pacedBuffer = 2 << 10

// newPacer connects n times. Close it.
func newPacer(addr netip.AddrPort, n int, request, want []byte) (_ *pacer, err error) {
	p := &pacer{epoll: -1, timer: -1, request: request, want: want, events: make([]unix.EpollEvent, min(n+1, 1024))}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, err
	}
	if err = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return nil, err
	}
	for i := range n {
		c, err := dialFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i/sourceConns)}), addr, pacedBuffer)
		if err != nil {
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, n, err)
		}
		p.conns, p.idle = append(p.conns, c), append(p.idle, i)
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Close closes the connections.
func (p *pacer) Close() {
	for _, c := range p.conns {
		_ = unix.Close(c.fd)
	}
	for _, fd := range []int{p.timer, p.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// run sends n requests at rate a second, the times between them random as those of many independent users are, and waits for
// the answers. It fills c; one answer that is not right ends it.
func (p *pacer) run(ctx context.Context, c *cell, rate float64, n int) error {
	due := time.Now()
	begun, started, waiting := due, 0, 0
	for {
		now := time.Now()
		room := func() bool { return started < n && waiting < pacedMost && len(p.idle) > 0 }
		for room() && !due.After(now) {
			conn := p.conns[p.idle[0]]
			p.idle = p.idle[1:]
			if err := send(conn, p.request, due); err != nil {
				return err
			}
			started, waiting = started+1, waiting+1
			due = due.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		}
		if started == n && waiting == 0 {
			c.elapsed = time.Since(begun)
			return nil
		}
		if err := p.alarm(room(), time.Until(due)); err != nil {
			return err
		}
		got, err := unix.EpollWait(p.epoll, p.events, int(answerTimeout/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case got == 0 && waiting > 0:
			return fmt.Errorf("%d requests have had no answer for %s", waiting, answerTimeout)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		for _, e := range p.events[:max(0, got)] {
			if e.Fd < 0 {
				continue // the timer, which alarm sets anew
			}
			done, err := p.take(c, p.conns[e.Fd])
			if err != nil {
				return err
			}
			if done {
				waiting--
				p.idle = append(p.idle, int(e.Fd))
			}
		}
	}
}

// take reads what has come of an answer and reports whether it is complete.
func (p *pacer) take(c *cell, conn *connection) (bool, error) {
	body, err := conn.receive()
	if err != nil || body == nil {
		return false, err
	}
	if !bytes.Equal(body, p.want) {
		return false, fmt.Errorf("an answer is %q, not %q", body, p.want)
	}
	c.times.add(time.Since(conn.sent))
	c.ops++
	conn.ops++
	return true, nil
}

// alarm lets epoll wake after d, or not at all.
func (p *pacer) alarm(on bool, d time.Duration) error {
	var t unix.ItimerSpec
	if on {
		t.Value = unix.NsecToTimespec(int64(max(d, 1)))
	}
	return unix.TimerfdSettime(p.timer, 0, &t, nil)
}

// served is how many connections have had an answer.
func (p *pacer) served() int {
	n := 0
	for _, c := range p.conns {
		if c.ops > 0 {
			n++
		}
	}
	return n
}
