package pool

import "time"

// permits is how many operations a member may run at once: as many as it has sessions, fewer after the token has said that
// it is busy. It goes down by a third at once and up by one for each round of successes (additive increase, multiplicative
// decrease, as TCP does; Chiu and Jain, 1989). Its queue's lock guards it.
type permits struct {
	most  int
	limit float64
	cut   time.Time // when it was lowered last
}

// cutEvery is the shortest time between two cuts: the operations that run at once hear of the same bottleneck.
const cutEvery = 100 * time.Millisecond

func newPermits(sessions int) permits { return permits{most: sessions, limit: float64(sessions)} }

func (p *permits) now() int { return max(1, int(p.limit)) }

// learn takes in the outcome of one operation and reports whether one more may run than before.
func (p *permits) learn(busy bool) bool {
	was := p.now()
	switch {
	case !busy:
		p.limit = min(p.limit+1/p.limit, float64(p.most))
	case time.Since(p.cut) >= cutEvery:
		p.limit, p.cut = max(1, p.limit*2/3), time.Now()
	}
	return p.now() > was
}
