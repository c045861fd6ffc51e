package pool

import (
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// queue is a member's bounded queue. Canaries go first; then the clients that have something waiting take turns, so that
// one who asks for a hundred times his share delays the others by one turn only. It also bounds how many jobs
// run at once, which is less than there are sessions while the token says that it is busy.
type queue struct {
	limit  int
	length atomic.Int64 // what waits, readable without the lock

	mu       sync.Mutex
	ready    sync.Cond
	canaries line
	shares   map[string]*share // of the clients that have something waiting, and of the last one that had
	turns    []*share          // the same, in the order of their turns
	turn     int
	spare    []*share // empty ones, for reuse
	running  int
	permits  permits
	closed   bool
}

// errFull is for a job that found no room after all.
var errFull = &hsm.Error{Code: hsm.SessionCount}

// errDisplaced is what a job hears that had to make room for one of a client with less.
var errDisplaced = &hsm.Error{Code: hsm.SessionCount}

func newQueue(limit, sessions int) *queue {
	q := &queue{limit: limit, permits: newPermits(sessions), shares: map[string]*share{}}
	q.ready.L = &q.mu
	return q
}

// push adds a job, or reports false at once when the queue is closed, or full and the client has no less waiting than anybody
// else. In a full queue the newest job of the client with most makes room. A canary always finds room.
func (q *queue) push(j *job) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	var out *job
	if j.class == ClassCanary {
		q.canaries.push(j)
	} else {
		if q.len() >= q.limit {
			greedy := q.greediest()
			if s := q.shares[j.client]; greedy == nil || s != nil && s.n+1 >= greedy.n {
				q.mu.Unlock()
				return false
			}
			out = greedy.last() // it had more than one
			q.length.Add(-1)
		}
		s := q.shares[j.client]
		if s == nil {
			s = q.enter(j.client)
		}
		s.lines[j.class].push(j)
		s.n++
	}
	q.length.Add(1)
	q.mu.Unlock()
	q.ready.Signal()
	if out != nil {
		out.drop(errDisplaced)
	}
	return true
}

// full reports whether a job of client would be refused. It is a hint: push decides.
func (q *queue) full(client string) bool {
	if q.len() < q.limit {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.len() < q.limit {
		return false
	}
	greedy, s := q.greediest(), q.shares[client]
	return greedy == nil || s != nil && s.n+1 >= greedy.n
}

// greediest is the share with the most jobs, nil when nobody has more than one.
func (q *queue) greediest() *share {
	var most *share
	for _, s := range q.turns {
		if s.n > 1 && (most == nil || s.n > most.n) {
			most = s
		}
	}
	return most
}

// enter gives a client a share, whose turn comes last.
func (q *queue) enter(client string) *share {
	if len(q.turns) == 1 && q.turns[0].n == 0 {
		q.leave(q.turns[0])
	}
	var s *share
	if n := len(q.spare); n > 0 {
		s, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		s = &share{}
	}
	s.client = client
	q.shares[client] = s
	// Behind everybody whose turn comes before the present one.
	q.turns = append(q.turns, nil)
	copy(q.turns[q.turn+1:], q.turns[q.turn:])
	q.turns[q.turn] = s
	q.turn = (q.turn + 1) % len(q.turns)
	return s
}

// leave takes an empty share out.
func (q *queue) leave(s *share) {
	delete(q.shares, s.client)
	s.client = ""
	for i, o := range q.turns {
		if o == s {
			q.turns = append(q.turns[:i], q.turns[i+1:]...)
			if q.turn > i {
				q.turn--
			}
			break
		}
	}
	if q.turn >= len(q.turns) {
		q.turn = 0
	}
	if len(q.spare) < 64 {
		q.spare = append(q.spare, s)
	}
}

// pop waits for a job and for a permit to run it, which the caller gives back with done. It returns nil when the queue was
// closed. A job whose caller has left meanwhile is passed over.
func (q *queue) pop() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		if q.running < q.permits.now() {
			for q.len() > 0 {
				if j := q.next(); j.state.Load() == queued {
					q.running++
					return j
				}
			}
		}
		q.ready.Wait()
	}
	return nil
}

// next takes out the job whose turn it is. There is one.
func (q *queue) next() *job {
	q.length.Add(-1)
	if q.canaries.n > 0 {
		return q.canaries.pop()
	}
	s := q.turns[q.turn]
	j := s.first()
	switch {
	case s.n > 0:
		q.turn = (q.turn + 1) % len(q.turns)
	case len(q.turns) > 1: // one that is alone stays: its client is likely to come back before anybody else
		q.leave(s)
	}
	return j
}

// done gives a permit back, having learnt whether the token was busy for a job that began at a time. Who gives it back comes for the next job himself, so
// that nobody needs to be woken unless there is now a permit more.
func (q *queue) done(busy bool, begun time.Time) {
	q.mu.Lock()
	wake := q.permits.learn(busy, q.running, begun) && q.len() > 1
	q.running--
	q.mu.Unlock()
	if wake {
		q.ready.Signal()
	}
}

// stuck reports whether so many hung jobs hold every permit, with nothing under way beside them that would give one back.
func (q *queue) stuck(hung int) bool {
	if hung == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return hung >= q.permits.now() && hung >= q.running
}

// resize lets d operations more run at once than before.
func (q *queue) resize(d int) {
	q.mu.Lock()
	q.permits.resize(d)
	q.mu.Unlock()
	if d > 0 {
		q.ready.Signal()
	}
}

// expire sends callers on whose jobs have waited too long, as goes says. In each line they stand in the order of their arrival,
// and patience differs little, so it looks at the first ones only.
func (q *queue) expire(goes func(*job) bool) (sent int) {
	if q.len() == 0 {
		return 0
	}
	var late []*job
	q.mu.Lock()
	for k := len(q.turns) - 1; k >= 0; k-- {
		s := q.turns[k]
		for i := range s.lines {
			for l := &s.lines[i]; l.n > 0; {
				j := l.jobs[l.head]
				if j.state.Load() == queued && !goes(j) {
					break
				}
				late = append(late, l.pop())
				s.n--
				q.length.Add(-1)
			}
		}
		if s.n == 0 && len(q.turns) > 1 {
			q.leave(s)
		}
	}
	q.mu.Unlock()
	for _, j := range late {
		if j.drop(errSlow) {
			sent++
		}
	}
	return sent
}

// close wakes everybody who waits and drops what is left with err.
func (q *queue) close(err error) {
	q.mu.Lock()
	q.closed = true
	var left []*job
	for q.len() > 0 {
		left = append(left, q.next())
	}
	q.mu.Unlock()
	q.ready.Broadcast()
	for _, j := range left {
		j.drop(err)
	}
}

// len is how many jobs wait.
func (q *queue) len() int { return int(q.length.Load()) }

// allowed is how many jobs may run at once now.
func (q *queue) allowed() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.permits.now()
}
