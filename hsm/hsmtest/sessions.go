package hsmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"keyway/hsm"
)

func testInfo(t *tester) {
	i := t.info
	if i.Label == "" || i.Serial == "" || i.Manufacturer == "" || i.Model == "" || i.Firmware == "" || i.Vendor == "" {
		t.Errorf("the token does not say what it is: %+v", i)
	}
	known := hsm.KnownMechanisms()
	for m := range i.Mechanisms {
		if !slices.Contains(known, m) {
			t.Errorf("%s is listed and Keyway cannot use it", m)
		}
	}
	if i.Has(hsm.RSAPKCSOAEP) != (len(i.OAEPHashes) > 0) || !slices.IsSortedFunc(i.OAEPHashes, func(a, b hsm.Hash) int { return b.Size() - a.Size() }) {
		t.Errorf("hashes of OAEP: %v", i.OAEPHashes)
	}
	if i.MaxSessions < 0 || i.OpenPerSecond < 0 || i.MaxObjects < 0 {
		t.Errorf("limits below zero: %+v", i)
	}
	if again := t.tok.Info(); !reflect.DeepEqual(again, i) {
		t.Errorf("it says something else the second time: %+v", again)
	}
}

func testOpenSession(t *tester) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if s, err := t.tok.OpenSession(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("with a context that has ended: %v, %v", s, err)
		}
	}
	// A session does not end with the context it was opened under.
	ctx, cancel = context.WithCancel(t.Context())
	s, err := t.tok.OpenSession(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	t.run(s, hsm.Op{Kind: hsm.OpRandom, Len: 16})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func testManySessions(t *tester) {
	n := 48
	if t.info.MaxSessions > 0 {
		n = min(n, t.info.MaxSessions)
	}
	for range 2 { // the second time, after all were closed, as well as the first
		var wg sync.WaitGroup
		sessions := make([]hsm.Session, n)
		for i := range sessions {
			wg.Go(func() {
				s, err := t.tok.OpenSession(t.Context())
				if err != nil {
					t.Errorf("session %d of %d: %v", i+1, n, err)
					return
				}
				sessions[i] = s
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		for _, s := range sessions {
			t.run(s, hsm.Op{Kind: hsm.OpRandom, Len: 16})
		}
		for _, s := range sessions {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// closed checks that a session of which nothing is left says so to every call.
func closed(t testing.TB, s hsm.Session, want error) {
	t.Helper()
	for _, op := range []hsm.Op{
		{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, Key: 1, In: []byte("x"), Out: make([]byte, 3, 100)}, {Kind: hsm.OpRandom, Len: 16},
	} {
		if err := s.Do(&op); !errors.Is(err, want) || op.Err != err || len(op.Out) != 0 {
			t.Errorf("Do = %v, op.Err = %v, %d bytes; want %v", err, op.Err, len(op.Out), want)
		}
	}
	if h, err := s.Find(hsm.ClassSecret, []byte{1}); h != 0 || !errors.Is(err, want) {
		t.Errorf("Find = %d, %v; want %v", h, err, want)
	}
	k, spec, kw := s.(hsm.Keeper), hsm.Spec{Type: hsm.KeyAES, Bits: 128}, hsm.Mechanism{Type: hsm.AESKeyWrap}
	_, generate := k.Generate(spec)
	_, public := k.Public(1)
	_, load := k.Import(spec, make([]byte, 16))
	_, wrap := k.WrapKey(1, kw, 2)
	_, unwrap := k.UnwrapKey(1, kw, make([]byte, 24), spec)
	for name, err := range map[string]error{"Generate": generate, "Public": public, "Import": load, "WrapKey": wrap, "UnwrapKey": unwrap, "Destroy": k.Destroy(1)} {
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func testSessionClose(t *tester) {
	s, other := t.session(), t.session()
	id := newID()
	h := t.load(s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: id, May: hsm.MaySign}, random(32))
	pairID := newID()
	pair := t.generate(s, hsm.Spec{Type: hsm.KeyEC, Bits: 256, ID: pairID, May: hsm.MaySign})
	sign := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, Key: h, In: []byte("x")}
	t.run(other, sign)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, s, hsm.ErrClosed)
	t.stale(t.fail(other, sign), "a key of a session that was closed")
	t.stale(t.fail(other, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, Key: pair, In: make([]byte, 32)}), "a key of a session that was closed")
	for c, id := range map[hsm.Class][]byte{hsm.ClassSecret: id, hsm.ClassPrivate: pairID, hsm.ClassPublic: pairID} {
		if _, err := other.Find(c, id); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("class %d after its session was closed: %v", c, err)
		}
	}
}

// testSideBySide: sessions used at once do not disturb each other, whatever each does.
func testSideBySide(t *tester) {
	kek, _ := t.aes(t.session(), 256, mayWrap)
	kw := hsm.Mechanism{Type: hsm.AESKeyWrap}
	ec := t.specimen("EC-256")
	shared := t.load(t.session(), ec.spec, ec.material)
	work := func(g int) error {
		s, err := t.tok.OpenSession(t.Context())
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }() // for the ways out before the last one
		k := s.(hsm.Keeper)
		for i := range 6 {
			spec := hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: fmt.Appendf(nil, "side by side %d-%d", g, i), Extractable: true, May: hsm.MayEncrypt | hsm.MayDecrypt}
			h, err := k.Generate(spec)
			if err != nil {
				return err
			}
			if f, err := k.Find(hsm.ClassSecret, spec.ID); err != nil || f != h {
				return fmt.Errorf("finding it gave %d, %w; want %d", f, err, h)
			}
			blob, err := k.WrapKey(kek, kw, h)
			if err != nil {
				return err
			}
			spec.ID = nil
			back, err := k.UnwrapKey(kek, kw, blob, spec)
			if err != nil {
				return err
			}
			clear := bytes.Repeat([]byte{byte(g), byte(i)}, 100)
			gcm := hsm.Mechanism{Type: hsm.AESGCM, AAD: []byte{byte(g)}}
			e := hsm.Op{Kind: hsm.OpEncrypt, Mech: gcm, Key: h, In: clear}
			if err := errors.Join(k.Do(&e), e.Err); err != nil {
				return err
			}
			d := hsm.Op{Kind: hsm.OpDecrypt, Mech: gcm, Key: back, In: e.Out}
			if err := errors.Join(k.Do(&d), d.Err); err != nil || !bytes.Equal(d.Out, clear) {
				return fmt.Errorf("what came back does not open it: %w", err)
			}
			if err := ec.use(k, shared); err != nil {
				return err
			}
			pair, err := k.Generate(hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign})
			if err != nil {
				return err
			}
			if _, err := k.Public(pair); err != nil {
				return err
			}
			if err := errors.Join(k.Destroy(h), k.Destroy(back), k.Destroy(pair)); err != nil {
				return err
			}
			_ = t.tok.Info()
		}
		return s.Close()
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			if err := work(g); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
