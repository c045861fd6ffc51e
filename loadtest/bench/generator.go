//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// generator sends one prepared request over and over on several connections, the next one on each when the answer to
// the last has come. It shares the machine with what it measures, so it is as cheap as it can be: one goroutine, one epoll, no
// allocation, and of an answer it looks only at status and length. HTTP/1.1 without pipelining, as real clients speak it.
type generator struct {
	epoll   int
	conns   []*connection
	events  []unix.EpollEvent
	request []byte
	want    []byte // the body of every right answer; nil where they differ, and samples are verified
}

// connection is one connection with at most one request on its way.
type connection struct {
	fd   int
	in   []byte // what has come of the answer
	sent time.Time
	ops  int
}

// answerTimeout is how long an answer may take before the generator gives up.
const answerTimeout = 10 * time.Second

// newGenerator connects n times to addr. Close it.
func newGenerator(addr netip.AddrPort, n int, request []byte) (*generator, error) {
	g := &generator{events: make([]unix.EpollEvent, n), request: request}
	var err error
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for i := range n {
		c, err := dial(addr)
		if err != nil {
			g.Close()
			return nil, fmt.Errorf("connecting to %s: %w", addr, err)
		}
		g.conns = append(g.conns, c)
		if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			g.Close()
			return nil, err
		}
	}
	return g, nil
}

func dial(addr netip.AddrPort) (*connection, error) { return dialFrom(netip.Addr{}, addr, 64<<10) }

// dialFrom connects from a source address, if that is valid, and has room for an answer of some bytes.
func dialFrom(source netip.Addr, addr netip.AddrPort, room int) (*connection, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &connection{fd: fd, in: make([]byte, 0, room)}
	if source.IsValid() {
		// The port is chosen when connecting, so it need be free towards addr only.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()})
		}
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
	}
	if err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err == nil {
		if err = unix.SetNonblock(fd, true); err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return c, nil
}

// Close closes the connections.
func (g *generator) Close() {
	for _, c := range g.conns {
		_ = unix.Close(c.fd)
	}
	_ = unix.Close(g.epoll)
}

// run sends requests until d is over, waits for the answers to those under way, and fills c. The samples are answers' bodies.
func (g *generator) run(ctx context.Context, c *cell, d time.Duration) error {
	deadline := time.Now().Add(d)
	for _, conn := range g.conns {
		if err := send(conn, g.request, time.Now()); err != nil {
			return err
		}
	}
	for waiting := len(g.conns); waiting > 0; {
		n, err := unix.EpollWait(g.epoll, g.events, int(answerTimeout/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("%d requests have had no answer for %s", waiting, answerTimeout)
		}
		stop := ctx.Err() != nil
		for _, e := range g.events[:n] {
			conn := g.conns[e.Fd]
			body, err := conn.receive()
			if err != nil {
				return fmt.Errorf("after %d answers on a connection: %w", conn.ops, err)
			}
			if body == nil {
				continue // there is more to come
			}
			if g.want != nil && !bytes.Equal(body, g.want) {
				return fmt.Errorf("an answer is %q, not %q", body, g.want)
			}
			now := time.Now()
			c.times.add(now.Sub(conn.sent))
			c.ops++
			if conn.ops%sampleEvery == 0 && len(c.samples) < sampleMost*len(g.conns) {
				c.samples = append(c.samples, bytes.Clone(body))
			}
			conn.ops++
			if stop || !now.Before(deadline) {
				waiting--
				continue
			}
			if err := send(conn, g.request, now); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// send writes the request. It is small and the last one was answered, so the socket has room for it.
func send(c *connection, request []byte, now time.Time) error {
	c.in, c.sent = c.in[:0], now
	n, err := unix.Write(c.fd, request)
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	if n != len(request) {
		return fmt.Errorf("only %d of %d bytes of a request could be sent at once", n, len(request))
	}
	return nil
}

// receive reads what has come and returns the body of the answer when it is complete, nil otherwise. It is valid until
// the next request on the connection.
func (c *connection) receive() ([]byte, error) {
	n, err := unix.Read(c.fd, c.in[len(c.in):cap(c.in)])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, nil
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errors.New("the gateway closed the connection")
	}
	c.in = c.in[:len(c.in)+n]
	return parseAnswer(c.in, cap(c.in))
}

var (
	headEnd  = []byte("\r\n\r\n")
	lengthIs = []byte("\r\nContent-Length: ")
	okay     = []byte("HTTP/1.1 200 ")
)

// parseAnswer returns the body in b, nil when it is not complete yet; the error says what it is if it is no answer with
// status 200, or longer than room.
func parseAnswer(b []byte, room int) ([]byte, error) {
	head := bytes.Index(b, headEnd)
	if head < 0 {
		if len(b) == room {
			return nil, fmt.Errorf("the answer's head is longer than %d bytes", room)
		}
		return nil, nil
	}
	at := bytes.Index(b[:head+2], lengthIs)
	if at < 0 {
		return nil, fmt.Errorf("an answer without a length: %q", b[:head])
	}
	digits := b[at+len(lengthIs) : head+2]
	digits = digits[:bytes.IndexByte(digits, '\r')]
	n, err := strconv.Atoi(string(digits))
	if err != nil || n < 0 || head+len(headEnd)+n > room {
		return nil, fmt.Errorf("an answer of %q bytes: there is room for %d", digits, room)
	}
	body := b[head+len(headEnd):]
	if len(body) < n {
		return nil, nil
	}
	if !bytes.HasPrefix(b, okay) {
		return nil, fmt.Errorf("the gateway answered %q", b)
	}
	return body[:n], nil
}
