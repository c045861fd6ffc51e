package gateway

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// listener hands connections to fasthttp, each in our own wrapping.
type listener struct {
	net.Listener
	s     *Server
	close sync.Once
	err   error // of closing it
}

// Close closes the listener, once.
func (l *listener) Close() error {
	l.close.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// Accept returns the next connection. What goes wrong with one of them, or for a while (no file descriptors
// left), does not end the listener: fasthttp would stop serving.
func (l *listener) Accept() (net.Conn, error) {
	wait := time.Duration(0)
	for {
		if l.s.draining.Load() { // shut down before fasthttp knew of this listener, which it then does not close
			_ = l.Close()
			return nil, net.ErrClosed
		}
		n, err := l.Listener.Accept()
		switch {
		case err == nil:
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM),
			errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EINTR):
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			l.s.cfg.Log.Warn("a connection could not be accepted", "error", err, "next", wait)
			time.Sleep(wait)
			continue
		default:
			return nil, err
		}
		wait = 0
		c := &conn{Conn: n, s: l.s}
		if !l.s.join(c) {
			l.s.turnAway(n)
			continue
		}
		if t, ok := n.(*tls.Conn); ok {
			return &tlsConn{conn: c, t: t}, nil
		}
		return c, nil
	}
}

// conn is a client's connection. fasthttp reads and writes through buffers that it passes on from one
// connection to the next without wiping them; conn wipes them where they pass by.
type conn struct {
	net.Conn
	s      *Server
	call   atomic.Pointer[Call] // answered; its answer is perhaps not written yet
	input  []byte               // fasthttp's buffer for reading, whole
	got    bool                 // something has arrived
	mute   atomic.Bool          // nothing more is written
	linger atomic.Bool          // the client may still be sending
	closed atomic.Bool
	key    []byte // of the verified client certificate, SubjectPublicKeyInfo
	looked bool   // for key
}

// tlsConn is a conn on TLS, as fasthttp knows one.
type tlsConn struct {
	*conn
	t *tls.Conn
}

// Handshake is called by fasthttp. The client has to come with it within the read timeout.
func (c *tlsConn) Handshake() error {
	if err := c.t.SetReadDeadline(time.Now().Add(c.s.cfg.ReadTimeout)); err != nil {
		return err
	}
	return c.t.Handshake()
}

// ConnectionState tells what the handshake agreed on.
func (c *tlsConn) ConnectionState() tls.ConnectionState { return c.t.ConnectionState() }

// base is how a handler finds its connection again.
func (c *conn) base() *conn { return c }

// SetReadDeadline sets when reading gives up. fasthttp lets a new connection wait for its first request only as long as a
// request may take to arrive. Clients open connections before they need them (Go's does when all others are busy), and such a one
// waits like any other between two requests: one that is closed under a client that begins just then loses a request that
// the client may not repeat by itself.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.got && !t.IsZero() {
		t = time.Now().Add(c.s.cfg.IdleTimeout)
	}
	return c.Conn.SetReadDeadline(t)
}

// Read wipes what p held before it fills it: all of p is free, and when the server waits for another request all
// of the buffer is.
func (c *conn) Read(p []byte) (int, error) {
	c.finish() // nobody reads on while an answer is not yet written
	clear(p)
	if len(p) == readBuffer {
		c.input = p
	}
	n, err := c.Conn.Read(p)
	if n > 0 && !c.got {
		c.got = true
		if e := c.Conn.SetReadDeadline(time.Now().Add(c.s.cfg.ReadTimeout)); err == nil { // for what is left of the request
			err = e
		}
	}
	return n, err
}

// Write wipes p after it was sent. That is more than an io.Writer may do; what fasthttp writes is its
// own buffer and our answers, and neither is read again.
func (c *conn) Write(p []byte) (int, error) {
	defer clear(p)
	if c.mute.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close closes the connection. It is safe to call twice, and from another goroutine while the connection is idle.
func (c *conn) Close() error {
	c.finish()
	if c.closed.Swap(true) {
		return nil
	}
	c.s.part(c)
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.linger.Load() {
		// Closing with unread data makes the kernel reset the connection, and the client may then never see why.
		_ = c.SetDeadline(time.Now().Add(lingerFor))
		if w.CloseWrite() == nil {
			var b [4 << 10]byte
			for {
				if _, err := c.Conn.Read(b[:]); err != nil {
					break
				}
			}
			clear(b[:])
		}
	}
	return c.Conn.Close()
}

// finish takes back the Call of an answer that was written.
func (c *conn) finish() {
	if call := c.call.Swap(nil); call != nil {
		c.s.release(call)
	}
}

// last is called with the answer to a connection's last request: nothing is read any more.
func (c *conn) last() { clear(c.input) }

// verifiedKey returns the SubjectPublicKeyInfo of the client's verified certificate, nil when there is none.
func (c *conn) verifiedKey() []byte {
	if t, ok := c.Conn.(*tls.Conn); ok && !c.looked {
		c.looked = true
		if st := t.ConnectionState(); len(st.VerifiedChains) > 0 {
			c.key = st.VerifiedChains[0][0].RawSubjectPublicKeyInfo
		}
	}
	return c.key
}

// Bounds of connections: readBuffer is also the largest size of a request's headers.
const (
	readBuffer = 8 << 10
	lingerFor  = time.Second
)

// join counts a connection in, unless there are as many as there may be.
func (s *Server) join(c *conn) bool {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	if len(s.conns) >= s.cfg.MaxConns {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// part counts a connection out.
func (s *Server) part(c *conn) {
	s.connsMu.Lock()
	defer s.connsMu.Unlock()
	delete(s.conns, c)
}

// cutOff closes every connection.
func (s *Server) cutOff() {
	s.connsMu.Lock()
	all := slices.Collect(maps.Keys(s.conns))
	s.connsMu.Unlock()
	for _, c := range all {
		c.mute.Store(true)
		_ = c.Conn.Close()
	}
}

// turnAway answers a connection too many. One that begins with a handshake is only closed.
func (s *Server) turnAway(c net.Conn) {
	e := &Error{Kind: Overloaded, Detail: "there are as many connections as there may be", RetryAfter: time.Second}
	if _, ok := c.(*tls.Conn); !ok {
		b := []byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/problem+json\r\n\r\n")
		_ = c.SetWriteDeadline(time.Now().Add(lingerFor))
		_, _ = c.Write(appendProblem(b, e, s.requestID())) // a new connection's buffer has room
	}
	_ = c.Close()
	s.cfg.Log.Debug("a connection was turned away", "connections", s.cfg.MaxConns)
}
