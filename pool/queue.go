package pool

import (
	"sync"
	"time"
)

// queue is a member's bounded queue: first by class, then by arrival. It also bounds how many jobs run at once, which is
// less than there are sessions while the token says that it is busy.
type queue struct {
	mu      sync.Mutex
	ready   sync.Cond
	limit   int
	count   int
	lines   [classes]line
	running int
	permits permits
	closed  bool
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

func newQueue(limit, sessions int) *queue {
	q := &queue{limit: limit, permits: newPermits(sessions)}
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

// pop waits for a job and for a permit to run it, which the caller gives back with done. It returns nil when the queue was
// closed. A job whose caller has left meanwhile is passed over.
func (q *queue) pop() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		if q.running < q.permits.now() {
			for q.count > 0 {
				if j := q.first(); j.state.Load() == queued {
					q.running++
					return j
				}
			}
		}
		q.ready.Wait()
	}
	return nil
}

// first takes out the first job of the most urgent class. There is one.
func (q *queue) first() *job {
	for i := range q.lines {
		if q.lines[i].n > 0 {
			q.count--
			return q.lines[i].pop()
		}
	}
	panic("pool: internal error: a queue that counts jobs holds none")
}

// done gives a permit back, having learnt whether the token was busy. Who gives it back comes for the next job himself, so
// that nobody needs to be woken unless there is now a permit more.
func (q *queue) done(busy bool) {
	q.mu.Lock()
	q.running--
	wake := q.permits.learn(busy) && q.count > 1
	q.mu.Unlock()
	if wake {
		q.ready.Signal()
	}
}

// expire drops, with err, jobs that have waited longer than their callers' patience. Within a class they stand in the order of
// their arrival, and patience differs little, so it looks at the first ones only.
func (q *queue) expire(now time.Time, err error) (dropped int) {
	var late []*job
	q.mu.Lock()
	for i := range q.lines {
		for l := &q.lines[i]; l.n > 0; {
			j := l.jobs[l.head]
			if j.state.Load() == queued && (j.patience == 0 || now.Sub(j.entered) < j.patience) {
				break
			}
			late = append(late, l.pop())
			q.count--
		}
	}
	q.mu.Unlock()
	for _, j := range late {
		if j.drop(err) {
			dropped++
		}
	}
	return dropped
}

// close wakes everybody who waits and drops what is left with err.
func (q *queue) close(err error) {
	q.mu.Lock()
	q.closed = true
	var left []*job
	for q.count > 0 {
		left = append(left, q.first())
	}
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

// allowed is how many jobs may run at once now.
func (q *queue) allowed() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.permits.now()
}
