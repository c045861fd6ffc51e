package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxNote is the longest signed checkpoint that is read, in bytes.
const maxNote = 64 << 10

// Checkpoint is the size and the root of a log at one moment: the text that is signed (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin Origin // which log
	Size   int64
	Root   tlog.Hash
}

// Checkpoint returns the tree as a checkpoint.
func (t Tree) Checkpoint(origin Origin) Checkpoint { return Checkpoint{origin, t.size, t.Root()} }

// Text returns the three lines that are signed.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// ParseCheckpoint reads what Text writes. Extension lines are refused: nothing would check them.
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, errors.New("audit: a checkpoint has three lines: origin, size, root")
	}
	c := Checkpoint{Origin: Origin(lines[0])}
	if err := c.Origin.check(); err != nil {
		return Checkpoint{}, fmt.Errorf("audit: checkpoint: %w", err)
	}
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || n < 0 || n > maxNumber || strconv.FormatInt(n, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("audit: checkpoint: %q is no size", lines[1])
	}
	c.Size = n
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return Checkpoint{}, fmt.Errorf("audit: checkpoint: %q is no root hash", lines[2])
	}
	copy(c.Root[:], root)
	return c, nil
}

// Sign returns the checkpoint as a note with the signatures of all signers, in their order. It fails when one of them does.
func (c Checkpoint) Sign(signers ...note.Signer) ([]byte, error) {
	if err := c.Origin.check(); err != nil {
		return nil, fmt.Errorf("audit: checkpoint: %w", err)
	}
	if len(signers) == 0 {
		return nil, errors.New("audit: a checkpoint without a signature proves nothing")
	}
	msg, err := note.Sign(&note.Note{Text: c.Text()}, signers...)
	if err != nil {
		return nil, fmt.Errorf("audit: signing the checkpoint of %d entries: %w", c.Size, err)
	}
	return msg, nil
}

// AddSignatures returns a signed note with more signatures, as a witness adds them. It does not check those that are there.
func AddSignatures(msg []byte, signers ...note.Signer) ([]byte, error) {
	n, err := openUnverified(msg)
	if err != nil {
		return nil, err
	}
	out, err := note.Sign(n, signers...)
	if err != nil {
		return nil, fmt.Errorf("audit: adding a signature: %w", err)
	}
	return out, nil
}

// openUnverified parses a note and takes every signature as one of a key that is not known.
func openUnverified(msg []byte) (*note.Note, error) {
	if len(msg) > maxNote {
		return nil, fmt.Errorf("audit: a signed checkpoint of %d bytes: at most %d", len(msg), maxNote)
	}
	_, err := note.Open(msg, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return nil, fmt.Errorf("audit: checkpoint: %w", err)
	}
	return unverified.Note, nil
}

// Signed is a checkpoint with what its signatures are worth.
type Signed struct {
	Checkpoint
	Note string      // the whole note
	Good []Signature // by trusted keys, and valid
	Bad  []Signature // under the name and number of a trusted key, and not valid: a forgery, or damage
	// Unknown are signatures by keys that are not trusted; they say nothing.
	Unknown []Signature
}

// Signature names the key of a signature.
type Signature struct {
	Name string `json:"name"`
	Hash uint32 `json:"key_hash"` // the key's number in notes
	Time Time   `json:"time,omitempty"`
}

// String returns name+hash, as verifier keys begin.
func (s Signature) String() string { return fmt.Sprintf("%s+%08x", s.Name, s.Hash) }

// OpenCheckpoint reads a signed checkpoint and checks its signatures with the trusted keys. An error means that
// it is no checkpoint; whether its signatures are enough is for the caller to say.
func OpenCheckpoint(msg []byte, trusted []note.Verifier) (*Signed, error) {
	n, err := openUnverified(msg)
	if err != nil {
		return nil, err
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	out := &Signed{Checkpoint: c, Note: string(msg), Good: []Signature{}, Bad: []Signature{}, Unknown: []Signature{}}
	for _, sig := range n.UnverifiedSigs {
		raw, err := base64.StdEncoding.DecodeString(sig.Base64)
		if err != nil || len(raw) < 5 {
			return nil, fmt.Errorf("audit: checkpoint: malformed signature by %s", sig.Name) // note.Open has looked already
		}
		s := Signature{Name: sig.Name, Hash: sig.Hash}
		known, good := false, false
		for _, v := range trusted {
			if v.Name() == sig.Name && v.KeyHash() == sig.Hash {
				known = true
				if good = good || v.Verify([]byte(n.Text), raw[4:]); good {
					s.Time = cosignedAt(v, raw[4:])
					break
				}
			}
		}
		switch {
		case good:
			out.Good = append(out.Good, s)
		case known:
			out.Bad = append(out.Bad, s)
		default:
			out.Unknown = append(out.Unknown, s)
		}
	}
	return out, nil
}
