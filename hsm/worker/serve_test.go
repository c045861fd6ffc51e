package worker

import (
	"context"
	"encoding/json"
	"net"
	"sync/atomic"
	"testing"

	"keyway/hsm"
)

// closable counts how often it is closed.
type closable struct {
	echoToken
	closed *atomic.Int64
}

func (t *closable) Close() error { t.closed.Add(1); return nil }

// A parent may close as soon as it has been greeted: that is a good life too, and the token is closed after it.
func TestAParentMayLeaveRightAfterTheGreeting(t *testing.T) {
	const lives = 500
	var closed atomic.Int64
	for range lives {
		ours, theirs := net.Pipe()
		ended := make(chan error, 1)
		go func() {
			ended <- serve(theirs, func(context.Context, json.RawMessage, hsm.PIN) (hsm.Token, error) {
				return &closable{closed: &closed}, nil
			})
		}()
		l := newLink(ours)
		if err := send(l, &hello{params: json.RawMessage("{}")}, false); err != nil {
			t.Fatal(err)
		}
		if _, err := l.receive(); err != nil {
			t.Fatal(err)
		}
		l.close(hsm.ErrClosed)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	if n := closed.Load(); n != lives {
		t.Errorf("%d of %d tokens were closed", n, lives)
	}
}
