package pool

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// opinion is what the members that were asked so far hold against a caller's input, when all they said
// was ambiguous: GENERAL_ERROR is a bad ciphertext on one token and a broken decryption on the next, and a canary proves only
// what it does itself. So another member is asked before a caller is told that its data are bad.
type opinion struct {
	blame   error // the last one's; nil while nobody blames the caller
	members [8]*member
	n       int
}

// doubt reports whether the blame that m put on the caller is to be doubted: it was said with an ambiguous code, and
// there is a budget for another opinion. It is a budget of its own, or callers with bad data could use up what retries need.
func (o *opinion) doubt(p *Pool, m *member, err error) bool {
	var b *blamed
	if !errors.As(err, &b) || o.n == len(o.members) || !p.doubts.spend() {
		return false
	}
	o.blame, o.members[o.n] = err, m
	o.n++
	return true
}

// agreed reports whether two members blame the caller, which is enough where the next one gives no answers.
func (o *opinion) agreed() bool { return o.n > 1 }

// do asks m. One that is asked for another opinion gets half of what is left of the caller's time: there is an answer
// already, which must not be lost to a member that hangs. When two agree, it gets no longer than such an operation may take.
func (o *opinion) do(ctx context.Context, m *member, j *job) (out []byte, reached bool, err error) {
	if o.blame == nil {
		return m.do(ctx, j)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return m.do(ctx, j)
	}
	wait := deadline.Sub(j.entered) / 2
	if o.agreed() {
		wait = min(wait, max(silence, m.load.paces[j.sort].times(outlierTimes)))
	}
	half, cancel := context.WithDeadline(ctx, j.entered.Add(wait))
	defer cancel()
	out, reached, err = m.do(half, j)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = errLate
	}
	return out, reached, err
}

// errLate is what came of a second opinion that was not waited for to the end. Who goes on to another member has not paid for that, unlike
// one whom the watcher sent on.
var errLate = fmt.Errorf("%w: another opinion did not come soon enough", errAbandoned)

// disprove notes that another member did what these blamed the caller for. It does not count for
// their breakers: where tokens differ in what they take, a caller could trip them.
func (o *opinion) disprove(class Class) {
	for _, m := range o.members[:o.n] {
		m.failures.Add(1)
		m.load.penalise(class, time.Now().UnixNano())
		m.doubt.Store(true)
		m.misplaced(o.blame)
	}
}

// or is the outcome when no other member could tell more: the blame, else err.
func (o *opinion) or(err error) error {
	if o.blame != nil {
		return o.blame
	}
	return err
}
