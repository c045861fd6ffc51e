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
	// Do runs op with a key, nil for random bytes. It keeps none of op's bytes; the caller owns the result.
	Do(context.Context, *pool.Key, hsm.Op) ([]byte, error)
	// Has reports whether every token that serves has the mechanism; false when none serves.
	Has(hsm.MechanismType) bool
	// OAEPHashes returns the hashes that every token can use with RSA OAEP, strongest first.
	OAEPHashes() []hsm.Hash
	// Ready reports whether some token serves.
	Ready() bool
}

// Keys is the catalogue. What it returns is not changed afterwards.
type Keys interface {
	// Key returns one version, the primary one for version 0. Its error wraps key.ErrNotFound, or key.ErrState for a
	// key without a primary version.
	Key(context.Context, key.Ref) (*key.Version, error)
	// Describe returns a key with all its versions, oldest first.
	Describe(context.Context, string) (*key.Key, error)
	// Epoch rises with every change; what was read before is then out of date.
	Epoch() uint64
	// Fresh returns an error wrapping key.ErrStale when the catalogue cannot vouch for what it knows.
	Fresh() error
}

// Uses sets uses of AES-GCM versions aside, durably.
type Uses interface {
	// Reserve returns how many of n it granted, or an error wrapping key.ErrState when there are none left.
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
	MaxConns     int           // at once; default 20,000
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
	active   atomic.Int64 // requests under way
	calls    sync.Pool    // of *Call
	rows     []*Route
	routes   map[string]map[string]*Route // by path and method
	unknown  *Route
	requests atomic.Uint64
	runID    string // the first half of every request id: this process

	goodbye time.Duration // see the constant

	connsMu   sync.Mutex
	conns     map[*conn]struct{}
	listeners []*listener
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
	s := &Server{cfg: cfg, uses: newUseCounter(cfg.Uses, int(cfg.CacheKeys)), conns: map[*conn]struct{}{}, goodbye: goodbye}
	s.limits.begun = time.Now()
	var err error
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
		if s.tls, err = cfg.TLS.build(cfg.Log); err != nil {
			return nil, err
		}
	}
	if s.cache, err = newKeyCache(cfg.Keys, cfg.CacheKeys); err != nil {
		return nil, err
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand documents it)
	s.runID = hex.EncodeToString(id[:])
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.calls.New = func() any { return &Call{} }
	s.metrics = newMetrics(scheme)
	s.rows, s.unknown = s.table(), s.noRoute()
	for _, r := range s.rows {
		s.metrics.prepare(r)
	}
	s.routes = index(s.rows)
	s.http = &fasthttp.Server{
		Handler:        s.serve,
		HeaderReceived: s.admit,
		ErrorHandler:   s.parseError,
		ReadTimeout:    cfg.ReadTimeout,
		WriteTimeout:   cfg.WriteTimeout,
		IdleTimeout:    cfg.IdleTimeout,
		ReadBufferSize: readBuffer,
		// The limit of each route is lower, and is set by admit.
		MaxRequestBodySize: batchBodies * cfg.MaxBody,
		Concurrency:        cfg.MaxConns + 1024, // our listener turns away what is too much
		Logger:             quiet{cfg.Log},
		// Forms would be read into memory and temporary files of fasthttp's.
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		LazyRequestTime:              true, // we have our own
		CloseOnShutdown:              true,
	}
	return s, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// quiet takes fasthttp's own lines, which are about connections that went wrong. Its errors quote what the client sent, a
// header that is no header for one (SecureErrorLogMessage does not prevent it), so of them only the types are told.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, a ...any) {
	types := ""
	for _, v := range a {
		if err, ok := v.(error); ok {
			for ; err != nil; err = errors.Unwrap(err) {
				types += fmt.Sprintf("%T ", err)
			}
		}
	}
	q.log.Debug("connection", "message", format, "errors", types)
}

// Serve answers requests that arrive at l until Shutdown, and closes l. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	if s.tls != nil {
		l = tls.NewListener(l, s.tls)
	}
	own := &listener{Listener: l, s: s}
	s.connsMu.Lock()
	s.listeners = append(s.listeners, own)
	s.connsMu.Unlock()
	return s.http.Serve(own)
}

// goodbye is how long connections that wait for their next request are kept when shutting down: the answer to that one tells
// the client that it was the last. A request on its way to a connection that is being closed would be lost.
const goodbye = 250 * time.Millisecond

// cutOffAfter is how long requests may take to answer once they are cancelled.
const cutOffAfter = time.Second

// sayGoodbye closes the listeners and waits until the connections are closed, for a while.
func (s *Server) sayGoodbye(ctx context.Context) {
	s.connsMu.Lock()
	for _, l := range s.listeners {
		_ = l.Close() // fasthttp closes it once more, and hears the error
	}
	s.connsMu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.goodbye)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		s.connsMu.Lock()
		left := len(s.conns)
		s.connsMu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Shutdown takes no new connections, lets the requests under way finish, closes idle connections after a moment in
// which requests may still arrive on them, and returns when all are closed. When
// ctx ends first it cancels them, gives them a second to say so, closes every connection and returns ctx's
// error. The Server cannot be used again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.sayGoodbye(ctx)
	err := s.http.ShutdownWithContext(ctx)
	s.cancel()
	if err != nil {
		for end := time.Now().Add(cutOffAfter); s.active.Load() > 0 && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		s.cutOff()
	}
	s.cache.close()
	return err
}
