package hsm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
)

// PIN is a user PIN or another small secret. It prints as "[redacted]" whatever
// prints it. The zero value is an empty PIN.
//
// Package fmt cannot call the methods of an unexported field and follows one pointer when a verb does not fit, so
// there are two.
type PIN struct{ b **[]byte }

const redacted = "[redacted]"

// maxPIN bounds what is read of a PIN file, in bytes.
const maxPIN = 1024

// NewPIN returns a PIN that owns a copy of b; the caller wipes b.
func NewPIN(b []byte) PIN {
	c := bytes.Clone(b)
	p := &c
	return PIN{&p}
}

// ReadPIN reads a PIN from a file, less one line end. A file that others than its owner and
// group may read, an empty one and one of more than 1,024 bytes are refused.
func ReadPIN(path string) (PIN, error) {
	f, err := os.Open(path)
	if err != nil {
		return PIN{}, fmt.Errorf("reading a PIN: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return PIN{}, fmt.Errorf("reading a PIN: %w", err)
	}
	if st.Mode().Perm()&0o007 != 0 {
		return PIN{}, fmt.Errorf("PIN file %s may be read by everybody: chmod 600 it and change the PIN", path)
	}
	buf := make([]byte, maxPIN+3) // the PIN, a line end, and one byte that must not be there
	defer clear(buf)
	n, err := io.ReadFull(f, buf)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return PIN{}, fmt.Errorf("reading a PIN: %w", err)
	}
	b := buf[:n]
	b = bytes.TrimSuffix(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if len(b) == 0 {
		return PIN{}, fmt.Errorf("PIN file %s is empty", path)
	}
	if len(b) > maxPIN {
		return PIN{}, fmt.Errorf("PIN file %s is longer than %d bytes: is it the right file?", path, maxPIN)
	}
	return NewPIN(b), nil
}

// vouched is the context's key of Vouched.
type vouched struct{}

// Vouched returns a context for opening a token once after a person has said that its PIN is right now. Drivers then try
// it on a token that says that a wrong one has been tried before.
func Vouched(ctx context.Context) context.Context { return context.WithValue(ctx, vouched{}, true) }

// IsVouched reports whether ctx is one of [Vouched].
func IsVouched(ctx context.Context) bool { return ctx.Value(vouched{}) != nil }

// Reveal returns the PIN itself. The slice is the PIN's own: it is valid until Wipe and must not be kept.
func (p PIN) Reveal() []byte {
	if p.b == nil {
		return nil
	}
	return **p.b
}

// Wipe overwrites the PIN; every copy of p is empty afterwards.
func (p PIN) Wipe() {
	if p.b != nil {
		clear(**p.b)
		**p.b = (**p.b)[:0]
	}
}

// String returns "[redacted]".
func (p PIN) String() string { return redacted }

// GoString returns "[redacted]".
func (p PIN) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (p PIN) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// LogValue returns "[redacted]".
func (p PIN) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (p PIN) MarshalText() ([]byte, error) { return []byte(redacted), nil }
