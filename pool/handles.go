package pool

import (
	"container/list"
	"fmt"
	"sync"
	"sync/atomic"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// handles caches the handles of one generation of a member: exact, bounded,
// pinned while in use. It dies with its generation, so a handle of an earlier login can never be used.
//
// The bound holds for the token, which may have no room for more: who loads a key first takes a place, and waits for one while all
// are taken by keys that others are using. Those have what they need and come to an end, so the wait does too.
type handles struct {
	limit     int
	kekID     []byte
	loads     *atomic.Uint64
	evictions *atomic.Uint64

	kek atomic.Uint64 // the KEK's handle, 0 for none

	mu    sync.Mutex // guards what follows; never held during a call to the token
	byID  map[key.ID]*entry
	order list.List // of *entry, least recently used first; those in use stand in it as well
	taken int       // places: of entries that are loaded or being loaded, until their objects are destroyed
	freed sync.Cond // a place, or an entry that has one, has come free
}

// entry is one loaded key. It is pinned while users > 0.
type entry struct {
	id       key.ID
	handle   hsm.Handle
	resident bool
	owner    hsm.Session // session objects die with the session that made them
	users    int
	dropped  bool // no longer in the cache; destroyed by the last user
	gone     bool // its object is no more: the handle may name another by now
	ready    chan struct{}
	err      error
	element  *list.Element
	// verified: a signature of this handle was checked with the key's public half.
	verified atomic.Bool
}

func newHandles(limit int, kekID []byte, kek hsm.Handle, loads, evictions *atomic.Uint64) *handles {
	h := &handles{limit: max(1, limit), kekID: kekID, loads: loads, evictions: evictions, byID: map[key.ID]*entry{}}
	h.freed.L = &h.mu
	h.kek.Store(uint64(kek))
	return h
}

// acquire returns the entry of k, pinned, loading it with sess when it is not there. Several
// callers that want the same key wait for one load. lost is why sess is of no more use, when it was the one to load.
func (h *handles) acquire(k *Key, sess hsm.Session) (_ *entry, lost, err error) {
	h.mu.Lock()
	if e := h.byID[k.ID]; e != nil {
		e.users++
		h.order.MoveToBack(e.element)
		h.mu.Unlock()
		<-e.ready
		if e.err != nil {
			h.release(e, sess)
			return nil, nil, e.err
		}
		return e, nil, nil
	}
	e := &entry{id: k.ID, users: 1, owner: sess, ready: make(chan struct{})}
	h.byID[k.ID] = e
	e.element = h.order.PushBack(e)
	victim := h.place()
	h.mu.Unlock()
	if victim != nil {
		h.destroy(victim, sess)
	}
	e.handle, e.err = h.load(k, sess, e)
	if e.err != nil {
		h.drop(e)
	} else {
		h.loads.Add(1)
	}
	close(e.ready)
	if e.err != nil {
		h.release(e, sess)
		return nil, sessionLost(e.err), e.err
	}
	return e, nil, nil
}

// place takes a place, waiting until there is one. When it is another entry's, that is returned, to be destroyed first.
func (h *handles) place() *entry {
	for h.taken >= h.limit {
		if victim := h.oldest(); victim != nil {
			return victim
		}
		h.freed.Wait()
	}
	h.taken++
	return nil
}

// oldest takes the least recently used entry that nobody uses out of the cache; nil when all are in use.
func (h *handles) oldest() *entry {
	for el := h.order.Front(); el != nil; el = el.Next() {
		if e := el.Value.(*entry); e.users == 0 {
			h.remove(e)
			h.evictions.Add(1)
			return e
		}
	}
	return nil
}

// leave gives a place back.
func (h *handles) leave() {
	h.taken--
	h.freed.Signal()
}

func (h *handles) remove(e *entry) {
	if !e.dropped {
		e.dropped = true
		delete(h.byID, e.id)
		h.order.Remove(e.element)
	}
}

func (h *handles) load(k *Key, sess hsm.Session, e *entry) (_ hsm.Handle, err error) {
	defer caught(&err)
	if k.Blob == nil {
		e.resident = true
		return sess.Find(k.Spec.ObjectClass(), k.ID[:])
	}
	keeper, ok := sess.(hsm.Keeper)
	if !ok {
		return 0, fmt.Errorf("%w: loading wrapped keys", hsm.ErrUnsupported)
	}
	kek := hsm.Handle(h.kek.Load())
	if kek == 0 {
		return 0, fmt.Errorf("%w: the member has no pool KEK", hsm.ErrNotFound)
	}
	s := k.Spec
	s.ID, s.Token, s.Extractable = k.ID[:], false, false
	loaded, err := keeper.UnwrapKey(kek, k.Wrap, k.Blob, s)
	if hsm.FaultOf(err) != hsm.Stale {
		return loaded, err
	}
	// Handles of token objects may change too, when a token was away for a moment.
	again, lost := sess.Find(hsm.ClassSecret, h.kekID)
	if lost != nil || again == kek {
		return 0, err
	}
	h.kek.Store(uint64(again))
	return keeper.UnwrapKey(again, k.Wrap, k.Blob, s)
}

// release unpins e; the last user of a dropped entry destroys its object.
func (h *handles) release(e *entry, sess hsm.Session) {
	h.mu.Lock()
	e.users--
	last, gone := e.dropped && e.users == 0, e.gone
	if !last && e.users == 0 {
		h.freed.Signal() // whoever waits may have this one's place
	}
	h.mu.Unlock()
	if last {
		if !gone {
			h.destroy(e, sess)
		}
		h.mu.Lock()
		h.leave()
		h.mu.Unlock()
	}
}

// drop takes e out of the cache, because its handle proved to be no good.
func (h *handles) drop(e *entry) {
	h.mu.Lock()
	h.remove(e)
	h.mu.Unlock()
}

// orphan drops everything that died with session sess.
func (h *handles) orphan(sess hsm.Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for el := h.order.Front(); el != nil; {
		next := el.Next()
		if e := el.Value.(*entry); e.owner == sess && !e.resident {
			e.gone = true
			h.remove(e)
			if e.users == 0 {
				h.leave()
			}
		}
		el = next
	}
}

// destroy removes the object from the token. A failure only costs room there until the login ends.
func (h *handles) destroy(e *entry, sess hsm.Session) {
	if keeper, ok := sess.(hsm.Keeper); ok && e.handle != 0 && !e.resident {
		_ = keeper.Destroy(e.handle)
	}
}

func (h *handles) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.byID)
}
