//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"keyway/loadtest/ask"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// members is how many tokens the pool has.
const members = 3

// stage is a running gateway with three tokens that can be broken, and what was found out so far.
type stage struct {
	settings
	say     io.Writer
	program string // the absolute path of keyway
	config  string
	log     string
	g       *rig.Gateway
	members []*rig.Token
	custody *rig.Token
	token   string // of the client
	asker   *ask.Asker
	report  Report
}

// prepare makes tokens and keys in dir and starts the gateway. Stop it.
func prepare(ctx context.Context, s settings, dir string, say io.Writer) (_ *stage, err error) {
	st := &stage{settings: s, say: say, config: filepath.Join(dir, "keyway.yaml"), log: filepath.Join(dir, "keyway.log"), g: rig.NewGateway()}
	if st.program, err = filepath.Abs(s.keyway); err != nil {
		return nil, err
	}
	built, err := faulthsm.Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	if st.custody, err = rig.NewToken(ctx, st.program, dir, built.Module, "custody", "softhsm"); err != nil {
		return nil, err
	}
	for i := range members {
		t, err := rig.NewToken(ctx, st.program, dir, built.Module, fmt.Sprintf("hsm-%d", i+1), "softhsm")
		if err != nil {
			return nil, err
		}
		st.members = append(st.members, t)
	}
	c := rig.Config{Store: filepath.Join(dir, "keyway.db"), Custody: st.custody, Members: st.members, Limits: map[string]any{"op_timeout": s.deadline.String()}, Pool: map[string]any{}}
	if s.hedge > 0 {
		c.Pool["hedge"] = s.hedge.String()
	}
	if err := c.Write(st.g, st.config); err != nil {
		return nil, err
	}
	if err := st.g.Start(st.program, st.config, st.log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.g.Stop())
		}
	}()
	if err := st.g.Ready(ctx, members, time.Minute); err != nil {
		return nil, err
	}
	if st.token, err = st.g.Furnish(ctx); err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, IdleConnTimeout: 30 * time.Second}}
	st.asker, err = ask.New(ctx, client, st.token, st.g.URL())
	return st, err
}

// load sends requests until stop is called, which returns when all are answered.
func (st *stage) load(ctx context.Context, full bool) (t *tape, stop func()) {
	t = newTape(st.deadline)
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		if full {
			s := st.saturation(t)
			s.run(ctx)
			st.report.count(s)
			return
		}
		(&ask.Load{Asker: st.asker, Rate: st.rate, Seed: uint64(t.begun.UnixNano()), Wait: 2 * st.deadline, Take: t.sample}).Run(ctx)
	})
	return t, func() { cancel(); done.Wait() }
}

func (st *stage) saturation(t *tape) *saturation {
	return &saturation{addr: st.g.Listen, token: st.token, conns: st.conns, ec: st.asker.EC(), tape: t}
}

// dialing reports whether the error is that nobody took the connection.
func dialing(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// pids are the workers of the members, by the members' places.
func (st *stage) pids(ctx context.Context) ([]int, error) {
	s, err := st.g.Stat(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]int, len(st.members))
	for i, t := range st.members {
		for _, m := range s.Members {
			if m.Name == t.Record.Name {
				out[i] = m.PID
			}
		}
		if out[i] <= 1 {
			return nil, fmt.Errorf("%s has no worker process", t.Record.Name)
		}
	}
	return out, nil
}

func send(s syscall.Signal, pids ...int) (err error) {
	for _, p := range pids {
		err = errors.Join(err, os.NewSyscallError("kill", syscall.Kill(p, s)))
	}
	return err
}

// whole waits until every member serves.
func (st *stage) whole(ctx context.Context) error {
	return st.g.Until(ctx, time.Minute, "has all members again", func() error { return st.g.Complete(ctx, members) })
}

// seen asks every 20 ms until ctx ends which states a member has, and returns them.
func (st *stage) seen(ctx context.Context, member int) map[pool.State]bool {
	all := map[pool.State]bool{}
	for rig.Sleep(ctx, 20*time.Millisecond) {
		if m, err := st.g.Member(ctx, st.members[member]); err == nil && m != nil {
			all[m.State] = true
		}
	}
	return all
}
