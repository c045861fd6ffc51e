package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"keyway/lifecycle/key"
	"keyway/pool"
)

// Call is one request on its way: who asks, what for, and the answer as it is made.
type Call struct {
	s      *Server
	ctx    context.Context // ends at the route's deadline; it is never fasthttp's
	now    time.Time       // when the request began
	http   *fasthttp.RequestCtx
	conn   *conn
	client *key.Client
	dir    *key.Directory
	name   string // of the key; "" for one that no key can have
	req    request
	aad    []byte // of AES-GCM, with the blob's header
	out    []byte // the answer's body
}

// Route is one row of the API.
type Route struct {
	Method, Path string // {key} stands for a key's name
	MaxBody      int    // bytes
	Timeout      time.Duration
	Open         bool  // needs no identity
	Many         bool  // counts its operations against the client's rate by itself
	Takes        field // the members of the request's object
	Handle       func(*Call) error
	measure
}

// serve is the whole way of a request, on one screen.
func (s *Server) serve(h *fasthttp.RequestCtx) {
	s.active.Add(1)
	defer s.active.Add(-1)
	k := h.Conn().(interface{ base() *conn }).base()
	k.finish() // of the request before this one, where they came in one packet
	route, name, wrong := s.match(&h.Request.Header)
	c := s.calls.Get().(*Call)
	c.s, c.http, c.conn, c.name, c.now = s, h, k, name, time.Now()
	ctx, span := s.metrics.begin(s.ctx, &h.Request.Header, route)
	ctx, cancel := context.WithTimeout(ctx, route.Timeout)
	defer cancel()
	c.ctx = ctx
	e := wrong
	if e == nil {
		e = outward(c.run(route))
	}
	if e != nil {
		c.refuse(e, route)
	} else if len(h.Response.Header.ContentType()) == 0 {
		h.SetContentType("application/json")
	}
	h.Response.SetBodyRaw(c.out)
	s.metrics.end(ctx, span, &h.Request.Header, route, e, time.Since(c.now))
	c.leave()
}

// run checks the request and handles it. A panic becomes an error: one bad request must not end the process.
func (c *Call) run(r *Route) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	if !r.Open {
		if e := c.authenticate(); e != nil {
			return e
		}
		if err := c.throttle(1, !r.Many); err != nil {
			return err
		}
		c.ctx = pool.ForClient(c.ctx, c.client.Name)
	}
	body := c.http.Request.Body()
	if len(body) > r.MaxBody {
		return tooLarge(r)
	}
	if r.Takes != 0 {
		if e := c.req.parse(body, r.Takes); e != nil {
			return e
		}
	}
	return r.Handle(c)
}

func tooLarge(r *Route) *Error {
	return fail(TooLarge, "body: this call takes at most %d bytes", r.MaxBody)
}

// panicked is a panic as an error. What was thrown may hold anything, so only its type is told, and the words of
// those of the runtime.
func panicked(p any) error {
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	return &Error{Kind: Internal, Cause: fmt.Errorf("panic: %s\n%s", what, debug.Stack())}
}

// leave wipes what the request left in memory of ours and in fasthttp's, which only shortens its buffers, and leaves
// the answer with the connection until it was written.
func (c *Call) leave() {
	h, k := c.http, c.conn
	clear(h.Request.Body())
	h.Request.ReleaseBody(keep)
	clear(h.Request.Header.Peek(fasthttp.HeaderAuthorization))
	clear(h.Request.Header.RawHeaders())
	if c.s.draining.Load() {
		h.SetConnectionClose()
	}
	if h.Request.Header.ConnectionClose() || h.Response.Header.ConnectionClose() {
		k.last()
	}
	c.http, c.conn, c.ctx, c.client, c.dir = nil, nil, nil, nil, nil
	c.req.reset()
	k.call.Store(c)
}

// release wipes the answer and keeps the Call for another request.
func (s *Server) release(c *Call) {
	c.out, c.aad = wiped(c.out), wiped(c.aad)
	s.calls.Put(c)
}

func wiped(b []byte) []byte {
	clear(b)
	if cap(b) > keep {
		return nil
	}
	return b[:0]
}

// refuse answers with a problem document instead of whatever was begun, and logs it.
func (c *Call) refuse(e *Error, route *Route) {
	id := c.s.requestID()
	clear(c.out)
	c.out = appendProblem(c.out[:0], e, id)
	problemHeaders(c.http, e)
	client := ""
	if c.client != nil {
		client = c.client.Name
	}
	c.s.failed(c.ctx, id, route.Path, client, e, time.Since(c.now))
}

func problemHeaders(h *fasthttp.RequestCtx, e *Error) {
	h.SetStatusCode(kinds[e.Kind].status)
	h.SetContentType("application/problem+json")
	if n := e.retryAfter(); n > 0 {
		h.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(n))
	}
	if e.allow != "" {
		h.Response.Header.Set(fasthttp.HeaderAllow, e.allow)
	}
	if e.Kind == Unauthenticated {
		h.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, `Bearer realm="keyway"`)
	}
}

// parseError answers requests that never became one; fasthttp closes the connection after them.
func (s *Server) parseError(h *fasthttp.RequestCtx, err error) {
	k := h.Conn().(interface{ base() *conn }).base()
	if !k.got {
		k.mute.Store(true) // who has asked nothing gets no answer: it could be taken for that to a request under way
		return
	}
	e := fail(Malformed, "this is not an HTTP/1.1 request that can be served")
	var small *fasthttp.ErrSmallBuffer
	var netErr net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		route, _, _ := s.match(&h.Request.Header)
		if e = tooLarge(route); !route.Open && s.strange(&h.Request.Header) {
			e = fail(Unauthenticated, "a body as large as this is taken only from clients that are known")
		}
	case errors.As(err, &small):
		e = fail(TooLarge, "the headers have more than %d bytes", readBuffer)
	case errors.As(err, &netErr) && netErr.Timeout():
		e = fail(Malformed, "the request took longer to arrive than %s", s.cfg.ReadTimeout)
	}
	k.linger.Store(true)
	id := s.requestID()
	clear(h.Request.Body())
	problemHeaders(h, e)
	h.SetBody(appendProblem(nil, e, id))
	s.failed(s.ctx, id, s.unknown.Path, "", e, 0)
	s.metrics.end(s.ctx, nil, &h.Request.Header, s.unknown, e, 0)
}
