package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// askEvery is how long a silent link is believed in; pingTime is how long it may take to answer then.
const (
	askEvery = 10 * time.Second
	pingTime = 5 * time.Second
)

// feed tells everybody who watches of changes, which it hears of on one connection. The connection is made when the first one
// watches, and again, after it was lost, when one watches again.
type feed struct {
	connect func(context.Context) (*pgx.Conn, error)
	ctx     context.Context // ends with the feed
	end     context.CancelFunc
	work    sync.WaitGroup

	mu       sync.Mutex
	watchers map[chan struct{}]bool
	alive    bool // there is a connection
}

func newFeed(connect func(context.Context) (*pgx.Conn, error)) *feed {
	f := &feed{connect: connect, watchers: map[chan struct{}]bool{}}
	f.ctx, f.end = context.WithCancel(context.Background())
	return f
}

// close ends the feed and waits for it.
func (f *feed) close() {
	f.end()
	f.work.Wait()
}

// Watch tells of changes by NOTIFY; SQLite tells of none.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	if s.feed == nil {
		return nil, fmt.Errorf("store: SQLite does not tell of changes by other processes: %w", errors.ErrUnsupported)
	}
	return s.feed.watch(ctx)
}

func (f *feed) watch(ctx context.Context) (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.alive {
		if err := f.listen(ctx); err != nil {
			return nil, fmt.Errorf("store: listening for changes: %w", advisePostgres(err))
		}
	}
	c := make(chan struct{}, 1)
	f.watchers[c] = true
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(c)
	})
	return c, nil
}

// listen opens the connection. The caller holds mu.
func (f *feed) listen(ctx context.Context) error {
	if f.ctx.Err() != nil {
		return errors.New("the store is closed")
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	c, err := f.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Exec(ctx, "LISTEN "+channel); err != nil {
		return errors.Join(err, c.Close(ctx))
	}
	f.alive = true
	f.work.Go(func() { f.hear(c) })
	return nil
}

// hear passes notifications on until the connection or the feed ends.
func (f *feed) hear(c *pgx.Conn) {
	for f.next(c) {
		f.mu.Lock()
		for w := range f.watchers {
			select {
			case w <- struct{}{}:
			default: // it has not looked since the last one
			}
		}
		f.mu.Unlock()
	}
	bye, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(bye) // it is lost or of no more use
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alive = false
	for w := range f.watchers {
		f.drop(w)
	}
}

// next waits for a notification. It returns false when there will be none.
func (f *feed) next(c *pgx.Conn) bool {
	for {
		wait, cancel := context.WithTimeout(f.ctx, askEvery)
		_, err := c.WaitForNotification(wait)
		silent := wait.Err() != nil
		cancel()
		if err == nil {
			return true
		}
		if !silent || f.ctx.Err() != nil {
			return false
		}
		ping, cancel := context.WithTimeout(f.ctx, pingTime)
		err = c.Ping(ping)
		cancel()
		if err != nil {
			return false
		}
	}
}

// drop ends one watcher's channel, once. The caller holds mu.
func (f *feed) drop(c chan struct{}) {
	if f.watchers[c] {
		delete(f.watchers, c)
		close(c)
	}
}
