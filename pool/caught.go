package pool

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
)

// panicked is what became of a panic. It has no fault of its own, which makes it the device's.
type panicked struct {
	what  string
	stack []byte
}

func (p *panicked) Error() string { return "panic in the code that works with the token: " + p.what }

// caught, deferred, makes a panic an error: what works with a token runs in goroutines of the pool, where a panic would end the
// process, and with it every other member. What was thrown may hold anything, so only its type is told, and the words of the runtime.
func caught(err *error) {
	if v := recover(); v != nil {
		what := fmt.Sprintf("%T", v)
		if e, ok := v.(runtime.Error); ok {
			what = e.Error()
		}
		*err = &panicked{what, debug.Stack()}
	}
}

// logPanic writes where err came from if it was a panic, and reports whether it was.
func logPanic(log *slog.Logger, err error) bool {
	var p *panicked
	if !errors.As(err, &p) {
		return false
	}
	log.Error(p.Error(), "stack", string(p.stack))
	return true
}
