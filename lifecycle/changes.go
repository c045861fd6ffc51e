package lifecycle

import (
	"context"
	"errors"
	"time"
)

const (
	// watchedPoll is how often the store is asked all the same while it tells of changes.
	watchedPoll = time.Second
	// watchAgain is how long to wait before watching a store anew that could not be watched.
	watchAgain = time.Second
	// changePause gathers changes that come close together.
	changePause = 20 * time.Millisecond
	// askTime bounds each question of those who follow the store, so that a link that hangs is given up and made anew.
	askTime = 10 * time.Second
)

// everyChange calls f after every change that the store tells of, and otherwise every so often, until ctx ends. Where the store
// tells of no changes, or for the time being cannot, that is often enough.
func everyChange(ctx context.Context, s Store, every time.Duration, f func()) {
	w, _ := s.(Watcher)
	var told <-chan struct{}
	var watch time.Time // not before
	for {
		if w != nil && told == nil && !time.Now().Before(watch) {
			c, err := w.Watch(ctx)
			switch {
			case errors.Is(err, errors.ErrUnsupported):
				w = nil
			case err != nil:
				watch = time.Now().Add(watchAgain)
			default:
				told = c
				f() // what changed before it was watched
			}
		}
		wait := every
		if told != nil {
			wait = max(every, watchedPoll)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case _, open := <-told:
			if !open {
				told = nil
			} else {
				time.Sleep(changePause)
			}
		case <-t.C:
		}
		t.Stop()
		f()
	}
}
