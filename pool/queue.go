package pool

import "sync"

// queue is a member's bounded queue: first by class, then by arrival.
type queue struct {
	mu     sync.Mutex
	ready  sync.Cond
	limit  int
	count  int
	lines  [classes]line
	closed bool
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

func newQueue(limit int) *queue {
	q := &queue{limit: limit}
	q.ready.L = &q.mu
	return q
}

// push adds a job, or reports false at once when the queue is full or closed. A canary always finds room.
func (q *queue) push(j *job) bool {
	q.mu.Lock()
	if q.closed || q.count >= q.limit && j.class != ClassCanary {
		q.mu.Unlock()
		return false
	}
	q.lines[j.class].push(j)
	q.count++
	q.mu.Unlock()
	q.ready.Signal()
	return true
}

// pop waits for a job. It returns nil when the queue was closed.
func (q *queue) pop() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return nil
		}
		if q.count > 0 {
			q.count--
			for i := range q.lines {
				if q.lines[i].n > 0 {
					return q.lines[i].pop()
				}
			}
		}
		q.ready.Wait()
	}
}

// close wakes everybody who waits and drops what is left with err.
func (q *queue) close(err error) {
	q.mu.Lock()
	q.closed = true
	var left []*job
	for i := range q.lines {
		for q.lines[i].n > 0 {
			left = append(left, q.lines[i].pop())
		}
	}
	q.count = 0
	q.mu.Unlock()
	q.ready.Broadcast()
	for _, j := range left {
		j.drop(err)
	}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}
