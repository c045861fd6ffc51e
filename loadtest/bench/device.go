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
	"os"
	"path/filepath"
	"time"

	"keyway/hsm"
	"keyway/hsm/worker"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// device is a SoftHSM token that a module of faulthsm stands before, so that its calls take time or it has limits. It runs in a
// worker process, of a pool here or of a gateway.
type device struct {
	record lifecycle.MemberRecord
	module *faulthsm.Module
}

// PINs of tokens that last as long as the run.
const (
	devicePIN   = "scale-user"
	deviceSOPIN = "scale-officer"
)

// takes lets every call that computes take a time, as many at once as the device has servers.
func takes(servers int, t faulthsm.Time) faulthsm.Statement {
	return faulthsm.Rule{ID: "service", On: []string{"crypto"}, Do: []faulthsm.Effect{faulthsm.Serve(servers, t)}}
}

// newDevice makes a token that follows the statements from the start.
func (s *scale) newDevice(ctx context.Context, statements ...faulthsm.Statement) (*device, error) {
	s.devices++
	name := fmt.Sprintf("d%d", s.devices)
	home := filepath.Join(s.dir, name)
	store := filepath.Join(home, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, err
	}
	m, err := faulthsm.Install(home, s.faulthsm, s.module)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(home, "softhsm2.conf")
	d := &device{module: m, record: lifecycle.MemberRecord{
		Name: name, Driver: "pkcs11", Module: m.Path, TokenLabel: "scale-" + name, PINFile: filepath.Join(home, "pin"), Isolation: "worker",
		Env: []string{"SOFTHSM2_CONF=" + conf},
	}}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", store)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.record.PINFile, []byte(devicePIN), 0o600); err != nil {
		return nil, err
	}
	w, err := d.spawn(ctx, s.keyway, devicePIN+"\n"+deviceSOPIN, true)
	if err != nil {
		return nil, fmt.Errorf("making token %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return d, m.Write(statements...)
}

// spawn starts a worker of keyway's with the token, which it makes first if init is set.
func (d *device) spawn(ctx context.Context, keyway, pin string, init bool) (*worker.Token, error) {
	r := &d.record
	return worker.Spawn(ctx, worker.Config{
		Name: r.Name, Argv: []string{keyway, "worker"}, Env: r.Env, PIN: hsm.NewPIN([]byte(pin)), StartTimeout: time.Minute,
		Params: map[string]any{"driver": r.Driver, "module": r.Module, "label": r.TokenLabel, "init": init},
	})
}

// devicePool makes a pool of devices, each in a worker, that hold the KEK of w. Close it.
func (s *scale) devicePool(ctx context.Context, w *workshop, devices []*device, member pool.MemberConfig) (*pool.Pool, error) {
	p, err := pool.New(pool.Config{Name: "devices", SlowStart: time.Nanosecond})
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		member.Name, member.KEK, member.Provision = d.record.Name, kekID, w.provision
		member.Open = func(ctx context.Context) (hsm.Token, error) {
			t, err := d.spawn(ctx, s.keyway, devicePIN, false)
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
