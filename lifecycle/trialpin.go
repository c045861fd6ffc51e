package lifecycle

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"keyway/hsm"
)

// badPINs remembers which PINs tokens have refused, so that none is tried twice in this process: real tokens lock their PIN
// after a few wrong ones. It keeps marks, of which nobody can tell the PINs. It is safe for concurrent use.
type badPINs struct {
	once sync.Once
	key  [32]byte
	mu   sync.Mutex
	bad  map[string]pinMark // by token
}

// pinMark stands for a PIN that was refused: what was in its file, where that was read, and how the file was when it was not.
type pinMark struct {
	read    bool
	content [sha256.Size]byte
	file    string
}

// tokenOf names the token of a record, whatever the member is called.
func tokenOf(r MemberRecord) string {
	return fmt.Sprintf("%q", []string{
		r.Driver, realPath(r.Module), r.TokenLabel, r.TokenSerial, r.TokenManufacturer, r.TokenModel, r.TokenDir, r.InitArgs, strings.Join(r.Env, "\n"),
	})
}

// content returns the mark of a PIN file's content. One that cannot be read has a mark too: opening the token tells why.
func (b *badPINs) content(path string) (mark [sha256.Size]byte) {
	b.once.Do(func() { _, _ = rand.Read(b.key[:]) }) // never fails (crypto/rand documents it)
	h := hmac.New(sha256.New, b.key[:])
	if pin, err := hsm.ReadPIN(path); err == nil {
		h.Write(pin.Reveal())
		pin.Wipe()
	}
	h.Sum(mark[:0])
	return mark
}

// fileMark changes when a file is written.
func fileMark(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d bytes of %d", st.Size(), st.ModTime().UnixNano())
}

// allows returns why the PIN of a record must not be tried, nil when it may.
func (b *badPINs) allows(r MemberRecord) *Misfit {
	b.mu.Lock()
	bad, known := b.bad[tokenOf(r)]
	b.mu.Unlock()
	if !known || bad.read && b.content(r.PINFile) != bad.content || !bad.read && fileMark(r.PINFile) != bad.file {
		return nil
	}
	return misfit(CausePINKnown, "put the right PIN into the file; if it is the right one, say --force", "its token has refused the PIN of %s before, which is not tried again", r.PINFile)
}

// refused notes that the PIN now in the record's file was refused in a trial.
func (b *badPINs) refused(r MemberRecord) {
	b.note(r, pinMark{read: true, content: b.content(r.PINFile)})
}

// latched notes that a member latched. Its PIN file is not read, only looked at.
func (b *badPINs) latched(r MemberRecord) { b.note(r, pinMark{file: fileMark(r.PINFile)}) }

func (b *badPINs) note(r MemberRecord, m pinMark) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bad == nil {
		b.bad = map[string]pinMark{}
	}
	b.bad[tokenOf(r)] = m
}

// forget notes that somebody vouches for the PIN, or that it was accepted.
func (b *badPINs) forget(r MemberRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.bad, tokenOf(r))
}

// realPath is the path of a file by none of its other names, or path where there is no such file.
func realPath(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return filepath.Clean(path)
}
