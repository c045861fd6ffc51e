package faulthsm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Conn is a connection to the socket of one process. It is safe for concurrent use.
type Conn struct {
	mu   sync.Mutex
	conn net.Conn
	r    *bufio.Reader
}

// Refusal is what a process said to a command it did not carry out.
type Refusal struct{ Reason string }

// Error tells the reason.
func (r *Refusal) Error() string { return "faulthsm: " + r.Reason }

// Dial connects to a socket of [Module.Sockets].
func Dial(ctx context.Context, path string) (*Conn, error) {
	// A socket's path may have 107 characters only, so it goes by way of the directory's descriptor.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("faulthsm: %w", err)
	}
	defer dir.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		return nil, fmt.Errorf("faulthsm: connecting to %s: %w", path, err)
	}
	return &Conn{conn: c, r: bufio.NewReader(c)}, nil
}

// Conn connects to one process, and waits for its socket as long as ctx allows.
func (m *Module) Conn(ctx context.Context, pid int) (*Conn, error) {
	path := filepath.Join(m.Sockets, strconv.Itoa(pid)+".sock")
	for {
		c, err := Dial(ctx, path)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Conns connects to every process that listens now. Sockets that dead processes left behind are removed.
func (m *Module) Conns(ctx context.Context) ([]*Conn, error) {
	names, err := filepath.Glob(filepath.Join(m.Sockets, "*.sock"))
	if err != nil {
		return nil, fmt.Errorf("faulthsm: %w", err)
	}
	var all []*Conn
	for _, n := range names {
		c, err := Dial(ctx, n)
		if errors.Is(err, syscall.ECONNREFUSED) { // nobody listens there any more
			_ = os.Remove(n)
			continue
		}
		if err != nil {
			for _, c := range all {
				_ = c.Close()
			}
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// Close closes the connection; the process goes on.
func (c *Conn) Close() error { return c.conn.Close() }

// Do sends commands, of which the last is answered, and returns the lines of its answer. A [Refusal] when the process refused it.
func (c *Conn) Do(ctx context.Context, commands ...string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Now()) })
	defer func() {
		if stop() {
			return
		}
		// Half an answer may be left in it.
		_ = c.conn.Close()
	}()
	for _, l := range commands {
		if strings.ContainsAny(l, "\n\x00") {
			return nil, fmt.Errorf("faulthsm: %q is more than one line", l)
		}
	}
	_, unsent := c.conn.Write([]byte(strings.Join(commands, "\n") + "\n"))
	var lines []string
	for {
		l, err := c.r.ReadString('\n') // also when nothing could be sent: it says why it hung up
		if err != nil {
			return nil, c.failed(ctx, errors.Join(unsent, err))
		}
		l = strings.TrimSuffix(l, "\n")
		switch reason, refused := strings.CutPrefix(l, "error: "); {
		case l == "ok":
			return lines, nil
		case refused:
			return nil, &Refusal{reason}
		case strings.HasPrefix(l, " "):
			lines = append(lines, l[1:])
		default:
			return nil, fmt.Errorf("faulthsm: an answer that is none: %q", l)
		}
	}
}

func (c *Conn) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("faulthsm: talking to the module: %w", err)
}

// Add puts statements into force beside those that are, all or none. A statement there may be one of takes the place of
// the one there is; a rule needs an id of its own.
func (c *Conn) Add(ctx context.Context, statements ...Statement) error {
	commands := []string{"begin"}
	for _, s := range statements {
		commands = append(commands, s.String())
	}
	_, err := c.Do(ctx, append(commands, "end")...)
	return err
}

// Remove takes a statement out of force by its id: a rule's own, or limit-sessions, limit-objects, limit-opens, pin-tries, token, device, seed.
func (c *Conn) Remove(ctx context.Context, id string) error {
	_, err := c.Do(ctx, "remove "+id)
	return err
}

// Clear takes all statements out of force, the control file's too, until that changes. Calls that hang go on.
func (c *Conn) Clear(ctx context.Context) error {
	_, err := c.Do(ctx, "clear")
	return err
}

// Release lets the calls go on that hang in a rule now; "all" in any.
func (c *Conn) Release(ctx context.Context, id string) error {
	_, err := c.Do(ctx, "release "+id)
	return err
}

// Now does an effect at once: Logout, LogoutWith, CloseSessions, ForgetObjects, RemoveToken, Leak or Crash.
// After Crash the answer is the connection's end.
func (c *Conn) Now(ctx context.Context, e Effect) error {
	_, err := c.Do(ctx, "now "+string(e))
	return err
}

// ReturnToken brings back a token that RemoveToken took away.
func (c *Conn) ReturnToken(ctx context.Context) error {
	_, err := c.Do(ctx, "return-token")
	return err
}

// ResetPINs forgets wrong PINs, as a security officer does.
func (c *Conn) ResetPINs(ctx context.Context) error {
	_, err := c.Do(ctx, "reset-pins")
	return err
}

// Reload reads the control file now, and refuses what it refuses.
func (c *Conn) Reload(ctx context.Context) error {
	_, err := c.Do(ctx, "reload")
	return err
}

// Log returns the last n things that were done, oldest first, for people.
func (c *Conn) Log(ctx context.Context, n int) ([]string, error) {
	return c.Do(ctx, "log "+strconv.Itoa(n))
}

// IsRefusal reports whether a process understood a command and refused it.
func IsRefusal(err error) bool {
	var r *Refusal
	return errors.As(err, &r)
}
