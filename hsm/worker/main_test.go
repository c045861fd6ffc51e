//go:build linux

package worker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
)

// roleEnv in the environment makes the test binary a worker.
const roleEnv = "KEYWAY_WORKER_TEST"

// forever does nothing. Without cgo the runtime would end a process that waits in an empty select: nobody could ever wake it.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "mute": // says nothing and does not read
		forever()
	case "babble": // does not speak the protocol
		_, _ = os.NewFile(inherited, "supervisor").WriteString(strings.Repeat("\xff", 64))
		forever()
	case "hostile":
		hostile(os.Getenv(attackEnv))
	case "quit":
		fmt.Fprintln(os.Stderr, "cannot load the library")
		os.Exit(3)
	default:
		open, ok := roles[role]
		if !ok {
			panic("unknown role " + role)
		}
		if err := Serve(open); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// roles are the tests' workers.
var roles = map[string]Open{"echo": openEcho}

// config is the configuration of a worker of a role.
func config(tb testing.TB, role string, params any, env ...string) Config {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return Config{Name: "m1", Argv: []string{self}, Env: append(env, roleEnv+"="+role), Params: params, PIN: hsm.NewPIN([]byte("1234"))}
}

// spawn starts a worker that ends with the test.
func spawn(tb testing.TB, c Config) *Token {
	tb.Helper()
	t, err := Spawn(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	return t
}

func openSession(tb testing.TB, t hsm.Token) hsm.Session {
	tb.Helper()
	s, err := t.OpenSession(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// lines is a log that can be looked at.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
