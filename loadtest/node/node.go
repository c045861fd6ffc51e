// Package node runs a keyway dev of its own, in a process, for as long as a
// load test or a benchmark needs it.
package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// stopGrace is how long a node may take to drain and end before it is killed.
const stopGrace = 30 * time.Second

// Config says which program to run, and where.
type Config struct {
	// Keyway is the path of the program.
	Keyway string
	// Dir is the directory of tokens, store and dev.json; started again on the same one, the node goes on with its keys.
	Dir string
	// Args are more arguments of keyway dev, for instance --embedded.
	Args []string
	// Env is added to this process's own environment.
	Env []string
}

// Info is what the node writes to dev.json when it is ready.
type Info struct {
	URL         string   `json:"url"`
	AdminURL    string   `json:"admin_url"`
	ClientToken string   `json:"client_token"`
	AdminToken  string   `json:"admin_token"`
	Pool        string   `json:"pool"`
	Members     []Member `json:"members"`
	Keys        []string `json:"keys"`
}

// Member is one token of the node's pool with the process that runs it.
type Member struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Token string `json:"token"`
}

// Node is a running keyway dev.
type Node struct {
	Info
	// Took is the time from starting the process until it answered a request.
	Took time.Duration

	file   string
	cmd    *exec.Cmd
	said   tail
	ended  chan struct{}
	status error // set before ended is closed
}

// Start starts a node on free ports of the loopback interface and waits until it is ready, at most until ctx ends. Stop it.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	n := &Node{file: filepath.Join(dir, "dev.json"), ended: make(chan struct{})}
	// One that a killed node left behind would be taken for the new one's.
	if err := os.Remove(n.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	args := append([]string{"dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, cfg.Args...)
	n.cmd = exec.Command(cfg.Keyway, args...)
	n.cmd.Env = append(os.Environ(), cfg.Env...)
	n.cmd.Stdout, n.cmd.Stderr = &n.said, &n.said
	began := time.Now()
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s (make build makes it): %w", cfg.Keyway, err)
	}
	go func() {
		n.status = n.cmd.Wait()
		close(n.ended)
	}()
	if err := n.ready(ctx); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	n.Took = time.Since(began)
	return n, nil
}

// ready waits for dev.json and for the gateway's first answer.
func (n *Node) ready(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(n.file)
		if err == nil {
			if err := json.Unmarshal(b, &n.Info); err != nil {
				return fmt.Errorf("%s: %w", n.file, err)
			}
			return n.probe(ctx)
		}
		select {
		case <-tick.C:
		case <-n.ended:
			return fmt.Errorf("keyway dev ended before it was ready (%w); it said:\n%s", n.status, n.said.String())
		case <-ctx.Done():
			return fmt.Errorf("keyway dev was not ready in time (%w); it said:\n%s", ctx.Err(), n.said.String())
		}
	}
}

func (n *Node) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the gateway says it is ready and does not answer: %w", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway says it is ready and answers %s to /readyz", res.Status)
	}
	return nil
}

// PID is the process id of the gateway; those of the workers are in Info.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// File is the path of dev.json. It is there while the node runs.
func (n *Node) File() string { return n.file }

// Output returns the end of what the node has printed and logged.
func (n *Node) Output() string { return n.said.String() }

// Stop interrupts the node and waits until it and its workers have ended. The error says how it ended when it did
// not end well. It is safe to call twice.
func (n *Node) Stop() error {
	select {
	case <-n.ended:
	default:
		if err := n.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("interrupting keyway dev: %w", err)
		}
		select {
		case <-n.ended:
		case <-time.After(stopGrace):
			_ = n.cmd.Process.Kill()
			<-n.ended
			return fmt.Errorf("keyway dev did not end within %s and was killed; it said:\n%s", stopGrace, n.said.String())
		}
	}
	if n.status != nil {
		return fmt.Errorf("keyway dev ended with %w; it said:\n%s", n.status, n.said.String())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b[max(0, len(t.b)-tailSize):]))
}
