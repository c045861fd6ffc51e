package pool

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"keyway/hsm"
)

const scope = "keyway/pool"

// memberMetrics holds a member's instruments with their attribute sets made beforehand: an observation allocates nothing.
type memberMetrics struct {
	run, total metric.Float64Histogram
	sets       [hsm.OpRandom + 1][hsm.Locked + 1][]metric.RecordOption // by operation and fault
}

func newMemberMetrics(pool, member string) memberMetrics {
	meter := otel.Meter(scope)
	// An error here means a name that is no instrument's; the instrument is then one that does nothing.
	run, _ := meter.Float64Histogram("hsm.operation.duration", metric.WithUnit("s"), metric.WithDescription("time on the token, without queueing"))
	total, _ := meter.Float64Histogram("hsm.operation.total_duration", metric.WithUnit("s"), metric.WithDescription("time in the member, with queueing"))
	m := memberMetrics{run: run, total: total}
	for k := range m.sets {
		for f := range m.sets[k] {
			a := []attribute.KeyValue{attribute.String("hsm.pool", pool), attribute.String("hsm.member", member), attribute.String("hsm.operation", hsm.OpKind(k).String())}
			if f != 0 {
				a = append(a, attribute.String("error.type", hsm.Fault(f).String()))
			}
			m.sets[k][f] = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(a...))}
		}
	}
	return m
}

func (m *memberMetrics) record(k hsm.OpKind, run, total time.Duration, f hsm.Fault) {
	if int(k) >= len(m.sets) || int(f) >= len(m.sets[k]) {
		return
	}
	ctx, set := context.Background(), m.sets[k][f]
	m.run.Record(ctx, run.Seconds(), set...)
	m.total.Record(ctx, total.Seconds(), set...)
}

// observe registers the gauges that are read when somebody asks, and returns how to take them away.
func (p *Pool) observe() (func() error, error) {
	meter := otel.Meter(scope)
	var failed error
	gauge := func(name, what string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithDescription(what))
		if err != nil {
			failed = err
		}
		return g
	}
	counter := func(name, what string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithDescription(what))
		if err != nil {
			failed = err
		}
		return c
	}
	length := gauge("pool.queue.length", "operations that wait")
	sessions := gauge("pool.sessions", "sessions by state")
	state := gauge("pool.breaker.state", "0 closed, 1 half open, 2 open")
	handles := gauge("pool.handles", "keys loaded on the member")
	loads := counter("pool.handle.loads", "keys loaded since the member was added")
	evictions := counter("pool.handle.evictions", "keys evicted since the member was added")
	respawns := counter("pool.member.respawns", "times the member's token was lost")
	is := gauge("pool.member.state", "1 for the state the member is in, 0 for the others")
	slow := counter("pool.member.slow", "operations whose callers were sent on to another member")
	hung := counter("pool.member.hung", "operations that ran over their limit")
	retries := counter("pool.retries", "attempts on another member")
	refused := counter("pool.overloaded", "operations refused because every queue was full")
	unusable := counter("pool.key.unusable", "operations that failed because the member lacks the key or the mechanism")
	if failed != nil {
		return nil, failed
	}
	reg, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		mine := metric.WithAttributes(attribute.String("hsm.pool", p.cfg.Name))
		o.ObserveInt64(retries, int64(p.retries.Load()), mine)
		o.ObserveInt64(refused, int64(p.overloaded.Load()), mine)
		for _, m := range *p.members.Load() {
			s := m.stat()
			member := []attribute.KeyValue{attribute.String("hsm.pool", p.cfg.Name), attribute.String("hsm.member", s.Name)}
			set := metric.WithAttributes(member...)
			o.ObserveInt64(length, int64(s.Queued), set)
			o.ObserveInt64(sessions, int64(s.Busy), metric.WithAttributes(append(member, attribute.String("state", "busy"))...))
			o.ObserveInt64(sessions, int64(max(0, s.Sessions-s.Busy)), metric.WithAttributes(append(member, attribute.String("state", "idle"))...))
			o.ObserveInt64(state, map[string]int64{"closed": 0, "half-open": 1, "open": 2}[s.Breaker], set)
			o.ObserveInt64(handles, int64(s.Handles), set)
			o.ObserveInt64(loads, int64(s.Loads), set)
			o.ObserveInt64(evictions, int64(s.Evictions), set)
			o.ObserveInt64(respawns, int64(s.Respawns), set)
			o.ObserveInt64(unusable, int64(s.Unusable), set)
			o.ObserveInt64(slow, int64(s.Slow), set)
			o.ObserveInt64(hung, int64(s.Hung), set)
			for _, x := range states {
				o.ObserveInt64(is, map[bool]int64{true: 1}[s.State == x], metric.WithAttributes(append(member, attribute.String("state", string(x)))...))
			}
		}
		return nil
	}, length, sessions, state, handles, loads, evictions, respawns, is, slow, hung, retries, refused, unusable)
	if err != nil {
		return nil, err
	}
	return reg.Unregister, nil
}
