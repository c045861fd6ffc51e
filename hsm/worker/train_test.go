//go:build linux

package worker

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
)

// gate is a connection whose writes wait until they may pass, and are noted.
type gate struct {
	net.Conn
	begun chan struct{} // a write has come
	pass  chan struct{} // one may go on

	mu    sync.Mutex
	sizes []int
}

func (g *gate) Write(b []byte) (int, error) {
	g.begun <- struct{}{}
	<-g.pass
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sizes = append(g.sizes, len(b))
	return len(b), nil
}

// Questions that come while the connection is busy wait for nothing but that, and go together in one write.
func TestWhatWaitsTogetherTravelsTogether(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	g := &gate{Conn: near, begun: make(chan struct{}, 20), pass: make(chan struct{}, 20)}
	l := newLink(g)
	ping := &answer{head: head{verb: verbPing}}
	one := len(ping.append(nil))
	ended := make(chan error, 10)
	go func() { ended <- send(l, ping, false) }()
	<-g.begun
	var wg sync.WaitGroup
	for range 9 { // the writer takes them along: none of them waits
		wg.Go(func() { ended <- send(l, ping, false) })
	}
	waited := make(chan struct{})
	go func() {
		wg.Wait()
		close(waited)
	}()
	select {
	case <-waited:
	case <-time.After(10 * time.Second):
		t.Error("who sends while another one writes has to wait")
	}
	for range 20 {
		g.pass <- struct{}{}
	}
	for range 10 {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	l.close(hsm.ErrClosed)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.sizes, []int{one, 9 * one}) {
		t.Errorf("writes of %d bytes, want one of %d and one of %d", g.sizes, one, 9*one)
	}
}

// An answer returns when it is there: a call that came earlier and takes long does not hold it up.
func TestAnswersReturnOneByOne(t *testing.T) {
	w := spawn(t, config(t, "echo", echoParams{}))
	slow, fast := openSession(t, w), openSession(t, w)
	ended := make(chan error, 1)
	go func() {
		ended <- slow.Do(&hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: []byte("sleep 1s")}})
	}()
	for w.busy.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	op := hsm.Op{Kind: hsm.OpSign, In: []byte("x")}
	for range 20 {
		if err := fast.Do(&op); err != nil || op.Err != nil {
			t.Fatal(err, op.Err)
		}
	}
	select {
	case <-ended:
		t.Error("the answers that were there waited for one that was not")
	default:
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
