package faulthsm

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Module is a faulthsm library installed before a real module. Its Path is what goes where a PKCS#11 module's path is
// asked for; everything else it finds by a file beside it, so no environment is needed.
type Module struct {
	// Path is the library.
	Path string
	// Control is the control file; all processes that load the library follow it.
	Control string
	// Sockets is the directory where each process that has called C_Initialize listens, at PID.sock.
	Sockets string
	// State is where wrong PINs are counted.
	State string
}

// Install copies a built library (so) into dir, to stand before the module real. The directory must exist; what is in it
// from an earlier Install is taken over, so that the state of the token is kept. A process that loads the libraries of
// two directories has two modules with rules of their own, even before the same real one.
func Install(dir, so, real string) (*Module, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("faulthsm: %w", err)
	}
	if real, err = filepath.EvalSymlinks(real); err != nil {
		return nil, fmt.Errorf("faulthsm: the real module: %w", err)
	}
	m := &Module{
		Path: filepath.Join(dir, "faulthsm.so"), Control: filepath.Join(dir, "control"),
		Sockets: filepath.Join(dir, "sockets"), State: filepath.Join(dir, "state"),
	}
	if strings.ContainsAny(dir+real, "\r\n") {
		return nil, fmt.Errorf("faulthsm: a line end in a path: %q, %q", dir, real)
	}
	b, err := os.ReadFile(so)
	if err != nil {
		return nil, fmt.Errorf("faulthsm: %w; build it with make faulthsm", err)
	}
	if err := os.MkdirAll(m.Sockets, 0o700); err != nil {
		return nil, fmt.Errorf("faulthsm: %w", err)
	}
	conf := fmt.Sprintf("module %s\ncontrol %s\nsocket-dir %s\nstate %s\n", real, m.Control, m.Sockets, m.State)
	if err := replace(m.Path+".conf", []byte(conf)); err != nil {
		return nil, err
	}
	if err := replace(m.Path, b); err != nil {
		return nil, err
	}
	return m, nil
}

// replace puts a file in place whole: whoever reads it sees the old one or the new one.
func replace(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("faulthsm: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("faulthsm: %w", err)
	}
	return nil
}

// Write puts statements into the control file in the place of what it held. Processes follow soon; see [Module.Apply].
func (m *Module) Write(statements ...Statement) error {
	return replace(m.Control, []byte(join(statements)))
}

// Apply is Write, and waits until every process that listens has read the file. The error is the first one's that
// refused it; what was in force there stays. A process that begins later reads the file by itself.
func (m *Module) Apply(ctx context.Context, statements ...Statement) error {
	text := join(statements)
	if err := replace(m.Control, []byte(text)); err != nil {
		return err
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	conns, err := m.Conns(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for _, c := range conns {
		if err := c.followed(ctx, h.Sum64()); err != nil {
			return err
		}
	}
	return nil
}

// followed waits until the process has read the control file with a hash.
func (c *Conn) followed(ctx context.Context, hash uint64) error {
	for {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if s.ControlHash == hash {
			if s.ControlFile == "error" {
				return fmt.Errorf("faulthsm: process %d refused the control file: %s", s.PID, s.ControlError)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("faulthsm: process %d has not read the control file: %w", s.PID, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}
