package hsmtest

import (
	"context"
	"os"
	"sync"
	"time"

	"keyway/hsm"
)

// Calls is a set of the calls that a token and its sessions have.
type Calls uint16

// The calls. Those of Do are told apart by what the operation is.
const (
	OnOpen Calls = 1 << iota
	OnSign
	OnEncrypt
	OnDecrypt
	OnWrap
	OnUnwrap
	OnRandom
	OnFind
	OnGenerate
	OnPublic
	OnImport
	OnWrapKey
	OnUnwrapKey
	OnDestroy

	OnKey = OnSign | OnEncrypt | OnDecrypt | OnWrap | OnUnwrap // Do with a key
	OnDo  = OnKey | OnRandom
	OnAny = OnDestroy<<1 - 1
)

// Fault is what becomes of calls. Its parts come in this order: the call waits Delay, then for Until, then ends the
// token or fails; when it does neither it runs.
type Fault struct {
	Delay time.Duration
	// Until makes a call hang until it is closed, or the token is killed or closed; nil hangs nothing.
	Until <-chan struct{}
	// Kill ends the token's process, as Faulty.Kill does.
	Kill bool
	// Err is what the call answers without running.
	Err error
	// Lose loses the session with it: Do returns Err too, and what comes later finds the session closed.
	Lose bool
	// Times is how many calls meet the fault, 0 for all until Heal.
	Times int
}

// Faulty is a token whose calls fail, dawdle and hang on command. It claims to be a process of its own, which Kill ends.
// With no fault injected it is the token it wraps. It is safe for concurrent use.
type Faulty struct {
	token hsm.Token
	once  sync.Once
	done  chan struct{} // closed by Kill and Close

	mu     sync.Mutex
	faults map[Calls]Fault // by single call
	counts map[Calls]int
	lost   error // why done is closed
}

var (
	_ hsm.Token   = (*Faulty)(nil)
	_ hsm.Process = (*Faulty)(nil)
)

// NewFaulty returns a Faulty around t, which it owns.
func NewFaulty(t hsm.Token) *Faulty {
	return &Faulty{token: t, done: make(chan struct{}), faults: map[Calls]Fault{}, counts: map[Calls]int{}}
}

// Inject makes the calls of a set meet x from now on, in place of what they met before.
func (f *Faulty) Inject(calls Calls, x Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := OnOpen; c <= OnDestroy; c <<= 1 {
		if calls&c != 0 {
			f.faults[c] = x
		}
	}
}

// Heal takes the faults of a set of calls away. Calls that hang go on hanging.
func (f *Faulty) Heal(calls Calls) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.faults {
		if calls&c != 0 {
			delete(f.faults, c)
		}
	}
}

// Count returns how many calls of a set have come so far, whatever became of them.
func (f *Faulty) Count(calls Calls) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for c, k := range f.counts {
		if calls&c != 0 {
			n += k
		}
	}
	return n
}

// meet counts a call and lets it meet its fault. The call fails with err, if any, and loses its session if lose is set.
func (f *Faulty) meet(c Calls) (err error, lose bool) {
	f.mu.Lock()
	f.counts[c]++
	x, met := f.faults[c]
	if met && x.Times > 0 {
		if x.Times--; x.Times == 0 {
			delete(f.faults, c)
		} else {
			f.faults[c] = x
		}
	}
	f.mu.Unlock()
	if x.Delay > 0 {
		time.Sleep(x.Delay)
	}
	if x.Until != nil {
		select {
		case <-x.Until:
		case <-f.done:
		}
	}
	if x.Kill {
		f.Kill()
	}
	if err := f.gone(); err != nil {
		return err, true
	}
	return x.Err, x.Lose
}

// gone is why nothing can be asked any more, nil while something can.
func (f *Faulty) gone() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

func (f *Faulty) end(why error) {
	f.once.Do(func() {
		f.mu.Lock()
		f.lost = why
		f.mu.Unlock()
		close(f.done)
	})
}

// OpenSession opens a session of the token within.
func (f *Faulty) OpenSession(ctx context.Context) (hsm.Session, error) {
	if err, _ := f.meet(OnOpen); err != nil {
		return nil, err
	}
	s, err := f.token.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	k, ok := s.(hsm.Keeper)
	if !ok {
		return struct{ hsm.Session }{&faultySession{f: f, s: s}}, nil // no Keeper either
	}
	return &faultySession{f: f, s: s, k: k}, nil
}

// Info is what the token within says.
func (f *Faulty) Info() hsm.Info { return f.token.Info() }

// Close closes the token within. Calls that hang fail with [hsm.ErrClosed].
func (f *Faulty) Close() error {
	f.end(hsm.ErrClosed)
	return f.token.Close()
}

// PID is this process's: there is no other.
func (f *Faulty) PID() int { return os.Getpid() }

// Kill makes every call, those that hang among them, fail with [hsm.ErrLinkLost]. The token within stays open until Close.
func (f *Faulty) Kill() { f.end(hsm.ErrLinkLost) }

// Done is closed by Kill and Close.
func (f *Faulty) Done() <-chan struct{} { return f.done }

// faultySession implements hsm.Keeper.
type faultySession struct {
	f    *Faulty
	s    hsm.Session
	k    hsm.Keeper
	lost bool
}

var _ hsm.Keeper = (*faultySession)(nil)

// call lets a call meet its fault, and runs it when it met none.
func (s *faultySession) call(c Calls, run func() error) error {
	if s.lost {
		return hsm.ErrClosed
	}
	err, lose := s.f.meet(c)
	if err == nil {
		return run()
	}
	if lose && s.f.gone() == nil {
		s.lost = true
		_ = s.s.Close() // its objects go too
	}
	return err
}

// Do runs op.
func (s *faultySession) Do(op *hsm.Op) error {
	c := [...]Calls{hsm.OpSign: OnSign, hsm.OpEncrypt: OnEncrypt, hsm.OpDecrypt: OnDecrypt, hsm.OpWrap: OnWrap, hsm.OpUnwrap: OnUnwrap, hsm.OpRandom: OnRandom}
	var call Calls
	if int(op.Kind) < len(c) {
		call = c[op.Kind]
	}
	ran := false
	err := s.call(call, func() error {
		ran = true
		return s.s.Do(op)
	})
	if ran {
		return err
	}
	op.Out, op.Err = op.Out[:0], err
	if s.lost || s.f.gone() != nil {
		return err
	}
	return nil
}

// Find looks an object up.
func (s *faultySession) Find(c hsm.Class, id []byte) (h hsm.Handle, err error) {
	err = s.call(OnFind, func() (err error) { h, err = s.s.Find(c, id); return err })
	return h, err
}

// Generate makes a key.
func (s *faultySession) Generate(spec hsm.Spec) (h hsm.Handle, err error) {
	err = s.call(OnGenerate, func() (err error) { h, err = s.k.Generate(spec); return err })
	return h, err
}

// Public reads a public half.
func (s *faultySession) Public(h hsm.Handle) (der []byte, err error) {
	err = s.call(OnPublic, func() (err error) { der, err = s.k.Public(h); return err })
	return der, err
}

// Import makes an object from clear material.
func (s *faultySession) Import(spec hsm.Spec, material []byte) (h hsm.Handle, err error) {
	err = s.call(OnImport, func() (err error) { h, err = s.k.Import(spec, material); return err })
	return h, err
}

// WrapKey wraps a key.
func (s *faultySession) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) (blob []byte, err error) {
	err = s.call(OnWrapKey, func() (err error) { blob, err = s.k.WrapKey(kek, m, key); return err })
	return blob, err
}

// UnwrapKey unwraps a key.
func (s *faultySession) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (h hsm.Handle, err error) {
	err = s.call(OnUnwrapKey, func() (err error) { h, err = s.k.UnwrapKey(kek, m, blob, spec); return err })
	return h, err
}

// Destroy destroys an object.
func (s *faultySession) Destroy(h hsm.Handle) error {
	return s.call(OnDestroy, func() error { return s.k.Destroy(h) })
}

// Close closes the session within.
func (s *faultySession) Close() error { return s.s.Close() }
