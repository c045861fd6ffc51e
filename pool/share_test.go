package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// p99 of the waits of a client that asks for 100 operations a second of a member that can do 1,000.
func modestWait(t *testing.T, greedy int) (p99 time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p, err := New(Config{Name: "test", SlowStart: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 4, Queue: 64, Open: opened(a)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		doing(a, hsmtest.Fault{Delay: 4 * time.Millisecond})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var got atomic.Int64
		for range greedy { // each asks again as soon as it is answered or refused
			ctx := ForClient(t.Context(), "greedy")
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := p.Do(ctx, nil, random16); err == nil {
						got.Add(1)
					}
					time.Sleep(time.Millisecond + rand.N(time.Millisecond))
				}
			})
		}
		ctx := ForClient(t.Context(), "modest")
		var waits []time.Duration
		for range 500 {
			time.Sleep(10 * time.Millisecond)
			begun := time.Now()
			if _, err := p.Do(ctx, nil, random16); err != nil {
				t.Fatalf("the modest client was refused: %v", err)
			}
			waits = append(waits, time.Since(begun))
		}
		close(stop)
		wg.Wait()
		if greedy > 0 && got.Load() < 3000 {
			t.Errorf("the greedy client got %d operations; the member had room for more", got.Load())
		}
		slices.Sort(waits)
		p99 = waits[len(waits)*99/100]
	})
	return p99
}

func TestAGreedyClientDelaysAnotherByOneTurnOnly(t *testing.T) {
	alone, beside := modestWait(t, 0), modestWait(t, 200)
	// With every session taken by the greedy client a newcomer waits for the first to come free, at most one service time,
	// and with four of them far less on average.
	if alone != 4*time.Millisecond || beside > 8*time.Millisecond {
		t.Errorf("p99 of a modest client: %s alone, %s beside a greedy one", alone, beside)
	}
}

func TestAFullQueueMakesRoomForWhoHasLess(t *testing.T) {
	q := newQueue(8, 1)
	var dropped []string
	var gone []*job
	of := func(client string) *job {
		j := &job{client: client, class: ClassSign, done: make(chan struct{}, 1)}
		j.settled = func(err error) {
			if !errors.Is(err, errAbandoned) {
				t.Errorf("the breaker hears %v of a job that never ran", err)
			}
			dropped = append(dropped, client)
			gone = append(gone, j)
		}
		return j
	}
	for range 8 {
		if !q.push(of("a")) {
			t.Fatal("refused before the queue was full")
		}
	}
	if q.push(of("a")) || !q.full("a") {
		t.Error("the client that filled the queue was given more than the queue")
	}
	for range 4 {
		if q.full("b") || !q.push(of("b")) {
			t.Error("a client with nothing waiting was refused")
		}
	}
	if q.push(of("b")) {
		t.Error("b has half of the queue and displaced more of a")
	}
	if len(dropped) != 4 || slices.Contains(dropped, "b") || q.len() != 8 {
		t.Errorf("dropped %v, %d wait", dropped, q.len())
	}
	for _, j := range gone {
		if hsm.FaultOf(j.err) != hsm.Busy {
			t.Errorf("displaced with %v, which is not Busy", j.err)
		}
	}
	if !q.push(&job{class: ClassCanary}) {
		t.Error("the canary found no room")
	}
	if q.pop().class != ClassCanary {
		t.Error("the canary did not go first")
	}
	var order string
	for range 8 {
		order += q.pop1().client
	}
	if order != "abababab" && order != "babababa" {
		t.Errorf("served in the order %s", order)
	}
}

// pop1 is pop for a test that has one permit and never gives it back.
func (q *queue) pop1() *job {
	q.running = 0
	return q.pop()
}

func TestUrgentWorkOfAClientGoesFirst(t *testing.T) {
	q := newQueue(100, 100)
	for i, c := range []Class{ClassBulk, ClassEncrypt, ClassSign, ClassDecrypt, ClassSign} {
		q.push(&job{class: c, op: hsm.Op{Len: i}})
	}
	var got []int
	for range 5 {
		got = append(got, q.pop().op.Len)
	}
	if !slices.Equal(got, []int{3, 2, 4, 1, 0}) {
		t.Errorf("order %v", got)
	}
}

// A queue that is used at random never loses a job, never runs one twice and never forgets a client.
func TestAQueueKeepsCount(t *testing.T) {
	q := newQueue(50, 1000)
	in, out := 0, 0
	fail := func() { in-- }
	for i := range 20_000 {
		if rand.IntN(2) == 0 {
			j := &job{client: fmt.Sprint(rand.IntN(6)), class: ClassDecrypt + Class(rand.IntN(4)), done: make(chan struct{}, 1), settled: func(error) { fail() }}
			if i%5 == 0 {
				j.entered, j.patience = time.Now(), time.Microsecond
			}
			if q.push(j) {
				in++
			}
		} else if q.len() > 0 {
			q.pop1()
			out++
		}
		if i%100 == 0 {
			q.expire(func(j *job) bool { return j.impatient(time.Now()) })
		}
		n := 0
		for _, s := range q.turns {
			n += s.n
			if s.n == 0 && len(q.turns) > 1 || q.shares[s.client] != s {
				t.Fatalf("step %d: a share without work or without a name", i)
			}
		}
		if n != q.len() || n != in-out || len(q.turns) != len(q.shares) {
			t.Fatalf("step %d: %d in shares, length %d, %d unaccounted; %d turns of %d shares", i, n, q.len(), in-out, len(q.turns), len(q.shares))
		}
	}
	q.close(errors.New("closed"))
	if q.len() != 0 || in != out {
		t.Errorf("%d left after closing, %d unaccounted", q.len(), in-out)
	}
	if ClientOf(ForClient(context.Background(), "x")) != "x" || ClientOf(context.Background()) != "" {
		t.Error("a context does not tell its client")
	}
}
