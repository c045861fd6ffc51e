package hsmtest

import (
	"bytes"
	"crypto"
	"errors"
	"sync"
	"testing"

	"keyway/hsm"
)

func testClose(t *testing.T, open Open) {
	tok := open(t)
	s := &tester{t, tok, tok.Info()}
	a, err := tok.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.aes(a.(hsm.Keeper), 256, mayAll)
	b := s.session() // closed after the token, which is no error
	for range 2 {
		closing(t, tok)
	}
	for _, x := range []hsm.Session{a, b} {
		closed(t, x, hsm.ErrClosed)
	}
	if x, err := tok.OpenSession(t.Context()); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("OpenSession after Close = %v, %v", x, err)
	}
	if i := tok.Info(); i.Label != s.info.Label {
		t.Errorf("Info after Close = %+v", i)
	}
	// It is as good as new.
	tok = open(t)
	defer closing(t, tok)
	s = &tester{t, tok, tok.Info()}
	s.aes(s.session(), 256, mayAll)
}

// testCloseWhileBusy: whatever was answered before the end is right, and whatever comes after says that it is the end.
func testCloseWhileBusy(t *testing.T, open Open) {
	tok := open(t)
	s := &tester{t, tok, tok.Info()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	begun := sync.NewCond(&mu)
	answers := 0
	raw := random(32)
	for range 4 {
		k := s.session()
		h := s.load(k, hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign}, raw)
		wg.Go(func() {
			for {
				op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: h, In: random(64)}
				err := k.Do(&op)
				if err == nil && op.Err == nil {
					if !bytes.Equal(op.Out, mac(hsm.SHA256HMAC, raw, op.In)) {
						t.Errorf("a wrong answer: %x", op.Out)
					}
					mu.Lock()
					answers++
					begun.Signal()
					mu.Unlock()
					continue
				}
				// The object may be gone a moment before its session is.
				if hsm.FaultOf(op.Err) != hsm.Stale || err != nil && hsm.FaultOf(err) != hsm.Stale {
					t.Errorf("Do = %v, op.Err = %v", err, op.Err)
				}
				if err != nil {
					return
				}
			}
		})
	}
	mu.Lock()
	for answers < 50 {
		begun.Wait()
	}
	mu.Unlock()
	closing(t, tok)
	wg.Wait()
}

// testTokenObjects: token objects outlive session and login, session objects do not.
func testTokenObjects(t *testing.T, open Open) {
	ids := map[string][]byte{"pair": newID(), "imported": newID(), "unwrapped": newID(), "secret": newID(), "session": newID()}
	ec, aes := (&tester{T: t}).specimen("EC-384"), (&tester{T: t}).specimen("AES-256")
	pair := specimen{spec: hsm.Spec{Type: hsm.KeyEC, Bits: 256, ID: ids["pair"], Label: "pair", Token: true, May: hsm.MaySign}, mech: hsm.Mechanism{Type: hsm.ECDSA}}
	func() {
		tok := open(t)
		defer closing(t, tok)
		s := &tester{t, tok, tok.Info()}
		k := s.session()
		h := s.generate(k, pair.spec)
		pair.public = s.publicOf(k, h)
		ec.spec.Token, aes.spec.Token = true, true
		ec.spec.ID = ids["imported"]
		s.load(k, ec.spec, ec.material)
		aes.spec.ID = ids["secret"]
		s.load(k, aes.spec, aes.material)
		kek, raw := s.aes(k, 256, mayWrap)
		aes.spec.ID = ids["unwrapped"]
		if _, err := k.UnwrapKey(kek, hsm.Mechanism{Type: hsm.AESKeyWrap}, aes.wrapped(hsm.AESKeyWrap, raw), aes.spec); err != nil {
			t.Fatal(err)
		}
		aes.spec.ID, aes.spec.Token = ids["session"], false
		s.load(k, aes.spec, aes.material)
		if err := k.Close(); err != nil { // the session goes before the token
			t.Fatal(err)
		}
		other := s.session()
		if h, err := other.Find(hsm.ClassPrivate, ids["pair"]); err != nil {
			t.Error(err)
		} else if err := pair.use(other, h); err != nil {
			t.Error(err)
		}
	}()
	func() {
		tok := open(t)
		defer closing(t, tok)
		s := &tester{t, tok, tok.Info()}
		k := s.session()
		use := func(x *specimen, id string) hsm.Handle {
			t.Helper()
			h, err := k.Find(x.spec.ObjectClass(), ids[id])
			if err != nil {
				t.Fatalf("%s after Close: %v", id, err)
			}
			if err := x.use(k, h); err != nil {
				t.Errorf("%s after Close: %v", id, err)
			}
			return h
		}
		if _, err := k.Find(hsm.ClassSecret, ids["session"]); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("a session object after Close: %v", err)
		}
		h := use(&pair, "pair")
		if pub := s.publicOf(k, h); !pair.public.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
			t.Error("the pair has another public half after Close")
		}
		ph, err := k.Find(hsm.ClassPublic, ids["pair"])
		if err != nil {
			t.Errorf("the public half on the token: %v", err)
		}
		if pub := s.publicOf(k, ph); !pair.public.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
			t.Error("the public object is another")
		}
		for _, h := range []hsm.Handle{h, use(&ec, "imported"), use(&aes, "secret"), use(&aes, "unwrapped")} {
			if err := k.Destroy(h); err != nil {
				t.Error(err)
			}
		}
	}()
	tok := open(t)
	defer closing(t, tok)
	k := (&tester{t, tok, tok.Info()}).session()
	for name, id := range ids {
		for _, c := range []hsm.Class{hsm.ClassPublic, hsm.ClassPrivate, hsm.ClassSecret} {
			if _, err := k.Find(c, id); !errors.Is(err, hsm.ErrNotFound) {
				t.Errorf("%s, class %d, after Destroy and Close: %v", name, c, err)
			}
		}
	}
}

// testProcess ends the process of a token that has one.
func testProcess(t *testing.T, open Open) {
	tok := open(t)
	defer closing(t, tok)
	p, ok := tok.(hsm.Process)
	if !ok {
		return // a token in this process ends with it
	}
	if p.PID() <= 0 {
		t.Errorf("process %d", p.PID())
	}
	select {
	case <-p.Done():
		t.Fatal("the process has ended")
	default:
	}
	s := &tester{t, tok, tok.Info()}
	a, b := s.session(), s.session()
	p.Kill()
	closed(t, a, hsm.ErrLinkLost)
	<-p.Done()
	closed(t, b, hsm.ErrLinkLost)
	if _, err := tok.OpenSession(t.Context()); !errors.Is(err, hsm.ErrLinkLost) {
		t.Errorf("OpenSession: %v", err)
	}
	p.Kill()
	other := open(t)
	op, isProcess := other.(hsm.Process)
	closing(t, other)
	if !isProcess {
		t.Fatal("the token has a process one time and none the next")
	}
	<-op.Done() // whatever the reason
}
