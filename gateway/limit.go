package gateway

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"keyway/lifecycle/key"
)

// limits holds the pace of each client that has a rate. There are as many as clients, which operators make.
type limits struct {
	begun time.Time // it carries Go's monotonic clock, which nobody sets back
	m     sync.Map  // client's name → *atomic.Int64
}

// take starts n operations of c at the time now, or tells how long to wait before trying again. It is the generic cell rate
// algorithm: all it keeps of a client is the time, since begun, at which what was started is paid for. Rate and burst come
// with each call, since operators change them. More operations than a burst may start together once all before them is paid for.
// With charge false it only looks.
func (l *limits) take(now time.Time, n int, c *key.Client, charge bool) (wait time.Duration) {
	v, ok := l.m.Load(c.Name)
	if !ok {
		v, _ = l.m.LoadOrStore(c.Name, &atomic.Int64{})
	}
	paidAt := v.(*atomic.Int64)
	burst := c.Burst
	if burst == 0 {
		burst = max(1, int(c.Rate))
	}
	each := float64(time.Second) / c.Rate
	at, cost, room := int64(now.Sub(l.begun)), int64(each*float64(n)), int64(each*float64(max(n, burst)))
	for {
		old := paidAt.Load()
		paid := max(old, at)
		if over := paid + cost - at - room; over > 0 {
			return time.Duration(over)
		}
		if !charge || paidAt.CompareAndSwap(old, paid+cost) {
			return 0
		}
	}
}

// throttle counts n operations against the client's own rate; with charge false it only asks whether they might start.
func (c *Call) throttle(n int, charge bool) error {
	if c.client.Rate <= 0 {
		return nil
	}
	if wait := c.s.limits.take(c.now, n, c.client, charge); wait > 0 {
		return &Error{Kind: Throttled, Detail: fmt.Sprintf("the client may start %g operations a second", c.client.Rate), RetryAfter: wait}
	}
	return nil
}
