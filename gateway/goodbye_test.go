package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// A request that arrives on a kept connection while the server is shutting down is answered, and told that it was the last.
func TestAKeptConnectionMaySendOneRequestMore(t *testing.T) {
	g := newGate(t, nil)
	g.s.goodbye = time.Minute // cut short when no connection is left
	kept := g.dial()
	in := bufio.NewReader(kept)
	ask := func() *http.Response {
		t.Helper()
		if _, err := io.WriteString(kept, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		return res
	}
	if res := ask(); res.StatusCode != 200 || res.Close {
		t.Fatalf("%s, closes %v", res.Status, res.Close)
	}
	down := make(chan error, 1)
	go func() { down <- g.s.Shutdown(context.Background()) }()
	waitFor(t, "the port to be closed", func() bool {
		c, err := net.Dial("tcp", g.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if res := ask(); res.StatusCode != 200 || !res.Close {
		t.Errorf("while shutting down: %s, closes %v", res.Status, res.Close)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if n, err := kept.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after its last answer the connection gives %d bytes, %v", n, fmt.Sprint(err))
	}
}
