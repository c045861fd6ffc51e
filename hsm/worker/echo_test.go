//go:build linux

package worker

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// echoParams is what a test tells its worker.
type echoParams struct {
	Label string        // "pin" asks for the PIN's MAC as the label
	Fail  string        // a key of failures: open fails
	Delay time.Duration // how long open takes, whatever the context says
	Bare  bool          // sessions are no Keepers
	Count int           // sessions that may be open at once
}

// failures are errors by name, so that both processes mean the same.
var failures = map[string]error{
	"not found":   hsm.ErrNotFound,
	"ambiguous":   hsm.ErrAmbiguous,
	"closed":      hsm.ErrClosed,
	"link lost":   hsm.ErrLinkLost,
	"hung":        hsm.ErrHung,
	"unsupported": hsm.ErrUnsupported,
	"input":       hsm.ErrInput,
	"signature":   hsm.ErrSignature,
	"cancelled":   context.Canceled,
	"deadline":    context.DeadlineExceeded,
	"wrapped":     fmt.Errorf("key %q: %w", "a", hsm.ErrNotFound),
	"both":        fmt.Errorf("%w: %w", hsm.ErrInput, &hsm.Error{Code: hsm.DataLenRange, Function: hsm.FnSign}),
	"two":         errors.Join(hsm.ErrClosed, hsm.ErrNotFound),
	"plain":       errors.New("something nobody foresaw"),
	"empty":       errors.New(""),
	"pin":         &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin},
	"device":      &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnSign, Vendor: "luna"},
	"general":     &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt, Vendor: "softhsm"},
	"session":     &hsm.Error{Code: hsm.SessionHandleInvalid, Function: hsm.FnSign},
	"vendor code": &hsm.Error{Code: 0x80000187, Function: hsm.FnSign, Vendor: "cloudhsm"},
	"coded":       fmt.Errorf("logging in: %w", &hsm.Error{Code: hsm.PinLocked, Function: hsm.FnLogin}),
}

// openEcho is the open function of the tests' workers. Its token runs operations whose AAD says what to do.
func openEcho(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
	var p echoParams
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "echo token opening")
	time.Sleep(p.Delay)
	if p.Fail != "" {
		return nil, failures[p.Fail]
	}
	if p.Label == "pin" {
		p.Label = pinProof(pin.Reveal())
	}
	return &echoToken{params: p}, nil
}

// pinProof proves that a PIN arrived without sending it back.
func pinProof(pin []byte) string {
	m := hmac.New(sha256.New, []byte("proof"))
	m.Write(pin)
	return fmt.Sprintf("%x", m.Sum(nil))
}

type echoToken struct {
	params echoParams
	open   atomic.Int64

	mu      sync.Mutex
	objects []echoObject
}

type echoObject struct {
	spec     hsm.Spec
	material []byte
}

func (t *echoToken) Info() hsm.Info {
	return hsm.Info{
		Label: t.params.Label, Vendor: "echo", MaxSessions: int(t.open.Load()), OAEPHashes: []hsm.Hash{hsm.SHA256},
		Mechanisms: map[hsm.MechanismType]hsm.MechanismInfo{hsm.SHA256HMAC: {Min: 1, Max: 64}},
	}
}

func (t *echoToken) Close() error { return nil }

func (t *echoToken) OpenSession(ctx context.Context) (hsm.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n := t.open.Add(1); t.params.Count > 0 && n > int64(t.params.Count) {
		t.open.Add(-1)
		return nil, &hsm.Error{Code: hsm.SessionCount, Function: hsm.FnOpenSession}
	}
	s := &echoSession{token: t}
	if t.params.Bare {
		return bare{s}, nil
	}
	return s, nil
}

type echoSession struct {
	token *echoToken
	once  sync.Once
}

// Do echoes In, or does what AAD says: "fail NAME", "lose NAME", "sleep DURATION", "exit", "hang", "dumpable", "sessions".
func (s *echoSession) Do(op *hsm.Op) error {
	op.Out, op.Err = op.Out[:0], nil
	do, arg, _ := strings.Cut(string(op.Mech.AAD), " ")
	switch do {
	case "fail":
		op.Err = failures[arg]
		return nil
	case "lose":
		op.Err = failures[arg]
		return hsm.ErrClosed
	case "sleep":
		d, _ := time.ParseDuration(arg)
		time.Sleep(d)
	case "exit":
		os.Exit(7)
	case "hang":
		select {}
	case "dumpable":
		op.Out = append(op.Out, dumpable()...)
		return nil
	case "sessions":
		op.Out = binary.LittleEndian.AppendUint64(op.Out, uint64(s.token.open.Load()))
		return nil
	}
	if op.Kind == hsm.OpRandom {
		op.Out = append(op.Out, make([]byte, op.Len)...)
		return nil
	}
	op.Out = append(op.Out, op.In...)
	return nil
}

func (s *echoSession) add(o echoObject) (hsm.Handle, error) {
	s.token.mu.Lock()
	defer s.token.mu.Unlock()
	s.token.objects = append(s.token.objects, o)
	return hsm.Handle(len(s.token.objects)), nil
}

func (s *echoSession) object(h hsm.Handle) (echoObject, error) {
	s.token.mu.Lock()
	defer s.token.mu.Unlock()
	if h == 0 || int(h) > len(s.token.objects) || s.token.objects[h-1].spec.Bits == 0 {
		return echoObject{}, &hsm.Error{Code: hsm.ObjectHandleInvalid, Function: hsm.FnGetAttribute}
	}
	return s.token.objects[h-1], nil
}

func (s *echoSession) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	s.token.mu.Lock()
	defer s.token.mu.Unlock()
	for i, o := range s.token.objects {
		if o.spec.ObjectClass() == c && string(o.spec.ID) == string(id) {
			return hsm.Handle(i + 1), nil
		}
	}
	return 0, hsm.ErrNotFound
}

func (s *echoSession) Generate(spec hsm.Spec) (hsm.Handle, error) {
	return s.add(echoObject{spec, []byte("generated")})
}

func (s *echoSession) Import(spec hsm.Spec, material []byte) (hsm.Handle, error) {
	return s.add(echoObject{spec, append([]byte(nil), material...)})
}

// Public returns the object's template, for the tests to see what arrived.
func (s *echoSession) Public(h hsm.Handle) ([]byte, error) {
	o, err := s.object(h)
	if err != nil {
		return nil, err
	}
	return json.Marshal(o.spec)
}

func (s *echoSession) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	o, err := s.object(key)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%d %s %s", kek, m.Type, o.material), nil
}

func (s *echoSession) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	prefix := fmt.Sprintf("%d %s ", kek, m.Type)
	material, ok := strings.CutPrefix(string(blob), prefix)
	if !ok {
		return 0, fmt.Errorf("%w: the blob does not open", hsm.ErrInput)
	}
	return s.add(echoObject{spec, []byte(material)})
}

func (s *echoSession) Destroy(h hsm.Handle) error {
	if _, err := s.object(h); err != nil {
		return err
	}
	s.token.mu.Lock()
	defer s.token.mu.Unlock()
	s.token.objects[h-1] = echoObject{}
	return nil
}

func (s *echoSession) Close() error {
	s.once.Do(func() { s.token.open.Add(-1) })
	return nil
}
