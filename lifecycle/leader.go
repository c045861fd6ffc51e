package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"time"
)

// LeaderConfig configures a Leader.
type LeaderConfig struct {
	Store Store
	// Name is the lease's.
	Name string
	// Lead runs while this node holds the lease. It must end soon after its context does, whose cause is ErrLeaseLost when the lease went
	// to others or may have; until it has ended the lease is not taken again. What it writes it fences with the lease (Tx.Fenced): a node
	// may be stopped for any time between any two of its steps, and not know it. When it ends by itself, the lease is given back.
	Lead func(ctx context.Context, l Lease)
	// TTL is how long the lease lasts from each renewal, 15 s; Renew is how often it is renewed, and asked for by who has it not, 5 s.
	TTL, Renew time.Duration
	// Margin is how much sooner than the database this node considers the lease as lost when it cannot renew it, 2 s.
	Margin time.Duration
	Log    *slog.Logger
}

// Leader sees to it that one of several nodes leads: it takes a lease when nobody has it, and leads as long as it can renew it.
type Leader struct {
	cfg     LeaderConfig
	holder  string
	stop    context.CancelFunc
	stopped chan struct{}
}

// NewLeader begins to ask for the lease. Close it.
func NewLeader(cfg LeaderConfig) *Leader {
	defaults := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	defaults(&cfg.TTL, 15*time.Second)
	defaults(&cfg.Renew, 5*time.Second)
	defaults(&cfg.Margin, 2*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Leader{cfg: cfg, holder: newHolder(), stopped: make(chan struct{})}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	go l.run(ctx)
	return l
}

// newHolder names this process as no other one is named.
func newHolder() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand documents it)
	host, _ := os.Hostname()
	return host + "/" + hex.EncodeToString(b[:])
}

// Close ends leading, waits for Lead, and gives the lease back.
func (l *Leader) Close() {
	l.stop()
	<-l.stopped
}

// run asks for the lease and leads, again and again.
func (l *Leader) run(ctx context.Context) {
	defer close(l.stopped)
	for {
		asked := time.Now()
		lease, err := l.acquire(ctx)
		switch {
		case err == nil:
			l.cfg.Log.Info("this node leads", "lease", lease.Name, "epoch", lease.Epoch)
			l.hold(ctx, lease, asked)
		case !errors.Is(err, ErrLeaseHeld) && ctx.Err() == nil:
			l.cfg.Log.Debug("the lease cannot be asked for", "lease", l.cfg.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(l.cfg.Renew):
		}
	}
}

func (l *Leader) acquire(ctx context.Context) (lease Lease, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Renew)
	defer cancel()
	err = l.cfg.Store.Update(ctx, func(tx Tx) (err error) {
		lease, err = tx.AcquireLease(l.cfg.Name, l.holder, l.cfg.TTL)
		return err
	})
	return lease, err
}

// hold leads under a lease that was asked for at a time. Its end is counted from before the question: the database counts from later.
func (l *Leader) hold(ctx context.Context, lease Lease, asked time.Time) {
	lead, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	left := func() time.Duration { return l.cfg.TTL - l.cfg.Margin - time.Since(asked) }
	end := time.AfterFunc(left(), func() { lose(ErrLeaseLost) })
	defer end.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.cfg.Lead(lead, lease)
	}()
	wait := l.cfg.Renew
	for {
		select {
		case <-ended:
			l.release(lease)
			return
		case <-lead.Done():
			<-ended
			if ctx.Err() != nil {
				l.release(lease)
			}
			l.cfg.Log.Info("this node leads no longer", "lease", lease.Name, "epoch", lease.Epoch, "cause", context.Cause(lead))
			return
		case <-time.After(wait):
		}
		now := time.Now()
		err := l.cfg.Store.Update(lead, func(tx Tx) error { return tx.RenewLease(lease, l.cfg.TTL) })
		switch {
		case err == nil:
			asked = now
			if end.Stop() { // otherwise it is over already
				end.Reset(left())
			}
			wait = l.cfg.Renew
		case errors.Is(err, ErrLeaseLost):
			lose(ErrLeaseLost)
		default: // as long as there is time
			wait = l.cfg.Renew / 5
		}
	}
}

// release gives the lease back, so that others need not wait for its end. They do when that fails.
func (l *Leader) release(lease Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Margin)
	defer cancel()
	if err := l.cfg.Store.Update(ctx, func(tx Tx) error { return tx.ReleaseLease(lease) }); err != nil {
		l.cfg.Log.Debug("the lease could not be given back and runs out", "lease", lease.Name, "error", err)
	}
}
