//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// takes lets every call that computes take a time, as many at once as the device has servers.
func takes(servers int, t faulthsm.Time) faulthsm.Statement {
	return faulthsm.Rule{ID: "service", On: []string{"crypto"}, Do: []faulthsm.Effect{faulthsm.Serve(servers, t)}}
}

// newDevice makes a SoftHSM token that a module of faulthsm stands before, so that its calls take time or it has limits, as the
// statements say from the start. It runs in a worker process, of a pool here or of a gateway.
func (s *scale) newDevice(ctx context.Context, statements ...faulthsm.Statement) (*rig.Token, error) {
	s.devices++
	d, err := rig.NewToken(ctx, s.keyway, s.dir, s.faulthsm, fmt.Sprintf("d%d", s.devices), "softhsm")
	if err != nil {
		return nil, err
	}
	return d, d.Module.Write(statements...)
}

// devicePool makes a pool of devices, each in a worker, that hold the KEK of w. Close it.
func (s *scale) devicePool(ctx context.Context, w *workshop, devices []*rig.Token, member pool.MemberConfig) (*pool.Pool, error) {
	p, err := pool.New(pool.Config{Name: "devices", SlowStart: time.Nanosecond})
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		member.Name, member.KEK, member.Provision = d.Record.Name, kekID, w.provision
		member.Open = func(ctx context.Context) (hsm.Token, error) {
			t, err := d.Spawn(ctx, s.keyway)
			if err != nil {
				return nil, err // not t: a nil *worker.Token in an interface would not be nil
			}
			return t, nil
		}
		if err = p.Add(member); err != nil {
			break
		}
	}
	if err == nil {
		err = waitFor(ctx, p, len(devices))
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// workersOf are the processes of a pool's members.
func workersOf(p *pool.Pool) []int {
	var pids []int
	for _, m := range p.Stat().Members {
		if m.PID != 0 {
			pids = append(pids, m.PID)
		}
	}
	return pids
}

// macKey makes a MAC key that travels under the KEK of w, and the MAC of message by it, which this process computes itself.
func (s *scale) macKey(ctx context.Context, w *workshop) (_ *pool.Key, right []byte, err error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	k := &pool.Key{Wrap: kekWrap}
	copy(k.ID[:], "scale-mac")
	if k.Spec, err = hsm.SpecFor(key.HMACSHA256, key.MAC); err != nil {
		return nil, nil, err
	}
	t, err := w.inProcess(ctx, "maker") // an embedded token
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	sess, err := t.OpenSession(ctx)
	if err != nil {
		return nil, nil, err
	}
	maker := sess.(hsm.Keeper)
	spec := k.Spec
	spec.ID, spec.Extractable = k.ID[:], true
	h, err := maker.Import(spec, secret)
	if err != nil {
		return nil, nil, err
	}
	kek, err := maker.Find(hsm.ClassSecret, kekID)
	if err != nil {
		return nil, nil, err
	}
	if k.Blob, err = maker.WrapKey(kek, kekWrap, h); err != nil {
		return nil, nil, err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(message)
	return k, mac.Sum(nil), nil
}

// askMAC does one operation with the key of macKey and checks the answer.
func askMAC(ctx context.Context, p *pool.Pool, k *pool.Key, right []byte) ([]byte, error) {
	out, err := p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: message})
	if err == nil && !bytes.Equal(out, right) {
		err = fmt.Errorf("a MAC is %x, not %x", out, right)
	}
	return out, err
}
