//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// adminOf is the operators' side of a gateway with one member, m, that is as the test says; nil for none.
type adminOf struct {
	mu      sync.Mutex
	m       *pool.MemberStat
	orders  []string
	cleared pool.State // what it is after its latch was cleared
}

func (a *adminOf) set(m *pool.MemberStat) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.m = m
}

func (a *adminOf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Method != http.MethodGet {
		a.orders = append(a.orders, r.Method+" "+r.URL.Path)
		if strings.HasSuffix(r.URL.Path, "/clear-latch") {
			a.m = &pool.MemberStat{Name: "m", State: a.cleared}
		}
		return
	}
	list := adminapi.MemberList{Pools: []pool.Stat{{}}}
	if a.m != nil {
		list.Pools[0].Members = []pool.MemberStat{*a.m}
	}
	_ = json.NewEncoder(w).Encode(list)
}

// twoGateways is a cluster of two, of which only the operators' side is there.
func twoGateways(t *testing.T) (c *cluster, first, second *adminOf, m *token) {
	t.Helper()
	c = &cluster{slack: 1}
	all := [2]*adminOf{}
	for i := range all {
		all[i] = &adminOf{m: &pool.MemberStat{Name: "m", State: pool.Active}, cleared: pool.Active}
		srv := httptest.NewServer(all[i])
		t.Cleanup(srv.Close)
		c.gateways = append(c.gateways, &gateway{&rig.Gateway{Admin: srv.Listener.Addr().String(), HTTP: srv.Client()}, "a gateway"})
	}
	return c, all[0], all[1], &token{Token: &rig.Token{Record: lifecycle.MemberRecord{Name: "m"}}}
}

func TestAGatewayThatDoesNotFollowIsFoundOut(t *testing.T) {
	c, _, second, m := twoGateways(t)
	ask := func(is func(*pool.MemberStat) bool) string {
		err := c.followed(t.Context(), m, "m was told something", 300*time.Millisecond, is)
		if b := (*breach)(nil); errors.As(err, &b) {
			return b.promise
		}
		if err != nil {
			t.Error(err)
		}
		return ""
	}
	if got := ask(leaving); got != gatewaysFollow {
		t.Errorf("a member that stays although it was drained: %q", got)
	}
	if got := ask(staying); got != "" {
		t.Errorf("one that stays as it was told: %q", got)
	}
	second.set(nil)
	if got := ask(staying); got != gatewaysFollow {
		t.Errorf("one that was added and is not there: %q", got)
	}
	time.AfterFunc(100*time.Millisecond, func() { second.set(&pool.MemberStat{Name: "m", State: pool.Joining}) })
	if got := ask(staying); got != "" {
		t.Errorf("one that comes a moment later: %q", got)
	}
}

func TestPINsThatAreTriedTooOftenAreFoundOut(t *testing.T) {
	for _, c := range []struct {
		name               string
		seen, tries, after int
		broken             bool
	}{
		{"tried once", 0, 1, 1, false}, {"tried twice", 0, 1, 2, true}, {"not tried at all", 0, 1, 0, true},
		{"tried by both gateways", 0, 2, 2, false}, {"tried though the flags warn", 1, 0, 2, true}, {"not tried since the flags warn", 1, 0, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cl, first, _, m := twoGateways(t)
			dir := t.TempDir()
			m.Record.PINFile = filepath.Join(dir, "pin")
			m.Module = &faulthsm.Module{Control: filepath.Join(dir, "control"), State: filepath.Join(dir, "state")}
			m.Serial = "4711 "
			first.set(&pool.MemberStat{Name: "m", State: pool.Latched})
			end, err := m.refused(t.Context(), cl, cl.gateways[:1], 10, c.seen, c.tries)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(m.Record.PINFile); err != nil || string(b) != wrongPIN || !m.latching.Load() {
				t.Errorf("the PIN file holds %q, %v", b, err)
			}
			if err := m.setWrongPINs(c.after); err != nil {
				t.Fatal(err)
			}
			err = end(t.Context())
			b := (*breach)(nil)
			if broken := errors.As(err, &b) && b.promise == pinsTriedOnce; broken != c.broken || !broken && err != nil {
				t.Errorf("%v", err)
			}
			if b, err := os.ReadFile(m.Record.PINFile); err != nil || string(b) != rig.UserPIN || m.latching.Load() || len(first.orders) != 1 {
				t.Errorf("afterwards the PIN file holds %q, %v; orders %q", b, err, first.orders)
			}
		})
	}
}

func TestTheSparedMemberIsWatched(t *testing.T) {
	for _, c := range []struct {
		name   string
		m      *pool.MemberStat
		broken string
	}{
		{"serves", &pool.MemberStat{Name: "m", State: pool.Active, Epoch: 3}, ""},
		{"ejected", &pool.MemberStat{Name: "m", State: pool.Ejected, Epoch: 3}, noTrip},
		{"opened anew", &pool.MemberStat{Name: "m", State: pool.Active, Epoch: 4}, noTrip},
		{"latched", &pool.MemberStat{Name: "m", State: pool.Latched, Epoch: 3}, comesBack},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cl, first, _, m := twoGateways(t)
			first.set(&pool.MemberStat{Name: "m", State: pool.Active, Epoch: 3})
			r := &rehearsal{c: cl, all: []*token{m}, rec: newRecord(time.Now(), time.Second, []*token{m})}
			r.rec.spare(0)
			ctx, stop := context.WithTimeout(t.Context(), time.Second)
			defer stop()
			time.AfterFunc(400*time.Millisecond, func() { first.set(c.m) })
			r.watch(ctx, 0)
			if got := r.rec.broken; (c.broken == "") != (len(got) == 0) || c.broken != "" && got[0].Promise != c.broken {
				t.Errorf("broken: %v, want %q", got, c.broken)
			}
			if len(r.rec.states) == 0 || r.rec.states[0].State != string(pool.Active) {
				t.Errorf("states: %v", r.rec.states)
			}
		})
	}
}
