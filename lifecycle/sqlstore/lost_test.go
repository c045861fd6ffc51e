package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/storetest"
	"keyway/lifecycle/storetest/pgtest"
)

// link passes bytes on between a node and its database until it is cut.
type link struct {
	l  net.Listener
	to string
	// cut ends the connection on which the next bytes come: from the node, which are lost, or from the server.
	cutRequest, cutAnswer atomic.Bool
	mu                    sync.Mutex
	open                  map[net.Conn]bool
	down                  bool
}

// newLink listens in front of a server and returns the DSN of a database behind it.
func newLink(t *testing.T, s *pgtest.Server, database string) (*link, Postgres) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{l: listener, to: fmt.Sprintf("127.0.0.1:%d", s.Port), open: map[net.Conn]bool{}}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { k.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		k.cutAll(true)
		work.Wait()
	})
	_, file := s.TCP(t, database)
	return k, Postgres{DSN: fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", pgtest.User, listener.Addr(), database), PasswordFile: file}
}

func (k *link) pass(node net.Conn) {
	defer node.Close()
	server, err := net.Dial("tcp", k.to)
	if err != nil {
		return
	}
	defer server.Close()
	k.mu.Lock()
	if k.down {
		k.mu.Unlock()
		return
	}
	k.open[node], k.open[server] = true, true
	k.mu.Unlock()
	copied := func(to, from net.Conn, cut *atomic.Bool) {
		defer to.Close()
		defer from.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if err != nil || cut.CompareAndSwap(true, false) {
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() { copied(server, node, &k.cutRequest) })
	both.Go(func() { copied(node, server, &k.cutAnswer) })
	both.Wait()
	k.mu.Lock()
	delete(k.open, node)
	delete(k.open, server)
	k.mu.Unlock()
}

// cutAll ends every connection, and where down is set every one to come.
func (k *link) cutAll(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
	for c := range k.open {
		_ = c.Close()
	}
}

// A link that is lost while a change is committed leaves nobody knowing whether it took place: that is said, and it is not done again.
func TestALostCommitIsOfUnknownOutcome(t *testing.T) {
	server := pgtest.Shared(t)
	db := server.Database(t)
	k, p := newLink(t, server, db)
	s := openPostgres(t, p)
	direct := openPostgres(t, Postgres{DSN: server.DSN(db)})
	for name, c := range map[string]struct {
		cut  *atomic.Bool
		done bool
	}{"answer": {&k.cutAnswer, true}, "request": {&k.cutRequest, false}} {
		runs := 0
		err := s.Update(context.Background(), func(tx lifecycle.Tx) error {
			runs++
			defer c.cut.Store(true) // the next thing on this link is the commit
			return storetest.Noted(func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: name}) })(tx)
		})
		if !errors.Is(err, lifecycle.ErrOutcomeUnknown) || runs != 1 {
			t.Errorf("the commit's %s is lost: after %d runs %v", name, runs, err)
		}
		if hasClient(t, direct, name) != c.done {
			t.Errorf("the commit's %s is lost: the change is there: %t, want %t", name, !c.done, c.done)
		}
		if err := addClient(s, "after-"+name); err != nil {
			t.Errorf("the next change: %v", err)
		}
	}
}

// A link that is lost before the commit changes nothing, and the change is made over a new one.
func TestALinkLostBeforeTheCommitIsMadeAnew(t *testing.T) {
	server := pgtest.Shared(t)
	db := server.Database(t)
	k, p := newLink(t, server, db)
	s := openPostgres(t, p)
	runs := 0
	err := s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
		runs++
		if runs == 1 {
			k.cutAnswer.Store(true)
		}
		return tx.InsertClient(key.Client{Name: "app"})
	}))
	if err != nil || runs != 2 || !hasClient(t, s, "app") {
		t.Errorf("after %d runs: %v", runs, err)
	}
	k.cutAnswer.Store(true)
	if !hasClient(t, s, "app") {
		t.Error("a view over a lost link found nothing")
	}
	k.cutAll(true)
	if err := addClient(s, "gone"); !errors.Is(err, lifecycle.ErrUnavailable) || errors.Is(err, lifecycle.ErrOutcomeUnknown) {
		t.Errorf("without a database: %v, want ErrUnavailable", err)
	}
	k.cutAll(false)
	if err := addClient(s, "gone"); err != nil {
		t.Errorf("with the database back: %v", err)
	}
}

// A database that hangs takes as long as the caller gives it.
func TestAHungDatabaseTakesItsCallersTime(t *testing.T) {
	server := pgtest.Shared(t)
	db := server.Database(t)
	s := openPostgres(t, Postgres{DSN: server.DSN(db)})
	blocker := openPostgres(t, Postgres{DSN: server.DSN(db), standing: time.Minute})
	err := blocker.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
		if err := tx.InsertClient(key.Client{Name: "a"}); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		err := s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error { return tx.InsertClient(key.Client{Name: "b"}) }))
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, lifecycle.ErrOutcomeUnknown) {
			t.Errorf("got %v", err)
		}
		return nil
	}))
	if err != nil || hasClient(t, s, "b") {
		t.Errorf("%v", err)
	}
}

// A database that is killed in the middle of everything: what was acknowledged is there, nothing is there by halves, and when it is back
// everybody goes on by himself.
func TestAKilledDatabaseComesBack(t *testing.T) {
	server := pgtest.New(t)
	s := openPostgres(t, Postgres{DSN: server.DSN(server.Database(t))})
	watched, err := s.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	const writers = 4
	var acknowledged, unknown [writers]map[int]bool
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer func() { stop.Store(true); wg.Wait() }()
	for w := range writers {
		acknowledged[w], unknown[w] = map[int]bool{}, map[int]bool{}
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				err := s.Update(context.Background(), storetest.Noted(func(tx lifecycle.Tx) error {
					if err := tx.InsertClient(key.Client{Name: fmt.Sprintf("w%d-%d-a", w, i)}); err != nil {
						return err
					}
					return tx.InsertClient(key.Client{Name: fmt.Sprintf("w%d-%d-b", w, i)})
				}))
				switch {
				case err == nil:
					acknowledged[w][i] = true
				case errors.Is(err, lifecycle.ErrOutcomeUnknown):
					unknown[w][i] = true
				case !errors.Is(err, lifecycle.ErrUnavailable):
					t.Errorf("an error of another kind: %v", err)
				}
				if err != nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	server.Kill()
	for open := true; open; { // what was told before it was killed comes first
		select {
		case _, open = <-watched:
		case <-time.After(10 * time.Second):
			t.Fatal("who watches is not told that he hears nothing any more")
		}
	}
	if _, err := s.Watch(context.Background()); err == nil {
		t.Error("a database that is gone is watched")
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Watch(context.Background()); err != nil {
		t.Errorf("watching again: %v", err)
	}
	if err := addClient(s, "after"); err != nil {
		t.Errorf("the database is back: %v", err)
	}
	stop.Store(true)
	wg.Wait()
	there := map[string]bool{}
	err = s.View(context.Background(), func(tx lifecycle.Tx) error {
		all, err := tx.Clients()
		for _, c := range all {
			there[c.Name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for name := range there {
		var w, i int
		var half rune
		if _, err := fmt.Sscanf(name, "w%d-%d-%c", &w, &i, &half); err != nil {
			continue
		}
		if !there[fmt.Sprintf("w%d-%d-a", w, i)] || !there[fmt.Sprintf("w%d-%d-b", w, i)] {
			t.Errorf("%s is there without its other half", name)
		}
		if !acknowledged[w][i] && !unknown[w][i] {
			t.Errorf("%s is there, and its writer was told that it is not", name)
		}
	}
	for w := range writers {
		for i := range acknowledged[w] {
			n++
			if !there[fmt.Sprintf("w%d-%d-a", w, i)] {
				t.Errorf("w%d-%d was acknowledged and is lost", w, i)
			}
		}
	}
	if n < writers {
		t.Errorf("only %d changes were made: the test shows nothing", n)
	}
}
