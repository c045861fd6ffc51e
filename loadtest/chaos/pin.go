//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// latchesWithin is how soon a member whose PIN is refused must latch: it waits with opening its token again when it was
// lost several times.
const latchesWithin = 90 * time.Second

// pinFaults are what makes a member latch. All but what they say happens to the member on the first gateway only; on the others it is
// logged in and goes on.
func pinFaults() []*fault {
	return []*fault{
		newFault("the PIN file is wrong", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.refused(ctx, c, c.gateways[:1], 10, 0, 1)
		}),
		newFault("the PIN file is wrong, on every gateway", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.refused(ctx, c, c.gateways, 10, 0, len(c.gateways))
		}),
		newFault("somebody else tried a wrong PIN", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.refused(ctx, c, c.gateways[:1], 10, 1, 0)
		}),
		newFault("one wrong PIN more would lock it", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.refused(ctx, c, c.gateways[:1], 3, 2, 0)
		}),
		newFault("its PIN is locked", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.refused(ctx, c, c.gateways[:1], 2, 2, 0)
		}),
		newFault("the module says PIN_LOCKED", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.latched(ctx, c, c.gateways[:1], nil, rule("C_Login", faulthsm.Return(hsm.PinLocked)))
		}),
		newFault("the module says PIN_EXPIRED", seconds(2, 4), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return t.latched(ctx, c, c.gateways[:1], nil, rule("C_Login", faulthsm.Return(hsm.PinExpired)))
		}),
	}
}

// refused begins with a token that allows so many wrong PINs and has seen some, and a PIN file that is wrong, and kills the
// member's worker on some gateways: they may try at most so many PINs, and at least one if any, and must latch.
func (t *token) refused(ctx context.Context, c *cluster, on []*gateway, allowed faulthsm.PINTries, seen, tries int) (func(context.Context) error, error) {
	if err := t.setWrongPINs(seen); err != nil {
		return nil, err
	}
	if err := t.WritePIN(wrongPIN); err != nil {
		return nil, err
	}
	return t.latched(ctx, c, on, func(ctx context.Context) error {
		now, err := t.wrongPINs()
		if err != nil {
			return err
		}
		if more := now - seen; more > tries || more < min(tries, 1) {
			return &breach{pinsTriedOnce, fmt.Sprintf("%d wrong PINs were tried on %s, want %d to %d", more, t.Record.Name, min(tries, 1), tries)}
		}
		return t.setWrongPINs(0) // as a login by hand does
	}, allowed)
}

// latched puts statements in force under which no login succeeds, and kills the member's worker on some gateways. The end waits until they have
// latched, checks, puts everything right and clears the latch.
func (t *token) latched(ctx context.Context, c *cluster, on []*gateway, check func(context.Context) error, statements ...faulthsm.Statement) (func(context.Context) error, error) {
	t.latching.Store(true)
	end := func(ctx context.Context) error {
		defer t.latching.Store(false)
		var errs []error
		for _, g := range on {
			if err := g.Until(ctx, latchesWithin, "has latched "+t.Record.Name, func() error { return g.isLatched(ctx, t) }); err != nil {
				errs = append(errs, &breach{pinsTriedOnce, err.Error()})
			}
		}
		if check != nil {
			errs = append(errs, check(ctx))
		}
		errs = append(errs, t.WritePIN(rig.UserPIN), t.Module.Write(),
			c.gateways[0].Order(ctx, http.MethodPost, "/admin/v1/members/"+t.Record.Name+"/clear-latch", nil, nil),
			c.followed(ctx, t, "the latch of "+t.Record.Name+" was cleared", followWithin, func(m *pool.MemberStat) bool { return m != nil && m.State != pool.Latched }))
		rig.Sleep(ctx, 1200*time.Millisecond) // a gateway whose member goes on hears of it as well, and does not show that
		return errors.Join(errs...)
	}
	if err := t.Module.Write(statements...); err != nil {
		return end, err
	}
	var errs []error
	for _, g := range on {
		errs = append(errs, g.signal(ctx, t, syscall.SIGKILL))
	}
	return end, errors.Join(errs...)
}

func (g *gateway) isLatched(ctx context.Context, t *token) error {
	m, err := g.Member(ctx, t.Token)
	switch {
	case err != nil:
		return err
	case m == nil:
		return fmt.Errorf("%s is not there", t.Record.Name)
	case m.State != pool.Latched:
		return fmt.Errorf("%s is %s: %s", t.Record.Name, m.State, m.Reason)
	}
	return nil
}

// wrongPINs is how many wrong PINs the module has counted since the last right one.
func (t *token) wrongPINs() (int, error) {
	f, err := os.Open(t.Module.State)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if w := strings.Fields(in.Text()); len(w) == 3 && w[0] == "wrong-pins" && w[1] == t.serialKey() {
			return strconv.Atoi(w[2])
		}
	}
	return 0, fmt.Errorf("%s has no count of the wrong PINs of %s", t.Module.State, t.serialKey())
}

// setWrongPINs makes the module believe that it has seen n wrong PINs.
func (t *token) setWrongPINs(n int) error {
	return os.WriteFile(t.Module.State, fmt.Appendf(nil, "wrong-pins %s %d\n", t.serialKey(), n), 0o600)
}

// serialKey is the token's serial number as the module writes it.
func (t *token) serialKey() string {
	return hex.EncodeToString([]byte(strings.TrimRight(t.Serial, " \x00")))
}
