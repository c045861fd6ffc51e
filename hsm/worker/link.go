package worker

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
)

const (
	// readSize is the reader's usual buffer: one read(2) brings all frames of a busy moment.
	readSize = 64 << 10
	// keepSize is the largest buffer kept for reuse; one large frame must not be held for ever.
	keepSize = 1 << 20
	// maxTurns bounds how many writes one caller does for others before a goroutine takes over,
	// so that a stream of calls cannot keep the one who happens to be writing.
	maxTurns = 8
)

// frame is something that can be sent.
type frame interface {
	size() int              // at least what append adds
	append(b []byte) []byte // appends the frame, length included
}

// link is one end of the socket: many goroutines send, one receives.
type link struct {
	conn net.Conn

	mu      sync.Mutex // guards what follows; never held while writing
	pending []byte     // frames nobody has begun to write
	spare   []byte     // the buffer that was written last, empty and wiped
	writing bool
	err     error          // why nothing can be sent any more
	relief  sync.WaitGroup // goroutines that took over writing

	// The receiver's own.
	buf  []byte // buf[r:w] is read and not yet handed out; everything else is zero or handed out
	r, w int
	used int // buf[used:r] was handed out last
}

func newLink(conn net.Conn) *link { return &link{conn: conn, buf: make([]byte, readSize)} }

// send adds f to what is pending. If nobody is writing, it writes all that is pending, f and whatever
// arrives meanwhile; otherwise it returns at once and the writer takes f along. When it fails, the connection
// has ended and the receiver notices too.
//
// With company there are other calls on their way: yielding once before the write lets those that can run
// append first, which is what fills a frame train when the socket is too fast ever to be busy.
func send[F frame](l *link, f F, company bool) error {
	n := f.size()
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return l.err
	}
	if cap(l.pending)-len(l.pending) < n {
		l.pending = grow(l.pending, n)
	}
	l.pending = f.append(l.pending)
	if l.writing {
		l.mu.Unlock()
		return nil
	}
	l.writing = true
	if company {
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
	for range maxTurns {
		if !l.write() {
			break
		}
	}
	if l.writing {
		l.relief.Add(1)
		go l.relieve()
	}
	err := l.err
	l.mu.Unlock()
	return err
}

// write writes what is pending, once, and reports whether there is more to write. mu is held
// before and after, not while writing. Only the one who set writing calls it.
func (l *link) write() bool {
	out := l.pending
	l.pending, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	_, err := l.conn.Write(out)
	clear(out) // it held clear text
	l.mu.Lock()
	if cap(out) <= keepSize {
		l.spare = out[:0]
	}
	if err != nil && l.err == nil {
		l.err = err
		_ = l.conn.Close() // wakes the receiver, which tells everybody who waits
	}
	if l.err != nil {
		clear(l.pending)
		l.pending = nil
	}
	l.writing = len(l.pending) > 0
	return l.writing
}

// relieve goes on writing for a caller that has done its share.
func (l *link) relieve() {
	defer l.relief.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.write() {
	}
}

// grow returns b with room for n more bytes. The array it leaves is wiped.
func grow(b []byte, n int) []byte {
	big := make([]byte, len(b), max(2*cap(b), len(b)+n, 4096))
	copy(big, b)
	clear(b)
	return big
}

// receive returns the next frame, without its length. It is valid until the next call, which
// wipes it. Only one goroutine receives. At the end of the connection the error is io.EOF.
func (l *link) receive() ([]byte, error) {
	clear(l.buf[l.used:l.r]) // it held clear text
	l.used = l.r
	if l.r == l.w {
		l.r, l.w, l.used = 0, 0, 0
		if len(l.buf) > keepSize {
			l.buf = make([]byte, readSize)
		}
	}
	if err := l.fill(sizeLen); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint32(l.buf[l.r:]))
	if n < headLen || n > maxFrame {
		return nil, fmt.Errorf("%w: length %d, want %d to %d", errFrame, n, headLen, maxFrame)
	}
	if err := l.fill(sizeLen + n); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	b := l.buf[l.r+sizeLen : l.r+sizeLen+n]
	l.r += sizeLen + n
	return b, nil
}

// fill reads until n bytes are there.
func (l *link) fill(n int) error {
	if l.w-l.r >= n {
		return nil
	}
	if len(l.buf)-l.r < n {
		to := l.buf
		if len(to) < n {
			to = make([]byte, max(n, 2*len(to)))
		}
		m := copy(to, l.buf[l.r:l.w])
		if &to[0] == &l.buf[0] {
			clear(to[m:l.w])
		} else {
			clear(l.buf[l.r:l.w])
		}
		l.buf, l.r, l.w, l.used = to, 0, m, 0
	}
	for l.w-l.r < n {
		m, err := l.conn.Read(l.buf[l.w:])
		l.w += m
		if err != nil && l.w-l.r < n {
			if err == io.EOF && l.w > l.r {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// close ends the connection, for a reason that every later send returns, and waits for those who write.
func (l *link) close(reason error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = reason
	}
	l.mu.Unlock()
	_ = l.conn.Close()
	l.relief.Wait()
}
