//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"syscall"
	"time"

	"keyway/lifecycle/adminapi"
	"keyway/pool"
)

// begins breaks a member and returns how to mend it, nil where nothing is to be mended; that is done whatever the error.
type begins func(ctx context.Context, c *cluster, t *token) (end func(context.Context) error, err error)

// fault is one way to break a member.
type fault struct {
	name  string
	lasts span
	begin begins
	waits bool // its end waits for something that takes its time: work that hangs, a latch, a worker's growth
}

func newFault(name string, lasts span, begin begins) *fault {
	return &fault{name: name, lasts: lasts, begin: begin}
}

// waiting marks faults whose ends wait.
func waiting(all ...*fault) []*fault {
	for _, f := range all {
		f.waits = true
	}
	return all
}

func seconds(min, max float64) span {
	return span{time.Duration(min * float64(time.Second)), time.Duration(max * float64(time.Second))}
}

// faultsOf are the faults a member can have; with the pool's defaults no signature is made wrong, and in a brief run there are none whose ends wait.
func faultsOf(t *token, s settings) []*fault {
	all := []*fault{
		newFault("SIGKILL", seconds(.1, .5), killed),
		newFault("SIGKILL of one gateway's worker", seconds(.1, .5), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
			return nil, c.gateways[len(c.gateways)-1].signal(ctx, t, syscall.SIGKILL)
		}),
		newFault("SIGSTOP, then SIGCONT", seconds(1, 6), stopped(syscall.SIGCONT)),
		newFault("SIGSTOP, then SIGKILL", seconds(1, 4), stopped(syscall.SIGKILL)),
		newFault("drained by an operator", seconds(1, 4), drained),
		newFault("removed by an operator", seconds(.5, 3), removed),
		newFault("killed while it is drained", seconds(1, 4), both(drained, killed)),
	}
	all = append(all, waiting(
		newFault("drained, its worker stopped", seconds(1, 4), both(stopped(syscall.SIGCONT), drained)),
		newFault("removed, its worker stopped", seconds(1, 4), both(stopped(syscall.SIGKILL), removed)),
	)...)
	if t.Module != nil {
		all = append(all, staged()...)
		all = append(all, waiting(underway()...)...)
		all = append(all, waiting(pinFaults()...)...)
		if !s.defaults {
			all = append(all, wrongSignatures()...)
		}
	}
	if s.brief {
		all = slices.DeleteFunc(all, func(f *fault) bool { return f.waits })
	}
	return all
}

// both begins one and then the other, and ends them the other way round.
func both(first, second begins) begins { return together(first, second, slices.Backward) }

// mendedFirst begins one and then the other, and ends them in the same order: a member is tried before it is added again, so an
// operator puts its token right first.
func mendedFirst(fault, order begins) begins { return together(fault, order, slices.All) }

func together(first, second begins, undone func([]func(context.Context) error) iter.Seq2[int, func(context.Context) error]) begins {
	return func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
		var ends []func(context.Context) error
		end := func(ctx context.Context) (err error) {
			for _, e := range undone(ends) {
				err = errors.Join(err, e(ctx))
			}
			return err
		}
		for _, begin := range []begins{first, second} {
			e, err := begin(ctx, c, t)
			if e != nil {
				ends = append(ends, e)
			}
			if err != nil {
				return end, err
			}
		}
		return end, nil
	}
}

// signal sends a signal to the member's worker of a gateway. A member that has none just now is broken already.
func (g *gateway) signal(ctx context.Context, t *token, s syscall.Signal) error {
	m, err := g.Member(ctx, t.Token)
	if err != nil || m == nil {
		return err
	}
	return send(m.PID, s)
}

func send(pid int, s syscall.Signal) error {
	if pid <= 1 {
		return nil
	}
	if err := syscall.Kill(pid, s); err != nil && err != syscall.ESRCH { // it may have been killed meanwhile
		return err
	}
	return nil
}

func killed(ctx context.Context, c *cluster, t *token) (_ func(context.Context) error, err error) {
	for _, g := range c.gateways {
		err = errors.Join(err, g.signal(ctx, t, syscall.SIGKILL))
	}
	return nil, err
}

func stopped(end syscall.Signal) begins {
	return func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
		var pids []int
		for _, g := range c.gateways {
			m, err := g.Member(ctx, t.Token)
			if err != nil {
				return nil, err
			}
			if m != nil {
				pids = append(pids, m.PID)
			}
		}
		all := func(s syscall.Signal) (err error) {
			for _, pid := range pids {
				err = errors.Join(err, send(pid, s))
			}
			return err
		}
		return func(context.Context) error { return all(end) }, all(syscall.SIGSTOP)
	}
}

// leaving is the state of a member that an operator takes out.
func leaving(m *pool.MemberStat) bool {
	return m == nil || m.State == pool.Draining || m.State == pool.Drained
}

func staying(m *pool.MemberStat) bool { return !leaving(m) }

func drained(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
	g, at := c.gateways[0], "/admin/v1/members/"+t.Record.Name
	order := g.Order(ctx, http.MethodPost, at+"/drain", nil, nil)
	return func(ctx context.Context) error {
		if err := g.Order(ctx, http.MethodPost, at+"/resume", nil, nil); err != nil {
			return err
		}
		return c.followed(ctx, t, t.Record.Name+" was resumed", followAfterDrain, staying)
	}, errors.Join(order, c.followed(ctx, t, t.Record.Name+" was drained", followWithin, leaving))
}

func removed(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
	order := c.gateways[0].Order(ctx, http.MethodDelete, "/admin/v1/members/"+t.Record.Name, nil, nil)
	return func(ctx context.Context) error { return c.add(ctx, t) }, errors.Join(order, c.followed(ctx, t, t.Record.Name+" was removed", followWithin, leaving))
}

// add has an operator add the member, who knows that not every token of this pool can do everything: which mechanisms a new member
// would take from the pool depends on who else is there just then.
func (c *cluster) add(ctx context.Context, t *token) error {
	if err := c.gateways[0].Order(ctx, http.MethodPost, "/admin/v1/members", adminapi.MemberRequest{MemberRecord: t.Record, Partial: true}, nil); err != nil {
		return err
	}
	return c.followed(ctx, t, t.Record.Name+" was added", followAfterDrain, staying)
}

// visits is what the visitor does: it comes, has to serve on every gateway, and goes.
func visits() []*fault {
	return []*fault{newFault("a member more", seconds(2, 8), func(ctx context.Context, c *cluster, t *token) (func(context.Context) error, error) {
		end := func(ctx context.Context) error {
			if err := c.gateways[0].Order(ctx, http.MethodDelete, "/admin/v1/members/"+t.Record.Name, nil, nil); err != nil {
				return err
			}
			return c.followed(ctx, t, t.Record.Name+" was removed", followAfterDrain, func(m *pool.MemberStat) bool { return m == nil })
		}
		if err := c.add(ctx, t); err != nil {
			return end, err
		}
		for _, g := range c.gateways {
			if err := g.Until(ctx, visitorServes*c.slack, "has the visitor", func() error {
				m, err := g.Member(ctx, t.Token)
				if err == nil && (m == nil || m.State != pool.Active) {
					err = fmt.Errorf("on %s the visitor is %+v", g.name, m)
				}
				return err
			}); err != nil {
				return end, &breach{comesBack, err.Error()}
			}
		}
		return end, nil
	})}
}

// visitorServes is how soon a new member must serve.
const visitorServes = 30 * time.Second
