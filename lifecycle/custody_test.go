package lifecycle_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

func TestKEKsAreMadeOnce(t *testing.T) {
	everyToken(t, func(t *testing.T, make func(string) hsm.Token) {
		store, tok := openStore(t), make("custody")
		first := newWorks(t, store, tok, &faults{}).prepare(t)
		if n := first.token.made; n != 2 {
			t.Errorf("%d keys were made for the custody and the pool KEK", n)
		}
		second := newWorks(t, store, tok, &faults{}).prepare(t)
		if n := second.token.made; n != 0 {
			t.Errorf("%d keys were made where all were there", n)
		}
		if first.kek.ID != second.kek.ID || !bytes.Equal(first.kek.KCV, second.kek.KCV) || len(first.kek.KCV) != 3 {
			t.Errorf("the pool KEK was %+v and is %+v", first.kek, second.kek)
		}
	})
}

func TestAnotherTokenIsNoticed(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	w := newWorks(t, store, soft.New("custody"), &faults{}).prepare(t)

	// A token without the KEKs.
	other := newWorks(t, store, soft.New("another"), &faults{})
	if err := other.custody.Init(ctx); err == nil || !strings.Contains(err.Error(), "right token") {
		t.Errorf("a token without the custody KEK: %v", err)
	}
	if other.token.made != 0 {
		t.Error("a KEK was made in the wrong token: it could not open what the right one wrapped")
	}
	if _, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.AES256}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.manager.Rotate(ctx, "test", "k"); err == nil {
		t.Error("a key was made under KEKs that are not there")
	}

	// A token with another key under the same ID.
	imposter := soft.New("imposter")
	b := newBench(imposter, &faults{})
	for _, k := range []lifecycle.KEKKind{lifecycle.KEKCustody, lifecycle.KEKPool} {
		kek := storedKEK(t, store, k, map[lifecycle.KEKKind]string{lifecycle.KEKCustody: "custody", lifecycle.KEKPool: "default"}[k])
		must(t, b.With(ctx, func(t hsm.Keeper) error {
			_, err := t.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: kek.ID[:], Token: true, May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign})
			return err
		}))
	}
	wrong := newWorks(t, store, imposter, &faults{})
	if err := wrong.custody.Init(ctx); err == nil || !strings.Contains(err.Error(), "check value") {
		t.Errorf("a custody KEK of another value: %v", err)
	}
	if _, err := wrong.custody.EnsurePool(ctx, "default"); err == nil || !strings.Contains(err.Error(), "check value") {
		t.Errorf("a pool KEK of another value: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func storedKEK(t *testing.T, s lifecycle.Store, kind lifecycle.KEKKind, name string) (k *lifecycle.KEK) {
	t.Helper()
	must(t, s.View(context.Background(), func(tx lifecycle.Tx) (err error) { k, err = tx.KEK(kind, name); return err }))
	return k
}

func TestProvisionOfAMemberWithTheWrongToken(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	member := newBench(soft.New("m1"), &faults{})
	must(t, provision(ctx, w, "m1", member, w.kek))
	swapped := newBench(soft.New("m1-swapped"), &faults{})
	if err := provision(ctx, w, "m1", swapped, w.kek); err == nil || !strings.Contains(err.Error(), "right token") {
		t.Errorf("a token without the member's Root KEK: %v", err)
	}
	if l := swapped.labels(); len(l) != 0 {
		t.Errorf("the wrong token was given %v", l)
	}
	// A token that holds another key under the Root KEK's ID cannot take the pool KEK.
	root := storedKEK(t, w.store, lifecycle.KEKRoot, "default/m1")
	must(t, swapped.With(ctx, func(k hsm.Keeper) error {
		_, err := k.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: root.ID[:], Label: "imposter", Token: true, May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign})
		return err
	}))
	if err := provision(ctx, w, "m1", swapped, w.kek); err == nil {
		t.Error("a pool KEK was unwrapped under a Root KEK that is not the member's")
	}
	if l := swapped.labels(); !slices.Equal(l, []string{"imposter"}) {
		t.Errorf("the wrong token holds %v", l)
	}
	if err := provision(ctx, w, "m1", member, w.kek); err != nil {
		t.Errorf("the right token, after that: %v", err)
	}
}

func TestRootKEKsComeFromACeremonyUnlessTheyAreAutomatic(t *testing.T) {
	ctx := context.Background()
	w := newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t)
	strict := lifecycle.NewCustody(lifecycle.CustodyConfig{Token: w.token, Store: w.store})
	member := newBench(soft.New("m1"), &faults{})
	err := member.With(ctx, func(k hsm.Keeper) error { return strict.Provision("default", "m1")(ctx, k) })
	if err == nil || !strings.Contains(err.Error(), "ceremony") {
		t.Errorf("without AutoRoot: %v", err)
	}
}

// Every algorithm: a key made in custody is loaded on two members, and what one does the other, or the public key, confirms.
func TestBlobsOfEveryAlgorithmLoadOnMembers(t *testing.T) {
	everyToken(t, func(t *testing.T, make func(string) hsm.Token) {
		ctx := context.Background()
		w := newWorks(t, openStore(t), make("custody"), &faults{}).prepare(t)
		var members [2]*bench
		for i, name := range []string{"m1", "m2"} {
			members[i] = newBench(make(name), &faults{})
			must(t, provision(ctx, w, name, members[i], w.kek))
		}
		for _, a := range key.Algorithms() {
			t.Run(string(a.Algorithm), func(t *testing.T) {
				usages := a.Default
				k, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k-" + string(a.Algorithm), Algorithm: a.Algorithm, Usages: usages})
				if err != nil {
					t.Fatal(err)
				}
				v := versionOf(t, w.store, key.Ref{Name: k.Name})
				var out [2][]byte
				for i, m := range members {
					must(t, m.With(ctx, func(s hsm.Keeper) error { out[i], err = use(s, w.kek, v, out[0]); return err }))
				}
				confirm(t, v, out)
			})
		}
	})
}

func versionOf(t *testing.T, s lifecycle.Store, r key.Ref) (v *key.Version) {
	t.Helper()
	must(t, s.View(context.Background(), func(tx lifecycle.Tx) (err error) { v, err = tx.Version(r); return err }))
	return v
}

var message = []byte("what the key is tried on, 40 bytes long..")[:40]

// mechanismOf is how a key of each family is tried.
func mechanismOf(a key.Algorithm) hsm.Mechanism {
	row, _ := a.Info()
	switch row.Family {
	case key.FamilyAES:
		return hsm.Mechanism{Type: hsm.AESGCM}
	case key.FamilyHMAC:
		return hsm.Mechanism{Type: map[int]hsm.MechanismType{256: hsm.SHA256HMAC, 384: hsm.SHA384HMAC, 512: hsm.SHA512HMAC}[row.Bits]}
	case key.FamilyRSA:
		return hsm.Mechanism{Type: hsm.RSAPKCS, Hash: hsm.SHA256}
	case key.FamilyEC:
		return hsm.Mechanism{Type: hsm.ECDSA}
	}
	return hsm.Mechanism{Type: hsm.EDDSA}
}

// input is what a signing key is given.
func input(a key.Algorithm) []byte {
	row, _ := a.Info()
	if row.Family == key.FamilyEC || row.Family == key.FamilyRSA {
		h := sha256.Sum256(message)
		return h[:]
	}
	return message
}

// use loads v and uses it: it signs, or encrypts where before is empty, and decrypts before otherwise.
func use(s hsm.Keeper, kek *lifecycle.KEK, v *key.Version, before []byte) ([]byte, error) {
	h, err := s.Find(hsm.ClassSecret, kek.ID[:])
	if err != nil {
		return nil, err
	}
	spec, err := hsm.SpecFor(v.Algorithm, v.Usages)
	if err != nil {
		return nil, err
	}
	spec.ID = v.ID[:]
	k, err := s.UnwrapKey(h, hsm.Mechanism{Type: hsm.MechanismType(v.BlobMechanism)}, v.Blob, spec)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Destroy(k) }()
	op := hsm.Op{Kind: hsm.OpSign, Mech: mechanismOf(v.Algorithm), Key: k, In: input(v.Algorithm)}
	if op.Mech.Type == hsm.AESGCM {
		op.Kind, op.In = hsm.OpEncrypt, message
		if before != nil {
			op.Kind, op.In = hsm.OpDecrypt, before
		}
	}
	if err := s.Do(&op); err != nil {
		return nil, err
	}
	return bytes.Clone(op.Out), op.Err
}

// confirm checks what two members did with one key.
func confirm(t *testing.T, v *key.Version, out [2][]byte) {
	t.Helper()
	switch {
	case v.Algorithm.Asymmetric():
		pub, err := x509.ParsePKIXPublicKey(v.Public)
		must(t, err)
		for i, sig := range out {
			if err := hsm.Verify(pub.(crypto.PublicKey), mechanismOf(v.Algorithm), input(v.Algorithm), sig); err != nil {
				t.Errorf("member %d: %v", i+1, err)
			}
		}
	case mechanismOf(v.Algorithm).Type == hsm.AESGCM:
		if !bytes.Equal(out[1], message) {
			t.Errorf("the second member decrypts to %q", out[1])
		}
	default:
		if !bytes.Equal(out[0], out[1]) {
			t.Errorf("the MACs differ: %x, %x", out[0], out[1])
		}
	}
}

// Whatever fails, and whether it failed before it happened or after, running everything again comes to the same end, and
// nothing is there twice.
func TestEveryStepMayFailAndNothingIsMadeTwice(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	pair, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	must(t, err)
	for _, after := range []bool{false, true} {
		name := map[bool]string{false: "before", true: "answer lost"}[after]
		t.Run(name, func(t *testing.T) {
			steps := 1
			for at := 1; at <= steps; at++ {
				steps = makeAll(t, pair, at, after)
			}
			if steps < 40 {
				t.Errorf("only %d steps: does the test still see them?", steps)
			}
		})
	}
}

// makeAll makes everything up to a rotated key with one failing step, each command again until it succeeds, and checks what
// is there. It returns how many steps a run without repetition has at least.
func makeAll(t *testing.T, pair []byte, at int, after bool) int {
	t.Helper()
	ctx := context.Background()
	f := &faults{at: at, after: after}
	store := openStore(t)
	w := newWorks(t, store, soft.New("custody"), f)
	member := newBench(soft.New("m1"), f)
	member.pair = pair
	again := func(what string, do func() error) {
		t.Helper()
		failures := 0
		for err := do(); err != nil; err = do() {
			// A commit whose answer was lost is told to the operator, who finds the work done.
			if after && failures > 0 && errors.Is(err, lifecycle.ErrExists) {
				return
			}
			if failures++; failures > 2 {
				t.Fatalf("step %d, %s: %v", at, what, err)
			}
		}
	}
	again("custody", func() error { return w.custody.Init(ctx) })
	again("pool", func() (err error) { w.kek, err = w.custody.EnsurePool(ctx, "default"); return err })
	again("member", func() error { return provision(ctx, w, "m1", member, w.kek) })
	again("create", func() error {
		_, err := w.manager.CreateKey(ctx, "test", lifecycle.KeyRequest{Name: "k", Algorithm: key.ECP256})
		return err
	})
	before := f.step
	again("rotate", func() error { _, err := w.manager.Rotate(ctx, "test", "k"); return err })
	rotated := f.step >= at && before < at // the fault fell into the rotation
	steps := f.step
	f.at = 0

	got := w.token.labels()
	slices.Sort(got)
	if want := []string{"keyway-custody-kek", "keyway-pool-default", "keyway-root-default/m1"}; !slices.Equal(got, want) {
		t.Errorf("step %d: custody holds %v, want %v", at, got, want)
	}
	got = member.labels()
	slices.Sort(got)
	if want := []string{"keyway-pool-default", "keyway-root-default/m1"}; !slices.Equal(got, want) {
		t.Errorf("step %d: the member holds %v, want %v", at, got, want)
	}
	k, err := w.manager.Key(ctx, "k")
	must(t, err)
	// The lost answer of a rotation that is done looks like one that is not: the operator rotates once more.
	versions := 2
	if after && rotated && len(k.Versions) == 3 {
		versions = 3
	}
	if len(k.Versions) != versions || k.Primary != uint32(versions) {
		t.Fatalf("step %d: %d versions, primary %d", at, len(k.Versions), k.Primary)
	}
	for i, v := range k.Versions {
		want := key.Deactivated
		if i == len(k.Versions)-1 {
			want = key.Active
		}
		if v.State != want {
			t.Errorf("step %d: version %d is %s, want %s", at, v.Number, v.State, want)
		}
		full := versionOf(t, store, key.Ref{Name: "k", Version: v.Number})
		var out [2][]byte
		for i := range out {
			must(t, member.With(ctx, func(s hsm.Keeper) (err error) { out[i], err = use(s, w.kek, full, nil); return err }))
		}
		confirm(t, full, out)
	}
	return steps
}
