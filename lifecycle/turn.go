package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/lifecycle/key"
)

// turnLasts is how long a gateway that makes a member's KEKs, or has just made them, keeps others from it.
const turnLasts = 30 * time.Second

// turn runs do, which puts KEKs on the token of the member called name (pool/member), unless another gateway is at it or has
// just done it: its work may not be seen yet through a token that was opened before. Then it returns an error, and the
// member's token is opened again. Gateways' clocks must not differ by as much as turnLasts.
func (c *Custody) turn(ctx context.Context, name string, do func() error) error {
	record := KEK{Kind: KEKTurn, Name: name, ID: c.id}
	err := c.cfg.Store.Update(ctx, func(tx Tx) error {
		k, err := tx.KEK(KEKTurn, name)
		switch {
		case errors.Is(err, key.ErrNotFound):
		case err != nil:
			return err
		case k.ID != c.id && time.Since(k.Created) < turnLasts:
			return fmt.Errorf("another gateway is putting KEKs on the token of %s, or has just done so; it is opened again", name)
		}
		record.Created = time.Now().UTC()
		return tx.PutKEK(record)
	})
	if err != nil {
		return err
	}
	if err = do(); err == nil {
		record.Created = time.Now().UTC()
		return c.cfg.Store.Update(ctx, func(tx Tx) error { return tx.PutKEK(record) })
	}
	// Others may try at once.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, c.cfg.Store.Update(ctx, func(tx Tx) error { return tx.DeleteKEK(KEKTurn, name) }))
}
