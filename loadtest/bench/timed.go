//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// timed is a token in memory whose calls take time, as a device's do, and hardly any of this machine's processors: in front of
// it the pool itself is measured. Its answer is the key's ID and the input, so each answer shows which key it was made with.
type timed struct {
	mean   time.Duration
	spread float64 // a call takes mean × (1 ± spread), evenly distributed
	most   int64   // calls at once above which it says that it is busy, as CloudHSM does; 0 for no limit

	objects sync.Map // hsm.Handle to key.ID
	handles atomic.Uint64
	live    atomic.Int64 // session objects on the token
	peak    atomic.Int64 // the most there ever were
	calls   atomic.Int64
	refused atomic.Int64 // because it was busy
	spent   atomic.Int64 // nanoseconds in calls, as they were really spent
	inside  atomic.Int64
}

func (t *timed) Info() hsm.Info {
	return hsm.Info{Vendor: hsm.VendorCloudHSM, Mechanisms: map[hsm.MechanismType]hsm.MechanismInfo{hsm.SHA256HMAC: {}}}
}
func (t *timed) Close() error { return nil }

func (t *timed) OpenSession(context.Context) (hsm.Session, error) {
	// Sessions of a device are not in step, and calls that take the same time would keep them so.
	return &timedSession{t: t, owed: rand.N(max(1, t.mean))}, nil
}

// timedSession is one session of a timed token. What one call overslept, the next one sleeps less, so that the mean is right
// though every sleep is too long; what its user lets pass between two calls is lost.
type timedSession struct {
	t    *timed
	owed time.Duration
}

func (s *timedSession) spend() {
	d := s.t.mean
	if s.t.spread > 0 {
		d += time.Duration((2*rand.Float64() - 1) * s.t.spread * float64(d))
	}
	d -= s.owed
	begun := time.Now()
	if d > 0 {
		time.Sleep(d)
	}
	took := time.Since(begun)
	s.owed = took - d
	s.t.calls.Add(1)
	s.t.spent.Add(int64(took))
}

func (s *timedSession) Do(op *hsm.Op) error {
	t := s.t
	op.Out, op.Err = op.Out[:0], nil
	defer t.inside.Add(-1)
	if n := t.inside.Add(1); t.most > 0 && n > t.most {
		t.refused.Add(1)
		op.Err = &hsm.Error{Code: hsm.FunctionFailed, Function: hsm.FnSign, Vendor: hsm.VendorCloudHSM}
		return nil
	}
	s.spend()
	if op.Kind == hsm.OpRandom {
		op.Out = append(op.Out, make([]byte, op.Len)...)
		return nil
	}
	id, ok := t.objects.Load(op.Key)
	if !ok {
		op.Err = &hsm.Error{Code: hsm.KeyHandleInvalid, Function: hsm.FnSign}
		return nil
	}
	of := id.(key.ID)
	op.Out = append(append(op.Out, of[:]...), op.In...)
	return nil
}

// UnwrapKey is hsm.Keeper's.
//
//nolint:unparam // the error is the contract's
func (s *timedSession) UnwrapKey(_ hsm.Handle, _ hsm.Mechanism, _ []byte, spec hsm.Spec) (hsm.Handle, error) {
	t := s.t
	n := t.live.Add(1) // the room is taken from the beginning
	for was := t.peak.Load(); n > was && !t.peak.CompareAndSwap(was, n); was = t.peak.Load() {
	}
	s.spend()
	h := hsm.Handle(1 + t.handles.Add(1)) // 1 is the KEK
	t.objects.Store(h, key.ID(spec.ID))
	return h, nil
}

func (s *timedSession) Destroy(h hsm.Handle) error {
	s.spend()
	if _, ok := s.t.objects.LoadAndDelete(h); !ok {
		return hsm.ErrNotFound
	}
	s.t.live.Add(-1)
	return nil
}

func (s *timedSession) Find(hsm.Class, []byte) (hsm.Handle, error) { return 1, nil }
func (s *timedSession) Close() error                               { return nil }

var errTimed = fmt.Errorf("%w by a token that only takes time", hsm.ErrUnsupported)

func (s *timedSession) Generate(hsm.Spec) (hsm.Handle, error)       { return 0, errTimed }
func (s *timedSession) Public(hsm.Handle) ([]byte, error)           { return nil, errTimed }
func (s *timedSession) Import(hsm.Spec, []byte) (hsm.Handle, error) { return 0, errTimed }
func (s *timedSession) WrapKey(hsm.Handle, hsm.Mechanism, hsm.Handle) ([]byte, error) {
	return nil, errTimed
}

// timedPool makes a pool of timed tokens. Close it.
func timedPool(ctx context.Context, tokens []*timed, member pool.MemberConfig) (*pool.Pool, error) {
	p, err := pool.New(pool.Config{Name: "timed", SlowStart: time.Nanosecond})
	if err != nil {
		return nil, err
	}
	for i, t := range tokens {
		member.Name, member.KEK = fmt.Sprintf("t%d", i+1), kekID
		member.Open = func(context.Context) (hsm.Token, error) { return t, nil }
		if err = p.Add(member); err != nil {
			break
		}
	}
	if err == nil {
		err = waitFor(ctx, p, len(tokens))
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// timedKey is a key as timed tokens have it.
func timedKey(n int) *pool.Key {
	k := &pool.Key{Blob: []byte{1}, Wrap: kekWrap, Spec: hsm.Spec{Type: hsm.KeyGeneric}}
	copy(k.ID[:], fmt.Sprintf("timed-%010d", n))
	return k
}

// askTimed does one operation and checks that the answer is that of this key and this question.
func askTimed(ctx context.Context, p *pool.Pool, k *pool.Key) ([]byte, error) {
	out, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: message})
	if err == nil && (len(out) != len(k.ID)+len(message) || !bytes.HasPrefix(out, k.ID[:]) || !bytes.HasSuffix(out, message)) {
		err = fmt.Errorf("the answer with key %x is %x", k.ID, out)
	}
	return out, err
}
