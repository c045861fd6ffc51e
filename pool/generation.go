package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// generation is a member's token between one opening and its loss: the sessions, the queue and the
// handle cache live and die with it, so nothing of an earlier epoch can be used by mistake.
type generation struct {
	m       *member
	token   hsm.Token
	queue   *queue
	handles *handles
	slots   []*slot
	ended   atomic.Bool // lost or closed
	resting atomic.Bool // takes no new work, since its member drains
	hung    atomic.Int32
	out     atomic.Int32    // slots without a session
	ctx     context.Context // ends with it
	end     context.CancelFunc
	lost    chan error // the first cause to end it
	wg      sync.WaitGroup
	weighed time.Time     // when the watcher looked at the worker's memory last
	quiet   atomic.Bool   // everything waits for answers that should have come
	probing atomic.Bool   // a canary is under way
	canary  atomic.Uint64 // the handle of an AES key of our own, 0 where the token cannot make one

	trialMu sync.Mutex
	trial   *trial // the last canary that a Suspect code caused
}

func (g *generation) begin(sessions []hsm.Session) {
	g.ctx, g.end = context.WithCancel(context.Background())
	for _, s := range sessions {
		g.slots = append(g.slots, &slot{g: g, sess: s})
	}
	for _, s := range g.slots {
		g.wg.Add(1)
		go s.work()
	}
}

// takes reports whether new work may come.
func (g *generation) takes() bool { return !g.ended.Load() && !g.resting.Load() }

// killable reports whether the token runs in a process of its own, so that opening it anew begins with a library that remembers nothing.
func (g *generation) killable() bool {
	_, ok := g.token.(hsm.Process)
	return ok
}

// lose ends the generation; the first cause counts.
func (g *generation) lose(cause error) {
	g.ended.Store(true)
	select {
	case g.lost <- cause:
	default:
	}
}

// sessions is how many sessions there are: one for each slot unless the token takes no more.
func (g *generation) sessions() int { return len(g.slots) - int(g.out.Load()) }

// stuck reports whether hung calls have taken all that may run.
func (g *generation) stuck() bool { return g.queue.stuck(int(g.hung.Load())) }

func (g *generation) busy() int {
	n := 0
	for _, s := range g.slots {
		if s.occupied() {
			n++
		}
	}
	return n
}

// close ends the generation: what waits is dropped, what runs is waited for, then the token is closed.
// A worker that does not let go within a second is killed. A library in this process that hangs cannot be ended: its token is
// not opened again until its calls have returned, so that hung threads do not pile up, or ctx has ended.
func (g *generation) close(ctx context.Context, cause error) {
	g.ended.Store(true)
	g.queue.close(cause)
	g.end()
	idle := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(idle)
	}()
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
		if p, ok := g.token.(hsm.Process); ok {
			p.Kill()
			<-idle
			break
		}
		g.m.log.Error("calls into the token's library do not return; the member stays out until they do. Run it in a worker process")
		select {
		case <-idle:
		case <-ctx.Done():
			t.Reset(g.m.pool.cfg.OpTimeout)
			select {
			case <-idle:
			case <-t.C:
				return // closing the token under them would crash the process
			}
		}
	}
	_ = g.token.Close()
}
