package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/pool"
)

// bodies are requests as clients send them.
var bodies = map[string]string{
	"sign": `{"digest":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","hash":"sha2-256"}`,
	"wrap": `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","aad":"dGVuYW50LTQy"}`,
	"mac":  `{"message":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}`,
}

// free is a Crypto that costs nothing: what is measured is the gateway.
type free struct{ *crypto }

var freeResult = make([]byte, 64)

func (free) Do(context.Context, *pool.Key, hsm.Op) ([]byte, error) { return freeResult, nil }

func freeServer(tb testing.TB) *Server {
	tb.Helper()
	cfg, c, _, _ := config()
	cfg.Log = nil
	cfg.Pools = func(string) (Crypto, bool) { return free{c}, true }
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	return s
}

func benchmark(b *testing.B, op, name string) {
	path, body := keysPrefix+name+"/"+op, []byte(bodies[op])
	b.Run("handler", func(b *testing.B) {
		s := freeServer(b)
		h := s.prepared("POST", path, body)
		b.ReportAllocs()
		for b.Loop() {
			h.Request.SetBody(body)
			h.Request.Header.Set("Authorization", "Bearer "+appToken)
			h.Response.Reset()
			s.serve(h)
			h.Conn().(*conn).finish()
		}
		if h.Response.StatusCode() != 200 {
			b.Fatalf("%d", h.Response.StatusCode())
		}
	})
	// Over loopback, with the client's half; cpu-ns/op is the CPU time of both.
	b.Run("http", func(b *testing.B) {
		s := freeServer(b)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go func() { _ = s.Serve(ln) }()
		req := []byte(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", path, appToken, len(body), body))
		b.SetParallelism(16)
		b.ReportAllocs()
		begun := cpu(b)
		b.RunParallel(func(pb *testing.PB) {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for pb.Next() {
				if _, err := c.Write(req); err != nil {
					b.Error(err)
					return
				}
				if err := skipResponse(r); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(cpu(b)-begun)/float64(b.N), "cpu-ns/op")
	})
}

// skipResponse reads a response with as little work as can be.
func skipResponse(r *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		switch {
		case first && string(line) != "HTTP/1.1 200 OK\r\n":
			return fmt.Errorf("answered %q", line)
		case len(line) == 2:
			_, err = r.Discard(length)
			return err
		case len(line) > 16 && string(line[:16]) == "Content-Length: ":
			for _, c := range line[16 : len(line)-2] {
				length = 10*length + int(c-'0')
			}
		}
	}
}

func cpu(tb testing.TB) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func BenchmarkSign(b *testing.B) { benchmark(b, "sign", "k-sign") }
func BenchmarkWrap(b *testing.B) { benchmark(b, "wrap", "k-wrap") }
func BenchmarkMAC(b *testing.B)  { benchmark(b, "mac", "k-mac") }
