package worker

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// link is one end of the socket: many goroutines send, one receives.
type link struct {
	conn io.ReadWriteCloser
	r    *bufio.Reader
	in   []byte // the frame being read, reused

	mu      sync.Mutex // guards what follows; never held while writing
	pending []byte     // frames nobody has begun to write
	spare   []byte     // the buffer that was written last, empty and wiped
	writing bool
	err     error
}

func newLink(conn io.ReadWriteCloser) *link {
	return &link{conn: conn, r: bufio.NewReaderSize(conn, 256<<10)}
}

// send appends a frame by calling put on what is pending. If nobody is writing, it writes
// all that is pending, its own frame and those that arrive meanwhile; otherwise it returns
// at once and the writer takes the frame along.
func (l *link) send(h head, put func([]byte) []byte) error {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return l.err
	}
	start := len(l.pending)
	b := begin(l.pending, h)
	if put != nil {
		b = put(b)
	}
	if n := len(b) - start - 4; n > maxFrame {
		clear(b[start:])
		l.pending = b[:start]
		l.mu.Unlock()
		return tooLarge(n)
	}
	l.pending = end(b, start)
	if l.writing {
		l.mu.Unlock()
		return nil
	}
	l.writing = true
	for len(l.pending) > 0 && l.err == nil {
		out := l.pending
		l.pending, l.spare = l.spare[:0], nil
		l.mu.Unlock()
		_, err := l.conn.Write(out)
		clear(out) // it held clear text
		if cap(out) > 1<<20 {
			out = nil // one large frame must not be kept for ever
		}
		l.mu.Lock()
		l.spare = out[:0]
		if err != nil && l.err == nil {
			l.err = err
		}
	}
	l.writing = false
	err := l.err
	l.mu.Unlock()
	return err
}

// receive returns the next frame. It is valid until the next call, which wipes it.
func (l *link) receive() (head, *fields, error) {
	clear(l.in)
	var size [4]byte
	if _, err := io.ReadFull(l.r, size[:]); err != nil {
		return head{}, nil, err
	}
	n := int(binary.LittleEndian.Uint32(size[:]))
	if n < headSize || n > maxFrame {
		return head{}, nil, fmt.Errorf("%w: length %d", errFrame, n)
	}
	if cap(l.in) < n || cap(l.in) > 1<<20 && n <= 1<<20 {
		l.in = make([]byte, max(n, 4096))
	}
	l.in = l.in[:n]
	if _, err := io.ReadFull(l.r, l.in); err != nil {
		return head{}, nil, err
	}
	return parseHead(l.in)
}

// fail makes every later send return err, and ends the connection.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	_ = l.conn.Close()
}
