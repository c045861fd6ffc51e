// Package gateway is the data plane: it turns an authenticated HTTP request
// into one cryptographic operation and hands that to a pool. docs/design/gateway.md
// tells the life of a request.
package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// Crypto runs operations; it is a *pool.Pool.
type Crypto interface {
	Do(context.Context, *pool.Key, hsm.Op) ([]byte, error)
	Has(hsm.MechanismType) bool
	OAEPHashes() []hsm.Hash
}

// Keys is the catalogue. What it returns is not changed afterwards.
type Keys interface {
	Key(context.Context, key.Ref) (*key.Version, error)
	Describe(context.Context, string) (*key.Key, error)
	// Epoch rises with every change; what was read before is then out of date.
	Epoch() uint64
	// Fresh returns an error wrapping key.ErrStale when the catalogue cannot vouch for what it knows.
	Fresh() error
}

// Uses sets uses of AES-GCM versions aside, durably.
type Uses interface {
	Reserve(ctx context.Context, version key.ID, n uint64) (granted uint64, err error)
}

// Config configures a Server. Zero values choose what is written at each field.
type Config struct {
	Pools       func(name string) (Crypto, bool)
	DefaultPool string // serves random bytes
	Keys        Keys
	Uses        Uses
	Directory   func() *key.Directory
	// Ready returns nil while the service can serve, else why not.
	Ready func() error
	Log   *slog.Logger // default: discard
	TLS   *TLSConfig   // nil: clear text, for loopback and behind a proxy

	MaxBody      int           // bytes; default 1 MiB, batches 16 times that
	ReadTimeout  time.Duration // for a whole request; default 10 s
	WriteTimeout time.Duration // default 10 s
	IdleTimeout  time.Duration // default 2 min
	OpTimeout    time.Duration // for one request's work; default 5 s, batches 6 times that
	MaxConns     int           // default 20,000
	CacheKeys    int64         // versions kept; default 100,000
	BatchWidth   int           // operations of one batch at once; default 16
}

// Server is a gateway. It is safe for concurrent use.
type Server struct {
	cfg      Config
	http     *fasthttp.Server
	cache    *keyCache
	uses     *useCounter
	limits   limits
	metrics  metrics
	tls      *tls.Config
	ctx      context.Context // ends when shutting down has taken too long
	cancel   context.CancelFunc
	draining atomic.Bool
	calls    sync.Pool
	routes   map[string]*Route
	unknown  *Route
	requests atomic.Uint64
	runID    string // the first half of every request id: this process
}

// New returns a Server that is not yet serving.
func New(cfg Config) (*Server, error) {
	if cfg.Pools == nil || cfg.Keys == nil || cfg.Directory == nil || cfg.Uses == nil {
		return nil, errors.New("gateway: pools, keys, uses and directory must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.MaxBody, 1<<20)
	setDefault(&cfg.ReadTimeout, 10*time.Second)
	setDefault(&cfg.WriteTimeout, 10*time.Second)
	setDefault(&cfg.IdleTimeout, 2*time.Minute)
	setDefault(&cfg.OpTimeout, 5*time.Second)
	setDefault(&cfg.MaxConns, 20_000)
	setDefault(&cfg.CacheKeys, 100_000)
	setDefault(&cfg.BatchWidth, 16)
	s := &Server{cfg: cfg, uses: newUseCounter(cfg.Uses, int(cfg.CacheKeys)), metrics: newMetrics()}
	var err error
	if s.cache, err = newKeyCache(cfg.Keys, cfg.CacheKeys); err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		if s.tls, err = cfg.TLS.build(cfg.Log); err != nil {
			return nil, err
		}
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand documents it)
	s.runID = hex.EncodeToString(id[:])
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.calls.New = func() any { return &Call{} }
	s.routes = s.table()
	s.http = &fasthttp.Server{
		Handler:                       s.serve,
		ErrorHandler:                  s.parseError,
		Name:                          "",
		NoDefaultServerHeader:         true,
		NoDefaultDate:                 false,
		ReadTimeout:                   cfg.ReadTimeout,
		WriteTimeout:                  cfg.WriteTimeout,
		IdleTimeout:                   cfg.IdleTimeout,
		MaxRequestBodySize:            16 * cfg.MaxBody,
		Concurrency:                   cfg.MaxConns,
		SecureErrorLogMessage:         true,
		DisableHeaderNamesNormalizing: false,
		NoDefaultContentType:          true,
		CloseOnShutdown:               true,
		Logger:                        quiet{cfg.Log},
	}
	return s, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// quiet takes fasthttp's own lines, which are about connections that went wrong.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, a ...any) {
	q.log.Debug("connection", "message", fmt.Sprintf(format, a...))
}

// Serve answers requests that arrive at l until Shutdown. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	if s.tls != nil {
		l = tls.NewListener(l, s.tls)
	}
	return s.http.Serve(l)
}

// Shutdown takes no new connections, lets what runs finish, and returns when it has, or, with ctx's error, when
// ctx ends; what still runs then is cancelled. The Server cannot be used again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	err := s.http.ShutdownWithContext(ctx)
	s.cancel()
	s.cache.close()
	return err
}

// Call is one request on its way: who asks, what for, and the answer as it is made.
type Call struct {
	s      *Server
	ctx    context.Context
	http   *fasthttp.RequestCtx
	client *key.Client
	dir    *key.Directory
	name   string // of the key
	req    request
	out    []byte
}

// Route is one row of the API.
type Route struct {
	Method, Path string // {key} stands for a key's name
	MaxBody      int    // bytes
	Timeout      time.Duration
	Open         bool  // needs no identity
	Takes        field // the members of the request's object
	Handle       func(*Call) error
	metric       measure
}

// serve is the whole way of a request, on one screen.
func (s *Server) serve(h *fasthttp.RequestCtx) {
	begun := time.Now()
	route, name, err := s.find(h)
	c := s.calls.Get().(*Call)
	c.s, c.http, c.name, c.out = s, h, name, c.out[:0]
	defer s.release(c)
	ctx, cancel := context.WithTimeout(s.ctx, route.Timeout)
	defer cancel()
	ctx, end := s.metrics.span(ctx, h, route)
	c.ctx = ctx
	if err == nil {
		err = c.run(route)
	}
	var e *Error
	if err != nil {
		e = outward(err)
		s.refuse(h, e, route)
	} else {
		h.SetStatusCode(fasthttp.StatusOK)
		if len(h.Response.Header.ContentType()) == 0 {
			h.SetContentType("application/json")
		}
		h.SetBody(c.out)
	}
	end(route, e, time.Since(begun))
}

// run checks the request and handles it. A panic becomes an error: one bad request must not end the process.
func (c *Call) run(r *Route) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.cfg.Log.Error("panic while serving", "route", r.Path, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = fail(Internal, "quote the request id to the operators")
		}
	}()
	if !r.Open {
		if err := c.authenticate(); err != nil {
			return err
		}
	}
	body := c.http.Request.Body()
	if len(body) > r.MaxBody {
		return fail(TooLarge, "the body has %d bytes, and this call takes %d", len(body), r.MaxBody)
	}
	if r.Takes != 0 {
		if e := c.req.parse(body, r.Takes); e != nil {
			return e
		}
	}
	return r.Handle(c)
}

// release wipes what the request left in memory of ours and in fasthttp's, which only shortens its buffers.
func (s *Server) release(c *Call) {
	clear(c.http.Request.Body())
	c.req.reset()
	clear(c.out)
	if cap(c.out) > 64<<10 {
		c.out = nil
	}
	c.http, c.ctx, c.client, c.dir = nil, nil, nil, nil
	s.calls.Put(c)
}

// requestID is unique among all requests of all processes, for practical purposes.
func (s *Server) requestID() string {
	return fmt.Sprintf("%s-%08x", s.runID, s.requests.Add(1))
}

// refuse writes a problem document and logs what an operator should see.
func (s *Server) refuse(h *fasthttp.RequestCtx, e *Error, route *Route) {
	id := s.requestID()
	status := kinds[e.Kind].status
	h.ResetBody()
	h.SetStatusCode(status)
	h.SetContentType("application/problem+json")
	if e.RetryAfter > 0 {
		h.Response.Header.Set("Retry-After", fmt.Sprint(seconds(e.RetryAfter)))
	}
	if e.Kind == Unauthenticated {
		h.Response.Header.Set("WWW-Authenticate", `Bearer realm="keyway"`)
	}
	h.SetBody(appendProblem(nil, e, id))
	level := slog.LevelDebug
	if status >= 500 || e.Kind == Throttled {
		level = slog.LevelWarn
	}
	s.cfg.Log.Log(s.ctx, level, "request failed", "request_id", id, "route", route.Path, "kind", e.Kind, "cause", e.Cause)
}

// parseError answers requests that never became one.
func (s *Server) parseError(h *fasthttp.RequestCtx, err error) {
	e := fail(Malformed, "this is not an HTTP/1.1 request that can be served")
	var small *fasthttp.ErrSmallBuffer
	var netErr net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		e = fail(TooLarge, "the body is larger than any call takes")
	case errors.As(err, &small):
		e = fail(TooLarge, "the headers are too large")
	case errors.As(err, &netErr) && netErr.Timeout():
		e = fail(Malformed, "the request took longer to arrive than %s", s.cfg.ReadTimeout)
	}
	s.refuse(h, e, s.unknown)
	h.SetConnectionClose()
}
