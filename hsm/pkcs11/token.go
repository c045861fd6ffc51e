//go:build cgo

package pkcs11

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

// Token is one token of a PKCS#11 library, logged in. It implements [hsm.Token].
//
// One session, opened first and closed last, does nothing but keep the login:
// a token logs a process out, and forgets its private session objects, when
// the process closes its last session.
type Token struct {
	lib     *library
	slot    uint
	info    hsm.Info
	profile Profile
	// loggedIn: a PIN was configured, so that a session outside the user state has lost its login.
	loggedIn bool
	login    pkcs11.SessionHandle

	// objects is held for reading while objects come and go and for writing while
	// they are looked for, on tokens that cannot do both at once.
	objects sync.RWMutex
	// generating lets one key be made at a time on tokens that cannot make several.
	generating sync.Mutex

	mu       sync.Mutex
	sessions map[*Session]struct{}
	closed   bool
}

var _ hsm.Token = (*Token)(nil)

// Open loads the module, finds the token by serial number and label and logs in, once.
//
// It refuses to log in, with an error whose fault is Locked, when the token says that the PIN is
// locked or that few attempts are left; and it never tries a PIN twice. That
// somebody in this process has logged in already is success.
//
// ctx bounds the wait. A call that hangs inside the library goes on after ctx has ended, and
// what it opens is closed then.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // a PIN is not tried for nobody
	}
	// A copy of our own, so that the caller may wipe his as soon as ctx has ended.
	cfg.PIN = hsm.NewPIN(cfg.PIN.Reveal())
	return within(ctx, func() (*Token, error) {
		defer cfg.PIN.Wipe()
		return open(cfg)
	}, func(t *Token) { _ = t.Close() })
}

// within runs open and waits for it as long as ctx allows; a late result is given to drop.
func within[T any](ctx context.Context, open func() (T, error), drop func(T)) (T, error) {
	if ctx.Done() == nil {
		return open()
	}
	type answer struct {
		v   T
		err error
	}
	// The goroutine's owner is the library: nothing can end a call inside it.
	c := make(chan answer)
	go func() {
		v, err := open()
		select {
		case c <- answer{v, err}:
		case <-ctx.Done():
			if err == nil {
				drop(v)
			}
		}
	}()
	select {
	case a := <-c:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("waiting for the PKCS#11 library: %w", ctx.Err())
	}
}

func open(cfg Config) (*Token, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	lib, err := openLibrary(cfg.Module, cfg.InitArgs)
	if err != nil {
		return nil, err
	}
	slot, info, err := lib.slotOf(&cfg)
	if err != nil {
		return nil, err
	}
	t := &Token{lib: lib, slot: slot, sessions: map[*Session]struct{}{}}
	about, err := lib.ctx.GetInfo()
	if err != nil {
		return nil, fmt.Errorf("asking %s what it is: %w", cfg.Module, fault(err, hsm.FnOther, cfg.Vendor))
	}
	if t.profile, err = cfg.profile(info.ManufacturerID, info.Model, about.ManufacturerID+" "+about.LibraryDescription); err != nil {
		return nil, err
	}
	if err := t.describe(info); err != nil {
		return nil, fmt.Errorf("asking token %s for its mechanisms: %w", cfg.name(), err)
	}
	t.login, err = lib.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, fmt.Errorf("opening the first session on token %s: %w", cfg.name(), fault(err, hsm.FnOpenSession, t.profile.Vendor))
	}
	if err := t.logIn(&cfg, info.Flags); err != nil {
		_ = lib.ctx.CloseSession(t.login)
		return nil, err
	}
	return t, nil
}

// pinTrouble is what CK_TOKEN_INFO may say about the user PIN that forbids trying one, at least until somebody vouches for it.
var pinTrouble = []struct {
	flag    uint
	vouched bool // a vouched-for PIN is tried all the same
	why     string
}{
	{pkcs11.CKF_USER_PIN_LOCKED, false, "its user PIN is locked; the security officer must set a new one"},
	{pkcs11.CKF_USER_PIN_FINAL_TRY, false, "one more wrong PIN locks it; check the PIN and log in once by hand, which resets the count"},
	{pkcs11.CKF_USER_PIN_COUNT_LOW, true, "a wrong PIN has been tried on it; check the PIN, then clear the member's latch"},
	{pkcs11.CKF_USER_PIN_TO_BE_CHANGED, false, "its user PIN must be changed first"},
}

// forbids returns why no PIN may be tried on a token with these flags, "" when one may.
func forbids(flags uint, vouched bool) string {
	for _, p := range pinTrouble {
		if flags&p.flag != 0 && !(p.vouched && vouched) {
			return p.why
		}
	}
	return ""
}

func (t *Token) logIn(cfg *Config, flags uint) error {
	pin := cfg.PIN.Reveal()
	// Without a PIN pad only a token that wants no login can be used without a PIN.
	if len(pin) == 0 && flags&pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH == 0 {
		if flags&pkcs11.CKF_LOGIN_REQUIRED != 0 {
			return fmt.Errorf("token %s wants a login: configure its PIN file", cfg.name())
		}
		return nil
	}
	if why := forbids(flags, cfg.PINVouched); why != "" {
		return fmt.Errorf("not logging in to token %s: %s: %w", cfg.name(), why,
			&hsm.Error{Code: hsm.PinLocked, Function: hsm.FnLogin, Vendor: t.profile.Vendor})
	}
	r := t.lib.functions.login(uint(t.login), pkcs11.CKU_USER, pin)
	if r.code != hsm.OK && r.code != hsm.UserAlreadyLoggedIn {
		return fmt.Errorf("logging in to token %s, which is not tried again: %w", cfg.name(),
			&hsm.Error{Code: r.code, Function: hsm.FnLogin, Vendor: t.profile.Vendor})
	}
	t.loggedIn = true
	return nil
}

// describe fills in the Info: what the token says, less what the profile knows better.
func (t *Token) describe(i pkcs11.TokenInfo) error {
	p := &t.profile
	t.info = hsm.Info{
		Label: i.Label, Serial: i.SerialNumber, Manufacturer: i.ManufacturerID, Model: i.Model,
		Firmware: fmt.Sprintf("%d.%d", i.FirmwareVersion.Major, i.FirmwareVersion.Minor),
		Vendor:   p.Vendor, Clock: clockOf(i.Flags, i.UTCTime), Mechanisms: map[hsm.MechanismType]hsm.MechanismInfo{},
		MaxSessions: p.sessions(uint64(i.MaxSessionCount), uint64(i.MaxRwSessionCount)), OpenPerSecond: p.OpenPerSecond, MaxObjects: p.MaxObjects,
		Concurrency: p.Concurrency, IdleTimeout: p.IdleTimeout, SlowestCall: p.SlowestCall,
	}
	for _, s := range []*string{&t.info.Label, &t.info.Serial, &t.info.Manufacturer, &t.info.Model} {
		*s = strings.TrimRight(*s, " \x00")
	}
	list, err := t.lib.ctx.GetMechanismList(t.slot)
	if err != nil {
		return fault(err, hsm.FnOther, p.Vendor)
	}
	listed := make(map[hsm.MechanismType]*pkcs11.Mechanism, len(list))
	for _, m := range list {
		if m.Mechanism <= 1<<32-1 {
			listed[hsm.MechanismType(m.Mechanism)] = m
		}
	}
	for _, b := range p.Broken {
		delete(listed, b)
	}
	for _, m := range hsm.KnownMechanisms() {
		if l := listed[m]; l != nil {
			mi, err := t.lib.ctx.GetMechanismInfo(t.slot, []*pkcs11.Mechanism{l})
			if err != nil {
				continue // listed but not to be used
			}
			t.info.Mechanisms[m] = hsm.MechanismInfo{Min: uint64(mi.MinKeySize), Max: uint64(mi.MaxKeySize)}
		}
	}
	if t.info.Has(hsm.RSAPKCSOAEP) {
		t.info.OAEPHashes = p.oaepHashes()
	}
	return nil
}

// Info tells what the token is and can do.
func (t *Token) Info() hsm.Info { return t.info }

// OpenSession opens one more session. When the login has been lost the error is a Stale one: the
// token must be closed and opened again, since the PIN is not kept.
func (t *Token) OpenSession(ctx context.Context) (hsm.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := within(ctx, t.openSession, func(s *Session) { _ = s.Close() })
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (t *Token) openSession() (*Session, error) {
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return nil, hsm.ErrClosed
	}
	h, err := t.lib.ctx.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, fault(err, hsm.FnOpenSession, t.profile.Vendor)
	}
	if c := t.loginLost(uint(h)); c != hsm.OK {
		_ = t.lib.ctx.CloseSession(h)
		return nil, &hsm.Error{Code: c, Function: hsm.FnOpenSession, Vendor: t.profile.Vendor}
	}
	// A library that lost its sessions counts them anew: then a handle that we hold names somebody else's session or object.
	if t.uses(uint(h)) || t.loginLost(uint(t.login)) != hsm.OK {
		if !t.uses(uint(h)) {
			_ = t.lib.ctx.CloseSession(h)
		}
		return nil, fmt.Errorf("the library lost the session that keeps the login: %w",
			&hsm.Error{Code: hsm.SessionHandleInvalid, Function: hsm.FnOpenSession, Vendor: t.profile.Vendor})
	}
	s := &Session{t: t, h: uint(h), public: map[hsm.Handle][]byte{}, types: map[hsm.Handle]uint64{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = t.lib.ctx.CloseSession(h)
		return nil, hsm.ErrClosed
	}
	t.sessions[s] = struct{}{}
	return s, nil
}

// uses reports whether a session that is open has handle h.
func (t *Token) uses(h uint) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.sessions {
		if s.h == h {
			return true
		}
	}
	return uint(t.login) == h
}

// loginLost returns ok while the session is in the user state, else the code that says what is the matter.
// Some tokens answer a lost login with an invalid handle, so the state must be asked for.
func (t *Token) loginLost(session uint) hsm.Code {
	i, err := t.lib.ctx.GetSessionInfo(pkcs11.SessionHandle(session))
	if err != nil {
		if c := hsm.CodeOf(fault(err, hsm.FnOther, t.profile.Vendor)); c != hsm.OK {
			return c
		}
		return hsm.GeneralError
	}
	if t.loggedIn && i.State != pkcs11.CKS_RW_USER_FUNCTIONS && i.State != pkcs11.CKS_RO_USER_FUNCTIONS {
		return hsm.UserNotLoggedIn
	}
	return hsm.OK
}

// Close closes every session and then the one that holds the login. A session that
// has a call inside the library is closed when that call returns.
func (t *Token) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	open := make([]*Session, 0, len(t.sessions))
	for s := range t.sessions {
		open = append(open, s)
	}
	t.mu.Unlock()
	for _, s := range open {
		_ = s.Close()
	}
	// No C_Logout: it would log out whoever else uses the token in this process.
	err := fault(t.lib.ctx.CloseSession(t.login), hsm.FnOther, t.profile.Vendor)
	if gone(hsm.CodeOf(err)) {
		return nil
	}
	return err
}
