package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/lifecycle"
)

// devHome is the directory of one dev instance: a directory for each token with its PINs, and the secrets of the demo
// client and the operator. Everything in it is its owner's alone.
type devHome struct {
	dir    string // absolute
	module string // of SoftHSM; "" for embedded tokens
	fell   error  // why the tokens are embedded though nobody asked for it
	lock   *os.File
}

// openDevHome makes or opens the directory and decides, once for all, which kind of token is in it. Close it.
func openDevHome(dir string, embedded bool) (*devHome, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	h := &devHome{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory %s (%w): name one that this user may write to with --dir", dir, err)
	}
	h.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write to %s (%w): name a directory that this user may write to with --dir", dir, err)
	}
	if err := syscall.Flock(int(h.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		h.close()
		return nil, fmt.Errorf("another keyway dev is running in %s: end it, or use another --dir", dir)
	}
	if err := h.choose(embedded); err != nil {
		h.close()
		return nil, err
	}
	return h, h.remove("dev.json")
}

// choose reads which kind of token the directory has, or decides it.
func (h *devHome) choose(embedded bool) error {
	const softhsm, soft = "softhsm", "embedded"
	b, err := os.ReadFile(filepath.Join(h.dir, "token-kind"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kind := strings.TrimSpace(string(b))
	module, missing := pkcs11.FindModule("softhsm")
	if err := pkcs11.Usable(); err != nil {
		missing = err
	}
	switch {
	case kind == softhsm && embedded:
		return fmt.Errorf("%s holds SoftHSM tokens: leave out --embedded, or use another --dir", h.dir)
	case kind == softhsm && missing != nil:
		return fmt.Errorf("%s holds SoftHSM tokens: %w", h.dir, missing)
	case kind == softhsm:
		h.module = module
		return nil
	case kind == soft:
		return nil
	case kind != "":
		return fmt.Errorf("%s/token-kind says %q, which this program does not know", h.dir, kind)
	}
	kind = soft
	if !embedded && missing == nil {
		kind, h.module = softhsm, module
	} else if !embedded {
		h.fell = missing
	}
	return h.write("token-kind", []byte(kind+"\n"))
}

func (h *devHome) close() { _ = h.lock.Close() } // the lock goes with it

// about says which kind of token is used.
func (h *devHome) about() string {
	switch {
	case h.module != "":
		return fmt.Sprintf("using SoftHSM 2 tokens (%s) in %s", h.module, h.dir)
	case h.fell != nil:
		return fmt.Sprintf("using the embedded software token in %s, not SoftHSM 2: %v", h.dir, h.fell)
	}
	return "using the embedded software token in " + h.dir
}

// write writes a file that only its owner may read, whole or not at all.
func (h *devHome) write(name string, b []byte) error {
	file := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// secret returns the first line of a file, which it fills with mint's when it is not there.
func (h *devHome) secret(name string, mint func() string) (string, error) {
	b, err := os.ReadFile(filepath.Join(h.dir, name))
	if s := strings.TrimSpace(string(b)); err == nil && s != "" {
		return s, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	s := mint()
	return s, h.write(name, []byte(s+"\n"))
}

// token returns the record of the token called name, making the token when it is not there. A token whose making was
// interrupted is made afresh: nothing is on it.
func (h *devHome) token(ctx context.Context, tok *tokens, name string) (r lifecycle.MemberRecord, made bool, err error) {
	dir := filepath.Join("tokens", name)
	store := filepath.Join(h.dir, dir, "store")
	r = lifecycle.MemberRecord{Name: name, Driver: "soft", TokenLabel: "keyway-" + name, TokenDir: store, PINFile: filepath.Join(h.dir, dir, "pin"), Isolation: "worker"}
	if h.module != "" {
		conf := filepath.Join(h.dir, dir, "softhsm2.conf")
		r.Driver, r.Module, r.TokenDir, r.Env = "pkcs11", h.module, "", []string{"SOFTHSM2_CONF=" + conf}
	}
	made = !h.has(filepath.Join(dir, "made"))
	if made {
		if err := os.RemoveAll(filepath.Join(h.dir, dir)); err != nil {
			return r, false, err
		}
		if err := os.MkdirAll(store, 0o700); err != nil {
			return r, false, err
		}
	}
	if h.module != "" { // written each time: the directory may have been moved
		conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", store)
		if err := h.write(filepath.Join(dir, "softhsm2.conf"), []byte(conf)); err != nil {
			return r, false, err
		}
	}
	if !made {
		return r, false, nil
	}
	pin, err := h.newPIN(filepath.Join(dir, "pin"))
	if err != nil {
		return r, false, err
	}
	defer pin.Wipe()
	soPIN, err := h.newPIN(filepath.Join(dir, "so-pin"))
	if err != nil {
		return r, false, err
	}
	defer soPIN.Wipe()
	if err := tok.initialise(ctx, r, pin, soPIN); err != nil {
		return r, false, err
	}
	return r, true, h.write(filepath.Join(dir, "made"), nil)
}

func (h *devHome) has(name string) bool {
	_, err := os.Stat(filepath.Join(h.dir, name))
	return err == nil
}

// newPIN writes a file with a random PIN.
func (h *devHome) newPIN(name string) (hsm.PIN, error) {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand documents it)
	text := hex.AppendEncode(nil, b[:])
	defer clear(text)
	return hsm.NewPIN(text), h.write(name, text)
}

// remove removes a file of the directory; one that is not there is no error.
func (h *devHome) remove(name string) error {
	err := os.Remove(filepath.Join(h.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
