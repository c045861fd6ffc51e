package gateway

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxBatch is how many operations one batch may hold.
const maxBatch = 1000

// batch runs each operation as a Call of its own, a few at a time, and answers in order. One bad operation fails
// nobody else; only a body that is no batch at all fails as a whole.
func (c *Call) batch() error {
	items, e := c.items(c.http.Request.Body())
	defer func() {
		for i := range items {
			items[i].drop()
		}
	}()
	if err := c.throttle(max(1, len(items)), true); err != nil {
		return err
	}
	if e != nil {
		return e
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(c.s.cfg.BatchWidth, len(items)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(items); i = next.Add(1) - 1 {
				items[i].run()
			}
		})
	}
	workers.Wait()
	c.results(items)
	return nil
}

// item is one operation of a batch.
type item struct {
	*Call
	route *Route
	err   *Error
}

// run runs the operation under a deadline of its own; a panic in it is its failure alone.
func (it *item) run() {
	if it.err != nil {
		return
	}
	it.now = time.Now()
	ctx, cancel := context.WithTimeout(it.ctx, it.route.Timeout)
	defer cancel()
	it.ctx = ctx
	defer func() {
		if p := recover(); p != nil {
			it.err = outward(panicked(p))
		}
	}()
	it.err = outward(it.route.Handle(it.Call))
}

// path is the route of the operation, as logs name it.
func (it *item) path() string {
	if it.route == nil {
		return "batch"
	}
	return "batch " + it.route.Path
}

// drop wipes the operation and keeps its Call for another request.
func (it *item) drop() {
	it.req.reset()
	it.http, it.conn, it.ctx, it.client, it.dir = nil, nil, nil, nil, nil
	it.s.release(it.Call)
}

// results appends the answers, each with its operation's id and its status in front. The buffer grows once: one that was
// outgrown is not wiped.
func (c *Call) results(items []item) {
	size := len(`{"results":[]}`)
	for i := range items {
		it := &items[i]
		if it.err != nil {
			id := c.s.requestID()
			clear(it.out)
			it.out = appendProblem(it.out[:0], it.err, id)
			c.s.failed(c.ctx, id, it.path(), c.client.Name, it.err, time.Since(it.now))
		}
		size += len(it.out) + len(it.req.ID) + len(`,{"id":"","status":200,`)
	}
	c.out = slices.Grow(c.out, size)
	c.out = append(c.out, `{"results":[`...)
	for i := range items {
		it := &items[i]
		if i > 0 {
			c.out = append(c.out, ',')
		}
		c.out = append(c.out, `{"id":`...)
		if it.req.ID == "" {
			c.out = append(c.out, `""`...)
		} else {
			c.out = append(c.out, it.req.ID...)
		}
		if it.err == nil { // a problem document has its own
			c.out = append(c.out, `,"status":200`...)
		}
		c.out = append(c.out, ',')
		c.out = append(c.out, it.out[1:]...)
	}
	c.out = append(c.out, `]}`...)
}

// operation returns the route whose handler a batch's op names, nil when there is none.
func (s *Server) operation(op string) *Route {
	switch op {
	case "random":
		return s.routes["/api/v1/random"]["POST"]
	case "sign", "verify", "encrypt", "decrypt", "wrap", "unwrap", "rewrap", "mac", "mac/verify", "datakey":
		return s.routes[keysShape+"/"+op]["POST"]
	}
	return nil
}

// items reads the operations. What is wrong inside one of them is its own error. The caller drops them, also with an error.
func (c *Call) items(body []byte) (items []item, e *Error) {
	p := &parser{b: body}
	if !p.next('{') {
		return nil, fail(Malformed, "a JSON object was expected")
	}
	if p.next('}') {
		return nil, fail(Malformed, "operations: the field is missing")
	}
	name, e := p.str()
	if e != nil {
		return nil, e
	}
	if string(name) != "operations" {
		return nil, fail(Malformed, "unknown field %s", printable(name))
	}
	if !p.next(':') || !p.next('[') {
		return nil, fail(Malformed, "operations: an array was expected at byte %d", p.i)
	}
	for !p.next(']') {
		if len(items) > 0 && !p.next(',') {
			return items, fail(Malformed, "operations: a comma or the end of the array was expected at byte %d", p.i)
		}
		if len(items) == maxBatch {
			return items, fail(TooLarge, "operations: more than %d", maxBatch)
		}
		p.space()
		start := p.i
		if e := p.skip(); e != nil {
			return items, fail(Malformed, "operations: %s", e.Detail)
		}
		items = append(items, c.item(body[start:p.i]))
	}
	if len(items) == 0 {
		return items, fail(Malformed, "operations: there are none")
	}
	if p.next(',') {
		name, e := p.str()
		if e != nil {
			return items, e
		}
		return items, fail(Malformed, "unknown field %s", printable(name))
	}
	if !p.next('}') {
		return items, fail(Malformed, "a comma or the end of the object was expected at byte %d", p.i)
	}
	return items, p.end()
}

// anyField is every field of every operation of a batch.
const anyField = fID | fOp | fKey | signFields | fSignature | fPlaintext | fCiphertext | fAAD | fPlaintextKey | fWrapped | fFormat | fMAC | fBits | fWantPlain | fBytes

// item reads one operation. Which fields it may have is known when its op is, which may come last.
func (c *Call) item(body []byte) item {
	call := c.s.calls.Get().(*Call)
	call.s, call.http, call.conn, call.ctx, call.now, call.client, call.dir = c.s, c.http, c.conn, c.ctx, c.now, c.client, c.dir
	it := item{Call: call}
	if it.err = call.req.parse(body, anyField); len(body) > c.s.cfg.MaxBody {
		it.err = fail(TooLarge, "an operation of a batch may have at most %d bytes", c.s.cfg.MaxBody)
	}
	it.route = c.s.operation(call.req.Op)
	r := &call.req
	switch {
	case it.err != nil:
	case r.has&fOp == 0:
		it.err = fail(Malformed, "op: the field is missing")
	case it.route == nil:
		it.err = fail(Malformed, "op: unknown operation %s", printable([]byte(r.Op)))
	case r.Op == "random":
		it.err = r.only(fID | fOp | it.route.Takes)
	case r.has&fKey == 0:
		it.err = fail(Malformed, "key: the field is missing")
	default:
		it.err = r.only(fID | fOp | fKey | it.route.Takes)
	}
	call.name = keyName([]byte(r.Key))
	return it
}
