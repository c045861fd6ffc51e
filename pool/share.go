package pool

import "context"

// clientKey is the context key of who asked for an operation.
type clientKey struct{}

// ForClient returns a context whose operations count as those of the client called name. Clients get equal shares of a member
// that has more to do than it can; operations without a client share one share.
func ForClient(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, clientKey{}, name)
}

// ClientOf returns the name that ForClient put into ctx, "" for none.
func ClientOf(ctx context.Context) string {
	name, _ := ctx.Value(clientKey{}).(string)
	return name
}

// share is what one client has waiting in one member's queue, first by class, then by arrival.
type share struct {
	client string
	n      int
	lines  [classes]line
}

// line is a ring of jobs of one class.
type line struct {
	jobs []*job
	head int
	n    int
}

func (l *line) push(j *job) {
	if l.n == len(l.jobs) {
		bigger := make([]*job, max(16, 2*len(l.jobs)))
		for i := range l.n {
			bigger[i] = l.jobs[(l.head+i)%len(l.jobs)]
		}
		l.jobs, l.head = bigger, 0
	}
	l.jobs[(l.head+l.n)%len(l.jobs)] = j
	l.n++
}

func (l *line) pop() *job {
	j := l.jobs[l.head]
	l.jobs[l.head] = nil
	l.head = (l.head + 1) % len(l.jobs)
	l.n--
	return j
}

// popLast takes out the job that came last.
func (l *line) popLast() *job {
	l.n--
	i := (l.head + l.n) % len(l.jobs)
	j := l.jobs[i]
	l.jobs[i] = nil
	return j
}

// first takes out the first job of the most urgent class, and last the newest of the least urgent. There is one.
func (s *share) first() *job {
	for i := range s.lines {
		if s.lines[i].n > 0 {
			s.n--
			return s.lines[i].pop()
		}
	}
	panic("pool: internal error: a share that counts jobs holds none")
}

func (s *share) last() *job {
	for i := len(s.lines) - 1; i >= 0; i-- {
		if s.lines[i].n > 0 {
			s.n--
			return s.lines[i].popLast()
		}
	}
	panic("pool: internal error: a share that counts jobs holds none")
}
