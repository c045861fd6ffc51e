package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// ErrRewritten: the log does not continue the one that this node has signed before, so it signs no more of it.
var ErrRewritten = fmt.Errorf("%w: it does not continue what this node has signed: somebody has changed the database, or an older backup was restored", ErrLogDamaged)

// HostNode returns the name of this machine as the log has it.
func HostNode() audit.Name {
	host, _ := os.Hostname()
	return audit.NameOf(host)
}

// AuditLogConfig configures an AuditLog.
type AuditLogConfig struct {
	Store Store
	// Key is this node's.
	Key *audit.LogKey
	// A checkpoint is signed when so many entries, 1000, have none, and after such a time, 60 s, when any has none.
	Entries int64
	Every   time.Duration
	Log     *slog.Logger
}

// AuditLog signs the log's checkpoints for this node, lists it and exports it. It is safe for concurrent use.
type AuditLog struct {
	cfg     AuditLogConfig
	origin  audit.Origin
	stop    context.CancelFunc
	stopped chan struct{}

	mu   sync.Mutex
	seen audit.Checkpoint // the last one that this node has signed
}

// lookEvery is how often an AuditLog looks for entries without a checkpoint.
const lookEvery = time.Second

// OpenAuditLog says in the log that the node has started and by which key it signs, and begins to sign. Close it.
func OpenAuditLog(ctx context.Context, cfg AuditLogConfig) (*AuditLog, error) {
	if cfg.Entries == 0 {
		cfg.Entries = 1000
	}
	if cfg.Every == 0 {
		cfg.Every = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &AuditLog{cfg: cfg, stopped: make(chan struct{})}
	own, err := audit.NewVerifier(cfg.Key.VerifierKey())
	if err != nil {
		return nil, err
	}
	err = cfg.Store.View(ctx, func(tx Tx) error {
		first, err := tx.Entries(0, 1)
		if err != nil || len(first) == 0 {
			return errors.Join(err, errors.New("the audit log has no beginning"))
		}
		e, err := audit.Decode(first[0])
		if err != nil {
			return err
		}
		a.origin = e.Details.Origin
		last, err := lastCheckpoint(tx, []audit.Verifier{own})
		if err == nil && last != nil && len(last.Good) > 0 {
			a.seen = last.Checkpoint
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	err = cfg.Store.Update(ctx, func(tx Tx) error {
		if err := tx.PutLogKey(cfg.Key.VerifierKey()); err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Action: audit.NodeStarted, Object: audit.Object{Kind: audit.KindNode, Name: HostNode()}, Details: audit.Details{Public: cfg.Key.Public()}})
	})
	if err != nil {
		return nil, fmt.Errorf("saying in the audit log that the node has started: %w", err)
	}
	run, stop := context.WithCancel(context.Background())
	a.stop = stop
	go a.run(run)
	return a, nil
}

// Close ends signing, says in the log that the node has stopped, and signs the end.
func (a *AuditLog) Close(ctx context.Context) error {
	a.stop()
	<-a.stopped
	err := a.cfg.Store.Update(ctx, func(tx Tx) error {
		return tx.Append(&audit.Entry{Action: audit.NodeStopped, Object: audit.Object{Kind: audit.KindNode, Name: HostNode()}})
	})
	return errors.Join(err, a.Sign(ctx))
}

func (a *AuditLog) run(ctx context.Context) {
	defer close(a.stopped)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var since time.Time // when entries without a checkpoint were seen first
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		n, err := a.unsigned(ctx)
		switch {
		case n == 0:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		if n >= a.cfg.Entries || n > 0 && time.Since(since) >= a.cfg.Every {
			if err = a.Sign(ctx); err == nil {
				since = time.Time{}
			}
		}
		if err == nil {
			said = ""
		} else if ctx.Err() == nil && err.Error() != said { // each new trouble is told once
			said = err.Error()
			a.cfg.Log.Error("the audit log gets no checkpoints", "error", err)
		}
	}
}

// unsigned counts the entries without a checkpoint. That a checkpoint was signed, which is the entry after it, does not count.
func (a *AuditLog) unsigned(ctx context.Context) (n int64, err error) {
	err = a.cfg.Store.View(ctx, func(tx Tx) error { n, err = unsigned(tx); return err })
	return n, err
}

func unsigned(tx Tx) (int64, error) {
	size, err := tx.LogSize()
	if err != nil {
		return 0, err
	}
	last, err := lastCheckpoint(tx, nil)
	if err != nil || last == nil {
		return size, err
	}
	return max(0, size-last.Size-1), nil
}

// lastCheckpoint returns nil when there is none.
func lastCheckpoint(tx Tx, trusted []audit.Verifier) (*audit.Signed, error) {
	msg, err := tx.LastCheckpoint()
	if errors.Is(err, key.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return audit.OpenCheckpoint(msg, trusted)
}

// Sign signs a checkpoint of the log as it is, unless the last one says all there is to say. It is an error wrapping ErrRewritten when the log
// does not continue what this node has signed before.
func (a *AuditLog) Sign(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var c audit.Checkpoint
	err := a.cfg.Store.Update(ctx, func(tx Tx) error {
		c = a.seen
		n, err := unsigned(tx)
		if err != nil || n == 0 {
			return err
		}
		var msg []byte
		if c, msg, err = a.checkpoint(tx); err != nil {
			return err
		}
		if err := tx.PutCheckpoint(c.Size, msg); err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Action: audit.CheckpointSigned, Object: audit.Object{Kind: audit.KindLog, Name: "log"}, Details: audit.Details{
			Size: audit.Number(c.Size), Root: audit.RootHash(c.Root), Signers: []audit.Principal{audit.PrincipalOf(a.cfg.Key.Name())},
		}})
	})
	if err != nil {
		return fmt.Errorf("signing a checkpoint of the audit log: %w", err)
	}
	a.seen = c
	return nil
}

// checkpoint signs the log as tx sees it. The caller holds mu.
func (a *AuditLog) checkpoint(tx Tx) (c audit.Checkpoint, msg []byte, err error) {
	size, err := tx.LogSize()
	if err != nil {
		return c, nil, err
	}
	tree, err := audit.Resume(size, tx)
	if err != nil {
		return c, nil, err
	}
	c = tree.Checkpoint(a.origin)
	if a.seen.Size > c.Size {
		return c, nil, fmt.Errorf("%w: it had %d entries and has %d", ErrRewritten, a.seen.Size, c.Size)
	}
	if a.seen.Size > 0 {
		proof, err := audit.ProveConsistency(c.Size, a.seen.Size, tx)
		if err != nil {
			return c, nil, err
		}
		if err := audit.CheckConsistency(proof, c, a.seen); err != nil {
			return c, nil, fmt.Errorf("%w: %w", ErrRewritten, err)
		}
	}
	msg, err = c.Sign(a.cfg.Key)
	return c, msg, err
}
