//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"keyway/loadtest/node"
)

// aside holds what is measured once, besides the table: start, memory and keys that no member has loaded.
type aside struct {
	firstStart, restart time.Duration
	idle, loaded        memory // the gateway and the pool's workers
	custody             memory // the custody token's worker, idle
	connections         int
	cold                []coldKey
}

// coldKey is what the first request with a key costs, against later ones.
type coldKey struct {
	algorithm       string
	keys            int
	call, field     string
	first, firstMax time.Duration // median and longest of the first requests
	afterwards      time.Duration // median of later ones
}

// startNode starts a gateway with its tokens in dir.
func startNode(ctx context.Context, s *settings, dir string) (*node.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	args := []string{"--members", fmt.Sprint(members)}
	if s.embedded {
		args = append(args, "--embedded")
	}
	return node.Start(ctx, node.Config{Keyway: s.keyway, Dir: dir, Args: args, Env: s.env})
}

// restart ends the node in dir and starts it again, and measures the memory of the new one before anything was asked of it.
func (a *aside) restartNode(ctx context.Context, s *settings, n *node.Node) (*node.Node, error) {
	a.firstStart = n.Took
	if err := n.Stop(); err != nil {
		return nil, err
	}
	n, err := startNode(ctx, s, filepath.Dir(n.File()))
	if err != nil {
		return nil, err
	}
	a.restart = n.Took
	select { // what starting left behind is not what it holds when idle
	case <-time.After(s.settle):
	case <-ctx.Done():
	}
	if a.idle, a.custody, err = memoryOfNode(n); err != nil {
		return nil, fmt.Errorf("%w (%w)", err, n.Stop())
	}
	return n, nil
}

// memoryOfNode adds up the memory of a node's processes.
func memoryOfNode(n *node.Node) (all, custody memory, err error) {
	inPool := map[int]bool{n.PID(): true}
	for _, m := range n.Members {
		inPool[m.PID] = true
	}
	pids, err := childrenOf(n.PID())
	if err != nil {
		return all, custody, err
	}
	complete := true
	for _, pid := range append(pids, n.PID()) {
		m, err := memoryOf(pid)
		if err != nil {
			return all, custody, err
		}
		if m.pss == 0 {
			complete = false
		}
		if inPool[pid] {
			all.rss, all.pss = all.rss+m.rss, all.pss+m.pss
		} else {
			custody.rss, custody.pss = custody.rss+m.rss, custody.pss+m.pss
		}
	}
	if !complete { // a sum with parts missing would look good
		all.pss, custody.pss = 0, 0
	}
	return all, custody, nil
}

// underLoad measures the memory while conns connections wait for answers.
func (a *aside) underLoad(ctx context.Context, s *settings, n *node.Node) error {
	a.connections = s.connections
	for i := range s.operations {
		o := &s.operations[i]
		h, err := newOverHTTP(n, o, s.connections, 0)
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() {
			_, err := h.run(ctx, s.duration)
			done <- err
		}()
		time.Sleep(s.duration / 2)
		m, _, err := memoryOfNode(n)
		if err != nil {
			return err
		}
		if m.rss > a.loaded.rss {
			a.loaded = m
		}
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// coldKeys makes keys that no member has seen and times the first request with each, one after the other on one connection.
func (a *aside) coldKeys(ctx context.Context, n *node.Node) error {
	for _, k := range []coldKey{
		{algorithm: "aes-256", keys: 20, call: "wrap", field: "plaintext_key"},
		{algorithm: "ec-p256", keys: 20, call: "sign", field: "message"},
		{algorithm: "rsa-2048", keys: 5, call: "sign", field: "message"},
	} {
		var first, later []float64
		body, err := json.Marshal(map[string][]byte{k.field: message})
		if err != nil {
			return err
		}
		for i := range k.keys {
			name := fmt.Sprintf("demo-bench-%s-%d", k.algorithm, i)
			spec, err := json.Marshal(map[string]string{"name": name, "algorithm": k.algorithm})
			if err != nil {
				return err
			}
			if _, err := request(ctx, n, http.MethodPost, "/admin/v1/keys", spec); err != nil {
				return err
			}
			for j := range 10 {
				begun := time.Now()
				if _, err := request(ctx, n, http.MethodPost, "/api/v1/keys/"+name+"/"+k.call, body); err != nil {
					return err
				}
				took := float64(time.Since(begun))
				if j == 0 {
					first = append(first, took)
				} else if j >= 5 { // by then most members have it
					later = append(later, took)
				}
			}
		}
		f := spreadOf(first)
		k.first, k.firstMax, k.afterwards = time.Duration(f.median), time.Duration(f.max), time.Duration(spreadOf(later).median)
		a.cold = append(a.cold, k)
	}
	return nil
}
