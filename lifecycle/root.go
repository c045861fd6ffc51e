package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// root returns the Root KEK of the member called name (pool/member), whose token is t. One that is recorded without a
// check value was begun and not finished; where AutoRoot allows it, it is begun or finished here.
func (c *Custody) root(ctx context.Context, name string, t hsm.Keeper) (*KEK, error) {
	var k *KEK
	find := func(tx Tx) (err error) { k, err = tx.KEK(KEKRoot, name); return err }
	err := c.cfg.Store.View(ctx, find)
	switch {
	case err == nil && k.KCV != nil:
		return k, nil
	case err != nil && !errors.Is(err, key.ErrNotFound):
		return nil, err
	case !c.cfg.AutoRoot:
		return nil, fmt.Errorf("member %s has no Root KEK: it is given one in a ceremony", name)
	}
	// Recorded first, so that after a crash it is found by its ID and not made twice.
	err = c.cfg.Store.Update(ctx, func(tx Tx) error {
		if err := find(tx); !errors.Is(err, key.ErrNotFound) {
			return err
		}
		k = &KEK{Kind: KEKRoot, Name: name, ID: key.NewID(), Created: time.Now().UTC()}
		return tx.PutKEK(*k)
	})
	if err != nil || k.KCV != nil {
		return k, err
	}
	if k.KCV, err = c.exchangeRoot(ctx, k, t); err != nil {
		return nil, fmt.Errorf("giving %s its Root KEK: %w", name, err)
	}
	c.cfg.Log.WarnContext(ctx, "made a Root KEK without a ceremony; this is for development only", "member", name)
	return k, c.putMade(ctx, k, name)
}

// exchangeRoot puts the Root KEK k on a member's token by public-key exchange, and returns its check value: the member
// makes a pair that cannot be extracted, custody makes the KEK and wraps it under the pair's public half. In
// a ceremony two people compare the fingerprint of that public half; here nobody does, which is why it is for
// development only. What an earlier try left on either token is used again.
func (c *Custody) exchangeRoot(ctx context.Context, k *KEK, t hsm.Keeper) ([]byte, error) {
	// SHA-1 is what SoftHSM's OAEP takes; as the hash of OAEP it is not known to be weak.
	oaep := hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hsm.SHA1}
	spec := hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: k.ID[:], Label: "keyway-root-" + k.Name, Token: true, May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign}
	here, err := t.Find(hsm.ClassSecret, k.ID[:])
	have := err == nil
	if err != nil && !errors.Is(err, hsm.ErrNotFound) {
		return nil, err
	}
	var id key.ID
	var pair hsm.Handle
	var public []byte
	if !have {
		id = key.NewID()
		if pair, err = t.Generate(hsm.Spec{Type: hsm.KeyRSA, Bits: 2048, ID: id[:], Label: "keyway-exchange", May: hsm.MayUnwrap | hsm.MayDecrypt}); err != nil {
			return nil, fmt.Errorf("making the exchange pair: %w", err)
		}
		defer func() { _ = t.Destroy(pair) }()
		if public, err = t.Public(pair); err != nil {
			return nil, err
		}
	}
	var kcv, blob []byte
	err = c.cfg.Token.With(ctx, func(ct hsm.Keeper) error {
		h, err := ct.Find(hsm.ClassSecret, k.ID[:])
		if errors.Is(err, hsm.ErrNotFound) {
			s := spec
			s.Extractable = true
			h, err = alone(ct, k.ID)(ct.Generate(s))
		}
		if err != nil {
			return err
		}
		if kcv, err = keyCheckValue(ct, h); err != nil || have {
			return err
		}
		pub, err := ct.Import(hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyRSA, Bits: 2048, ID: id[:], May: hsm.MayWrap | hsm.MayEncrypt}, public)
		if err != nil {
			return fmt.Errorf("taking the member's public key into custody: %w", err)
		}
		defer func() { _ = ct.Destroy(pub) }()
		blob, err = ct.WrapKey(pub, oaep, h)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making it in custody: %w", err)
	}
	if !have {
		if here, err = alone(t, k.ID)(t.UnwrapKey(pair, oaep, blob, spec)); err != nil {
			return nil, fmt.Errorf("unwrapping it: %w", err)
		}
	}
	return kcv, c.compare(t, here, kcv, "Root KEK of "+k.Name)
}

// ForgetRoot destroys the Root KEK of the member called name (pool/member) on the custody token, and forgets it: nothing can be
// sent to that member's token any more. What the token holds stays there. It is an error wrapping
// key.ErrNotFound when none is recorded. After a failure it can be called again.
func (c *Custody) ForgetRoot(ctx context.Context, actor, name string) error {
	var k *KEK
	if err := c.cfg.Store.View(ctx, func(tx Tx) (err error) { k, err = tx.KEK(KEKRoot, name); return err }); err != nil {
		return err
	}
	err := c.cfg.Token.With(ctx, func(t hsm.Keeper) error {
		h, err := t.Find(hsm.ClassSecret, k.ID[:])
		if errors.Is(err, hsm.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return t.Destroy(h)
	})
	if err != nil {
		return fmt.Errorf("destroying the Root KEK of %s (CKA_ID %s) on the custody token: %w", name, k.ID, err)
	}
	return c.cfg.Store.Update(ctx, func(tx Tx) error { return deleteRoot(tx, by(ctx, actor), name) })
}
