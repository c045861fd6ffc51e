package pool

import "time"

// permits is how many operations a member may run at once: as many as it has sessions, fewer after the token has said that
// it is busy. Its queue's lock guards it.
//
// A refusal lowers the limit by a third, and is remembered as the wall. Each round of successes raises it by one (additive increase,
// multiplicative decrease, as TCP does; Chiu and Jain, 1989) until just below the wall. There it stays: a token that does ten
// calls at once gets ten. Now and then one more is tried; if that is refused, the limit goes back by that one and the next try comes
// later, and if it holds for a round the wall is one further away and the limit rises on.
type permits struct {
	most    int
	limit   float64
	wall    int           // at which the token was busy last; 0 for nowhere
	changed time.Time     // when the limit was lowered, or raised to the wall: calls begun earlier tell nothing new
	refused time.Time     // when the token was busy last
	try     time.Time     // when the wall may be tried
	wait    time.Duration // before that, from the last refusal
	held    int           // successes of calls begun since the wall is tried
}

// Bounds of the time before the wall is tried, which doubles each time that was in vain, and after which a wall is forgotten.
const (
	tryMin     = 100 * time.Millisecond
	tryMax     = 5 * time.Second
	forgetWall = time.Minute
)

func newPermits(sessions int) permits { return permits{most: sessions, limit: float64(sessions)} }

func (p *permits) now() int { return max(1, int(p.limit)) }

// resize follows a session that came or went.
func (p *permits) resize(d int) {
	if p.limit == float64(p.most) {
		p.limit += float64(d)
	}
	p.most += d
	p.limit = min(p.limit, float64(p.most))
}

// learn takes in the outcome of an operation that began at a time with so many running in the end, itself included, and reports
// whether one more may run than before.
func (p *permits) learn(busy bool, running int, begun time.Time) bool {
	was := p.now()
	if !busy && was >= p.most {
		return false
	}
	now := time.Now()
	switch {
	case busy:
		if !begun.Before(p.changed) { // else it met the bottleneck that is known already
			p.lower(now)
		}
		return false
	case p.wall == 0 || now.Sub(p.refused) >= forgetWall:
		p.wall = 0
	case was >= p.wall: // it is tried now
		if begun.Before(p.changed) || running < was {
			return false
		}
		if p.held++; p.held >= was {
			p.wall, p.wait, p.try = was+1, tryMin, now
		}
		return false
	case was+1 >= p.wall:
		if now.Before(p.try) {
			return false
		}
		p.limit, p.changed, p.held = float64(p.wall), now, 0
		return true
	}
	p.limit = min(p.limit+1/p.limit, float64(p.most))
	return p.now() > was
}

// lower takes in that the token is busy.
func (p *permits) lower(now time.Time) {
	was := p.now()
	if p.wall > 0 && was >= p.wall { // tried in vain
		p.limit, p.wait = float64(p.wall-1), min(2*p.wait, tryMax)
	} else {
		p.limit, p.wait = max(1, p.limit*2/3), tryMin
		p.wall = max(2, was)
	}
	p.changed, p.refused, p.try = now, now, now.Add(p.wait)
}
