package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// wrap is the mechanism everything is wrapped with: AES key wrap (RFC 3394) is the one format that every known token shares.
const wrap = hsm.AESKeyWrap

// CustodyConfig configures a Custody.
type CustodyConfig struct {
	// Token runs work on the custody token: a pool with the custody token as its one member.
	Token interface {
		With(context.Context, func(hsm.Keeper) error) error
	}
	Store Store
	// AutoRoot makes Root KEKs by itself, by public-key exchange with nobody comparing fingerprints. For development only.
	AutoRoot bool
	Log      *slog.Logger
}

// Custody is the manager's own token: keys are made in it, and every version's master blob is wrapped under its KEK.
type Custody struct {
	cfg CustodyConfig
	id  key.ID // tells this gateway from others
}

// NewCustody returns a Custody.
func NewCustody(cfg CustodyConfig) *Custody {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Custody{cfg: cfg, id: key.NewID()}
}

// Init makes the custody KEK if there is none. A KEK that is recorded but not on the token is an error: a new one could
// not open what the old one wrapped.
func (c *Custody) Init(ctx context.Context) error {
	_, err := c.ensure(ctx, KEKCustody, "custody", hsm.Spec{Type: hsm.KeyAES, Bits: 256, Label: "keyway-custody-kek", Token: true, May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign})
	return err
}

// EnsurePool makes the KEK of a pool if there is none, and returns it. It can be extracted from custody only wrapped.
func (c *Custody) EnsurePool(ctx context.Context, pool string) (*KEK, error) {
	if err := key.CheckName(pool); err != nil {
		return nil, fmt.Errorf("%w: pool: %w", ErrInvalid, err)
	}
	return c.ensure(ctx, KEKPool, pool, hsm.Spec{Type: hsm.KeyAES, Bits: 256, Label: "keyway-pool-" + pool, Token: true, Extractable: true, May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign})
}

// ensure makes a KEK as a token object in custody. It is recorded first, so that after a crash it
// is found by its ID and not made twice.
func (c *Custody) ensure(ctx context.Context, kind KEKKind, name string, s hsm.Spec) (*KEK, error) {
	var k *KEK
	err := c.cfg.Store.Update(ctx, func(tx Tx) (err error) {
		if k, err = tx.KEK(kind, name); errors.Is(err, key.ErrNotFound) {
			k = &KEK{Kind: kind, Name: name, ID: key.NewID(), Created: time.Now().UTC()}
			return tx.PutKEK(*k)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var kcv []byte
	err = c.cfg.Token.With(ctx, func(t hsm.Keeper) error {
		h, err := t.Find(hsm.ClassSecret, k.ID[:])
		if errors.Is(err, hsm.ErrNotFound) {
			if k.KCV != nil {
				return fmt.Errorf("the custody token does not hold the %s KEK %q (CKA_ID %s) that was made in it: is it the right token?", kind, name, k.ID)
			}
			s.ID = k.ID[:]
			h, err = alone(t, k.ID)(t.Generate(s))
		}
		if err != nil {
			return err
		}
		kcv, err = keyCheckValue(t, h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s KEK %q: %w", kind, name, err)
	}
	if k.KCV == nil {
		k.KCV = kcv
		err = c.putMade(ctx, k)
	} else if !bytes.Equal(k.KCV, kcv) {
		err = fmt.Errorf("%s KEK %q on the custody token is not the recorded one: its check value is %X, not %X", kind, name, kcv, k.KCV)
	}
	return k, err
}

// putMade records a KEK that is made now. Another gateway may have recorded the same one meanwhile.
func (c *Custody) putMade(ctx context.Context, k *KEK, members ...string) error {
	return c.cfg.Store.Update(ctx, func(tx Tx) error {
		switch now, err := tx.KEK(k.Kind, k.Name); {
		case err != nil:
			return err
		case now.ID != k.ID || now.KCV != nil && !bytes.Equal(now.KCV, k.KCV):
			return fmt.Errorf("the %s KEK %q was changed by somebody else while it was made; it is tried again", k.Kind, k.Name)
		case now.KCV != nil:
			return nil
		}
		if err := tx.PutKEK(*k); err != nil {
			return err
		}
		entries, err := kekMade(k, members...)
		if err != nil {
			return err
		}
		return tx.Append(entries...)
	})
}

// installed says in the log that a KEK is on a member's token.
func (c *Custody) installed(ctx context.Context, k *KEK, member string) error {
	kcv, err := audit.KCVOf(k.KCV)
	if err != nil {
		return err
	}
	return c.cfg.Store.Update(ctx, func(tx Tx) error {
		return tx.Append(&audit.Entry{Action: audit.KEKInstalled, Object: kekObject(k), Details: audit.Details{KCV: kcv, Member: audit.Name(member)}})
	})
}

// alone returns what passes on a key that was just made as a token object, if it is the only one with this ID. Two gateways that share the
// store may both find that a KEK is not there and make it; who then sees two destroys his own, and finds the other's when he tries again. When
// both do, a member's back-off, which is by chance, keeps them from meeting again and again.
func alone(t hsm.Keeper, id key.ID) func(hsm.Handle, error) (hsm.Handle, error) {
	return func(h hsm.Handle, err error) (hsm.Handle, error) {
		if err != nil {
			return 0, err
		}
		_, err = t.Find(hsm.ClassSecret, id[:])
		if errors.Is(err, hsm.ErrAmbiguous) {
			return 0, fmt.Errorf("another gateway made it at the same moment, which is tried again: %w", errors.Join(err, t.Destroy(h)))
		}
		return h, err
	}
}

// keyCheckValue is the first 3 bytes of the AES-CMAC of a block of zeros (ANSI X9.24-1).
func keyCheckValue(t hsm.Session, h hsm.Handle) ([]byte, error) {
	op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, Key: h, In: make([]byte, 16)}
	if err := t.Do(&op); err != nil {
		return nil, err
	}
	if op.Err != nil {
		return nil, fmt.Errorf("key check value: %w", op.Err)
	}
	return op.Out[:3], nil
}

// Generate makes the material of v inside the custody token. The clear key exists there only, as a
// session object that is destroyed before Generate returns.
func (c *Custody) Generate(ctx context.Context, v *key.Version) (Material, error) {
	s, err := hsm.SpecFor(v.Algorithm, v.Usages)
	if err != nil {
		return Material{}, err
	}
	s.ID, s.Label, s.Extractable = v.ID[:], v.Ref().String(), true
	var custody, pool *KEK
	err = c.cfg.Store.View(ctx, func(tx Tx) (err error) {
		if custody, err = tx.KEK(KEKCustody, "custody"); err != nil {
			return err
		}
		pool, err = tx.KEK(KEKPool, v.Pool)
		return err
	})
	if err != nil {
		return Material{}, err
	}
	m := Material{Mechanism: uint32(wrap)}
	err = c.cfg.Token.With(ctx, func(t hsm.Keeper) error {
		ck, err := t.Find(hsm.ClassSecret, custody.ID[:])
		if err != nil {
			return fmt.Errorf("custody KEK: %w", err)
		}
		pk, err := t.Find(hsm.ClassSecret, pool.ID[:])
		if err != nil {
			return fmt.Errorf("pool KEK: %w", err)
		}
		h, err := t.Generate(s)
		if err != nil {
			return err
		}
		defer func() { _ = t.Destroy(h) }() // a session object: it dies with the session at the latest
		if v.Algorithm.Asymmetric() {
			if m.Public, err = t.Public(h); err != nil {
				return fmt.Errorf("public half: %w", err)
			}
		}
		if m.Master, err = t.WrapKey(ck, hsm.Mechanism{Type: wrap}, h); err != nil {
			return fmt.Errorf("master blob: %w", err)
		}
		if m.Blob, err = t.WrapKey(pk, hsm.Mechanism{Type: wrap}, h); err != nil {
			return fmt.Errorf("pool blob: %w", err)
		}
		return nil
	})
	if err != nil {
		return Material{}, err // after a deadline m is still being written
	}
	return m, nil
}

// Provision returns what puts the KEK of pool on a member's token, for pool.MemberConfig. It is sent wrapped under the member's Root KEK.
func (c *Custody) Provision(pool, member string) func(context.Context, hsm.Keeper) error {
	name := pool + "/" + member
	return func(ctx context.Context, t hsm.Keeper) error {
		return c.turn(ctx, name, func() error { return c.provision(ctx, pool, name, t) })
	}
}

func (c *Custody) provision(ctx context.Context, pool, name string, t hsm.Keeper) error {
	var pk *KEK
	err := c.cfg.Store.View(ctx, func(tx Tx) (err error) { pk, err = tx.KEK(KEKPool, pool); return err })
	if err != nil {
		return err
	}
	root, err := c.root(ctx, name, t)
	if err != nil {
		return err
	}
	here, err := t.Find(hsm.ClassSecret, root.ID[:])
	if err != nil {
		return fmt.Errorf("the token of %s does not hold its Root KEK (CKA_ID %s); is it the right token? %w", name, root.ID, err)
	}
	var blob []byte
	err = c.cfg.Token.With(ctx, func(ct hsm.Keeper) error {
		rk, err := ct.Find(hsm.ClassSecret, root.ID[:])
		if err != nil {
			return fmt.Errorf("root KEK in custody: %w", err)
		}
		h, err := ct.Find(hsm.ClassSecret, pk.ID[:])
		if err != nil {
			return fmt.Errorf("pool KEK in custody: %w", err)
		}
		blob, err = ct.WrapKey(rk, hsm.Mechanism{Type: wrap}, h)
		return err
	})
	if err != nil {
		return err
	}
	h, err := alone(t, pk.ID)(t.UnwrapKey(here, hsm.Mechanism{Type: wrap}, blob, hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: pk.ID[:], Label: "keyway-pool-" + pool, Token: true, May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign}))
	if err != nil {
		return fmt.Errorf("unwrapping the pool KEK: %w", err)
	}
	if err := c.compare(t, h, pk.KCV, "pool KEK of "+name); err != nil {
		return err
	}
	if err := c.installed(ctx, pk, name); err != nil { // what the log does not say is not there
		return errors.Join(err, t.Destroy(h))
	}
	return nil
}

// compare destroys what has the wrong check value: a token must not keep a KEK that is not ours.
func (c *Custody) compare(t hsm.Keeper, h hsm.Handle, want []byte, what string) error {
	got, err := keyCheckValue(t, h)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s: check value %X on the token, %X in custody", what, got, want)
	}
	if err != nil {
		_ = t.Destroy(h)
	}
	return err
}
