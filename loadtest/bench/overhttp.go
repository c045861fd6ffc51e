//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"keyway/hsm"
	"keyway/loadtest/node"
)

// overHTTP is an operation through a gateway in a process of its own.
type overHTTP struct {
	node  *node.Node
	op    *operation
	meter meter
	conns int
	batch int // operations in a request; 0: one, by the call itself
}

// newOverHTTP prepares a gateway that serves; it stays the caller's.
func newOverHTTP(n *node.Node, o *operation, conns, batch int) (*overHTTP, error) {
	workers, err := childrenOf(n.PID())
	if err != nil {
		return nil, err
	}
	if len(workers) < members {
		return nil, fmt.Errorf("the gateway has %d worker processes, not %d", len(workers), members)
	}
	return &overHTTP{node: n, op: o, conns: conns, batch: batch, meter: meter{[]int{n.PID()}, workers}}, nil
}

func (d *overHTTP) path() string {
	if d.batch > 0 {
		return "/api/v1/batch"
	}
	return "/api/v1/keys/" + d.op.key + "/" + d.op.call
}

func (d *overHTTP) run(ctx context.Context, long time.Duration) (*cell, error) {
	addr, err := netip.ParseAddrPort(strings.TrimPrefix(d.node.URL, "http://"))
	if err != nil {
		return nil, fmt.Errorf("the gateway's URL %s: %w", d.node.URL, err)
	}
	body := d.op.body()
	if d.batch > 0 {
		body = d.op.batchBody(d.batch)
	}
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		d.path(), addr, d.node.ClientToken, len(body), body)
	g, err := newGenerator(addr, d.conns, request)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	c, err := d.meter.measure(func(c *cell) error { return g.run(ctx, c, long) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(), err)
	}
	if d.batch > 0 {
		c.ops *= d.batch
	}
	return c, d.verify(ctx, c.samples)
}

// verify checks answers: signatures with the public half, wrappings by unwrapping them, MACs by the gateway's own check.
func (d *overHTTP) verify(ctx context.Context, bodies [][]byte) error {
	var public []byte
	if d.op.alg.Asymmetric() {
		var err error
		if public, err = request(ctx, d.node, http.MethodGet, "/api/v1/keys/"+d.op.key+"/public.pem", nil); err != nil {
			return err
		}
	}
	for _, b := range bodies {
		var err error
		if d.batch > 0 {
			err = d.verifyBatch(ctx, b, public)
		} else {
			err = d.verifyOne(ctx, b, public)
		}
		if err != nil {
			return fmt.Errorf("an answer to %s does not verify: %w", d.path(), err)
		}
	}
	return nil
}

// verifyBatch looks at the place and status of each result of a batch, and verifies the first and the last.
func (d *overHTTP) verifyBatch(ctx context.Context, body, public []byte) error {
	var a struct{ Results []json.RawMessage }
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	if len(a.Results) != d.batch {
		return fmt.Errorf("%d results of %d operations", len(a.Results), d.batch)
	}
	for i, raw := range a.Results {
		var r struct {
			ID     string
			Status int
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		if r.ID != strconv.Itoa(i) || r.Status != http.StatusOK {
			return fmt.Errorf("result %d is %s", i, raw)
		}
	}
	return errors.Join(d.verifyOne(ctx, a.Results[0], public), d.verifyOne(ctx, a.Results[d.batch-1], public))
}

func (d *overHTTP) verifyOne(ctx context.Context, body, public []byte) error {
	var a map[string]any
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	result, _ := a[d.op.answer].(string)
	if result == "" {
		return fmt.Errorf("there is no %s in %s", d.op.answer, body)
	}
	switch d.op.call {
	case "wrap":
		var clear struct {
			Key []byte `json:"plaintext_key"`
		}
		if err := d.ask(ctx, "unwrap", map[string]any{"wrapped": result}, &clear); err != nil {
			return err
		}
		if !bytes.Equal(clear.Key, message) {
			return errors.New("it unwraps to something else")
		}
		return nil
	case "mac":
		var check struct{ Valid bool }
		if err := d.ask(ctx, "mac/verify", map[string]any{"message": message, "mac": result}, &check); err != nil {
			return err
		}
		if !check.Valid {
			return errors.New("the gateway itself says that it is not valid")
		}
		return nil
	}
	return d.verifySignature(result, public)
}

func (d *overHTTP) verifySignature(text string, public []byte) error {
	block, _ := pem.Decode(public)
	if block == nil {
		return fmt.Errorf("no public key: %q", public)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	var sig []byte
	if err := json.Unmarshal([]byte(`"`+text+`"`), &sig); err != nil {
		return err
	}
	if ec, ok := pub.(*ecdsa.PublicKey); ok {
		if !ecdsa.VerifyASN1(ec, d.op.op().In, sig) {
			return hsm.ErrSignature
		}
		return nil
	}
	return hsm.Verify(pub, d.op.mech, d.op.op().In, sig)
}

// ask posts a request about the operation's key and decodes the answer.
func (d *overHTTP) ask(ctx context.Context, call string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if b, err = request(ctx, d.node, http.MethodPost, "/api/v1/keys/"+d.op.key+"/"+call, b); err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// request asks the gateway something, or the operators' API when the path is one of its, and returns the body of a good answer.
func request(ctx context.Context, n *node.Node, method, path string, body []byte) ([]byte, error) {
	base, token := n.URL, n.ClientToken
	if strings.HasPrefix(path, "/admin/") {
		base, token = n.AdminURL, n.AdminToken
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	return b, nil
}
