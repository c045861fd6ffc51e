//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"keyway/loadtest/rig"
	"keyway/pool"
)

// watch notes the members' states on a gateway, and that the spared one serves there.
func (r *rehearsal) watch(ctx context.Context, n int) {
	g := r.c.gateways[n]
	type seen struct {
		sparing
		epoch uint64
	}
	var was seen
	for rig.Sleep(ctx, 150*time.Millisecond) {
		s, ok := r.rec.sparedNow()
		may := map[string]bool{} // latch: asked before the states are, and afterwards
		latching := func() {
			for _, t := range r.all {
				may[t.Record.Name] = may[t.Record.Name] || t.latching.Load()
			}
		}
		latching()
		st, err := g.Stat(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.rec.breaks(ordersWork, fmt.Sprintf("asking %s for the members: %v", g.name, err))
			continue
		}
		latching()
		again, _ := r.rec.sparedNow()
		there := map[string]bool{}
		for _, m := range st.Members {
			there[m.Name] = true
			r.rec.state(n+1, m.Name, string(m.State), m.Reason)
			if m.State == pool.Latched && !may[m.Name] {
				r.rec.breaks(comesBack, fmt.Sprintf("%s latched on %s, and no PIN was wrong: %s", m.Name, g.name, m.Reason))
			}
			if !ok || again != s || m.Name != r.all[s.member].Record.Name {
				continue
			}
			if was.sparing != s {
				was = seen{s, m.Epoch}
			}
			if m.State != pool.Active || m.Epoch != was.epoch {
				r.rec.breaks(noTrip, fmt.Sprintf("%s is %s on %s, epoch %d, was %d: %s", m.Name, m.State, g.name, m.Epoch, was.epoch, m.Reason))
				was.epoch = m.Epoch
			}
		}
		for _, t := range r.all {
			if !there[t.Record.Name] {
				r.rec.state(n+1, t.Record.Name, "removed", "")
			}
		}
	}
}
