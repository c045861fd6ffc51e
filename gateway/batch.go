package gateway

import (
	"fmt"
	"strconv"
	"sync"
)

// maxBatch is how many operations one batch may hold.
const maxBatch = 1000

// item is one operation of a batch: a Call of its own.
type item struct {
	call *Call
	err  *Error
}

// batch runs each operation as a call of its own, a few at a time, and answers in order. One bad operation fails
// nobody else; only a body that is no batch at all fails as a whole.
func (c *Call) batch() error {
	items, e := c.items(c.http.Request.Body())
	defer func() {
		for _, it := range items {
			it.call.req.reset()
			clear(it.call.out)
			it.call.http, it.call.ctx, it.call.client, it.call.dir = nil, nil, nil, nil
			c.s.calls.Put(it.call)
		}
	}()
	if e != nil {
		return e
	}
	if n := len(items) - 1; n > 0 { // the request itself was counted already
		if err := c.throttle(n); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	width := make(chan struct{}, c.s.cfg.BatchWidth)
	for i := range items {
		it := &items[i]
		if it.err != nil {
			continue
		}
		width <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-width }()
			it.err = it.call.runItem()
		}()
	}
	wg.Wait()
	c.out = append(c.out, `{"results":[`...)
	for i := range items {
		if i > 0 {
			c.out = append(c.out, ',')
		}
		c.result(&items[i])
	}
	c.out = append(c.out, `]}`...)
	return nil
}

// result appends an operation's answer, with its id and status in front.
func (c *Call) result(it *item) {
	status := 200
	answer := it.call.out
	if it.err != nil {
		status = kinds[it.err.Kind].status
		answer = appendProblem(nil, it.err, "")
	}
	c.out = append(c.out, `{"id":`...)
	c.out = appendString(c.out, it.call.req.ID)
	if it.err == nil { // a problem document has its own
		c.out = append(c.out, `,"status":`...)
		c.out = strconv.AppendInt(c.out, int64(status), 10)
	}
	c.out = append(c.out, ',')
	c.out = append(c.out, answer[1:]...)
}

// runItem runs one operation; a panic in it is that operation's failure alone.
func (c *Call) runItem() (e *Error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.cfg.Log.Error("panic in a batch", "operation", c.req.Op, "panic", fmt.Sprintf("%T", p))
			e = fail(Internal, "quote the request id to the operators")
		}
	}()
	if err := c.s.operation(c.req.Op).Handle(c); err != nil {
		return outward(err)
	}
	return nil
}

// operation returns the route whose handler a batch's op names, nil when there is none.
func (s *Server) operation(op string) *Route {
	switch op {
	case "random":
		return s.routes["POST /api/v1/random"]
	case "sign", "verify", "encrypt", "decrypt", "wrap", "unwrap", "rewrap", "mac", "mac/verify", "datakey":
		return s.routes["POST "+keysPrefix+"{key}/"+op]
	}
	return nil
}

// items reads the operations. What is wrong inside one of them is its own error.
func (c *Call) items(body []byte) (items []item, e *Error) {
	p := &parser{b: body}
	if !p.next('{') {
		return nil, fail(Malformed, "a JSON object was expected")
	}
	p.space()
	name, e := p.str()
	if e != nil {
		return nil, e
	}
	if string(name) != "operations" {
		return nil, fail(Malformed, "unknown field %s", printable(name))
	}
	if !p.next(':') || !p.next('[') {
		return nil, fail(Malformed, "operations: an array was expected")
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
		if e := p.skipObject(); e != nil {
			return items, e
		}
		items = append(items, c.item(body[start:p.i]))
	}
	if len(items) == 0 {
		return items, fail(Malformed, "operations: there are none")
	}
	if !p.next('}') {
		return items, fail(Malformed, "a batch has no field but operations")
	}
	return items, p.end()
}

// item reads one operation. Which fields it may have is known when its op is.
func (c *Call) item(body []byte) item {
	call := c.s.calls.Get().(*Call)
	call.s, call.http, call.ctx, call.client, call.dir, call.out = c.s, c.http, c.ctx, c.client, c.dir, call.out[:0]
	it := item{call: call}
	const own = fID | fOp | fKey
	scan := request{scratch: make([]byte, 0, len(body))}
	// datakey's "plaintext" is a boolean: the op decides how the rest is read, so it is found first.
	op := findString(body, "op")
	route := c.s.operation(op)
	if route == nil {
		call.req.ID = findString(body, "id")
		it.err = fail(Malformed, "op: unknown operation %s", printable([]byte(op)))
		return it
	}
	e := scan.parse(body, own|route.Takes)
	call.req = scan
	call.req.has &^= own
	call.name = scan.Key
	if e == nil && op != "random" && scan.Key == "" {
		e = fail(Malformed, "key: the field is missing")
	}
	it.err = e
	return it
}

// skipObject moves past one object without looking at what is in it but strings and brackets.
func (p *parser) skipObject() *Error {
	if p.i >= len(p.b) || p.b[p.i] != '{' {
		return fail(Malformed, "operations: an object was expected at byte %d", p.i)
	}
	depth := 0
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case '"':
			if _, e := p.str(); e != nil {
				return e
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth == 0 {
				p.i++
				return nil
			}
		}
		p.i++
	}
	return fail(Malformed, "an object does not end")
}

// findString returns the value of a string member of a flat object, "" when there is none.
func findString(body []byte, name string) string {
	p := &parser{b: body}
	p.next('{')
	for p.i < len(body) {
		p.space()
		k, e := p.str()
		if e != nil || !p.next(':') {
			return ""
		}
		p.space()
		if p.i < len(body) && body[p.i] == '"' {
			v, e := p.str()
			if e != nil {
				return ""
			}
			if string(k) == name {
				return string(v)
			}
		} else {
			for p.i < len(body) && body[p.i] != ',' && body[p.i] != '}' {
				p.i++
			}
		}
		if !p.next(',') {
			return ""
		}
	}
	return ""
}
