package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

// outbox is the jobs of a store, for one leader.
type outbox struct {
	t *testing.T
	s lifecycle.Store
	l lifecycle.Lease
}

func newOutbox(t *testing.T, s lifecycle.Store) *outbox {
	t.Helper()
	l, err := acquire(s, "leader", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &outbox{t, s, l}
}

func (o *outbox) put(target, kind string, notBefore time.Time) (id int64) {
	o.t.Helper()
	update(o.t, o.s, func(tx lifecycle.Tx) (err error) {
		id, err = tx.InsertJob(lifecycle.NewJob{Target: target, Kind: kind, Payload: []byte("payload of " + kind), NotBefore: notBefore})
		return err
	})
	return id
}

func (o *outbox) claim(n int, d time.Duration) (jobs []lifecycle.Job) {
	o.t.Helper()
	update(o.t, o.s, func(tx lifecycle.Tx) (err error) { jobs, err = tx.ClaimJobs(o.l, n, d); return err })
	return jobs
}

// claims claims everything that there is, which must be of these kinds.
func (o *outbox) claims(kinds ...string) map[string]lifecycle.Job {
	o.t.Helper()
	got, out := []string{}, map[string]lifecycle.Job{}
	for _, j := range o.claim(100, time.Hour) {
		got = append(got, j.Kind)
		out[j.Kind] = j
		if j.State != lifecycle.JobClaimed || string(j.Payload) != "payload of "+j.Kind || j.Created.IsZero() {
			o.t.Errorf("a claimed job is %+v", j)
		}
	}
	if !slices.Equal(got, kinds) {
		o.t.Errorf("claimed %v, want %v", got, kinds)
	}
	return out
}

func (o *outbox) finish(j lifecycle.Job, r lifecycle.JobResult, after time.Duration) {
	o.t.Helper()
	update(o.t, o.s, func(tx lifecycle.Tx) error {
		return tx.FinishJob(o.l, j, lifecycle.JobOutcome{Result: r, After: after, Said: "said"})
	})
}

func jobs(t *testing.T, a, b lifecycle.Store) {
	o := newOutbox(t, a)
	for _, kind := range []string{"a1", "a2", "a3", "b1"} {
		o.put(kind[:1], kind, time.Time{})
	}
	o.put("c", "tomorrow", time.Now().Add(24*time.Hour))
	o.put("c", "after-tomorrow", time.Time{})
	boom := errors.New("boom")
	err := a.Update(context.Background(), func(tx lifecycle.Tx) error {
		_, err := tx.InsertJob(lifecycle.NewJob{Target: "d", Kind: "never"})
		return errors.Join(err, boom)
	})
	if !errors.Is(err, boom) {
		t.Errorf("%v", err)
	}

	got := o.claims("a1", "b1") // the first of each target, and nothing that is not due
	o.claims()
	o.finish(got["a1"], lifecycle.JobSucceeded, 0)
	got = o.claims("a2")
	o.finish(got["a2"], lifecycle.JobFailed, time.Hour)
	o.claims() // a3 waits for a2
	for _, s := range []struct {
		state lifecycle.JobState
		kinds []string
	}{{lifecycle.JobDone, []string{"a1"}}, {lifecycle.JobWaiting, []string{"a2", "a3", "tomorrow", "after-tomorrow"}}, {lifecycle.JobClaimed, []string{"b1"}}, {lifecycle.JobDead, nil}} {
		view(t, b, func(tx lifecycle.Tx) error {
			all, err := tx.Jobs(s.state, 0, 100)
			var kinds []string
			for _, j := range all {
				kinds = append(kinds, j.Kind)
				if (s.state == lifecycle.JobDone) == j.Finished.IsZero() {
					t.Errorf("%s finished at %s", j.Kind, j.Finished)
				}
				if j.Kind == "a2" && (j.Said != "said" || j.Attempts != 1 || j.Unknown || time.Until(j.NotBefore) < 59*time.Minute) {
					t.Errorf("a2 is %+v", j)
				}
			}
			if !slices.Equal(kinds, s.kinds) {
				t.Errorf("%s: %v, want %v", s.state, kinds, s.kinds)
			}
			return err
		})
	}
}

func unclear(t *testing.T, a, _ lifecycle.Store) {
	ctx := context.Background()
	o := newOutbox(t, a)
	o.put("a", "a1", time.Time{})
	o.put("a", "a2", time.Time{})
	j := o.claims("a1")["a1"]
	o.finish(j, lifecycle.JobUnclear, 0)
	time.Sleep(2 * time.Millisecond)
	again := o.claims("a1")["a1"]
	if !again.Unknown || again.Attempts != 2 {
		t.Errorf("after an unknown outcome: %+v", again)
	}
	if err := a.Update(ctx, func(tx lifecycle.Tx) error {
		return tx.FinishJob(o.l, j, lifecycle.JobOutcome{Result: lifecycle.JobSucceeded})
	}); !errors.Is(err, lifecycle.ErrClaimLost) {
		t.Errorf("finishing the attempt before: %v", err)
	}
	o.finish(again, lifecycle.JobFailed, 0)
	time.Sleep(2 * time.Millisecond)
	again = o.claims("a1")["a1"]
	if again.Unknown {
		t.Error("an outcome that is known now is unknown still")
	}
	o.finish(again, lifecycle.JobGivenUp, 0)
	two := o.claims("a2")["a2"] // a dead job does not hold up its target
	var dead []lifecycle.Job
	view(t, a, func(tx lifecycle.Tx) (err error) { dead, err = tx.Jobs(lifecycle.JobDead, 0, 10); return err })
	if len(dead) != 1 || dead[0].Kind != "a1" || dead[0].Said != "said" || dead[0].Finished.IsZero() {
		t.Fatalf("dead: %+v", dead)
	}
	update(t, a, func(tx lifecycle.Tx) error { return tx.ReviveJob(dead[0].ID) })
	o.claims() // while a2 is under way
	o.finish(two, lifecycle.JobSucceeded, 0)
	o.finish(o.claims("a1")["a1"], lifecycle.JobSucceeded, 0)
	for name, f := range map[string]func(lifecycle.Tx) error{
		"reviving what is done": func(tx lifecycle.Tx) error { return tx.ReviveJob(dead[0].ID) },
		"no result":             func(tx lifecycle.Tx) error { return tx.FinishJob(o.l, two, lifecycle.JobOutcome{}) },
	} {
		if err := a.Update(ctx, f); !errors.Is(err, key.ErrNotFound) && !errors.Is(err, lifecycle.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// crashed: a job whose claimer is gone is claimed again when its claim has run out, as one of unknown outcome; the claimer, should he come
// back, cannot finish it.
func crashed(t *testing.T, a, _ lifecycle.Store) {
	o := newOutbox(t, a)
	o.put("a", "a1", time.Time{})
	first := o.claim(1, 100*time.Millisecond)
	if len(first) != 1 {
		t.Fatal("nothing to claim")
	}
	o.claims()
	time.Sleep(150 * time.Millisecond)
	second := o.claims("a1")["a1"]
	if !second.Unknown || second.Attempts != 2 {
		t.Errorf("after a crash: %+v", second)
	}
	err := a.Update(context.Background(), func(tx lifecycle.Tx) error {
		return tx.FinishJob(o.l, first[0], lifecycle.JobOutcome{Result: lifecycle.JobSucceeded})
	})
	if !errors.Is(err, lifecycle.ErrClaimLost) {
		t.Errorf("the first claimer finishes it: %v", err)
	}
	o.finish(second, lifecycle.JobSucceeded, 0)
}

// fencedJobs: who has lost the lease neither claims nor finishes.
func fencedJobs(t *testing.T, a, b lifecycle.Store) {
	ctx := context.Background()
	o := newOutbox(t, a)
	o.put("a", "a1", time.Time{})
	o.put("b", "b1", time.Time{})
	j := o.claim(1, time.Hour)[0]
	update(t, a, func(tx lifecycle.Tx) error { return tx.ReleaseLease(o.l) })
	if _, err := acquire(b, "another", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := a.Update(ctx, func(tx lifecycle.Tx) error { _, err := tx.ClaimJobs(o.l, 10, time.Hour); return err }); !errors.Is(err, lifecycle.ErrLeaseLost) {
		t.Errorf("claiming: %v", err)
	}
	if err := a.Update(ctx, func(tx lifecycle.Tx) error {
		return tx.FinishJob(o.l, j, lifecycle.JobOutcome{Result: lifecycle.JobSucceeded})
	}); !errors.Is(err, lifecycle.ErrLeaseLost) {
		t.Errorf("finishing: %v", err)
	}
}

// claimers: of many who claim at once, each job goes to one, and those of a target go one after the other, in their order.
func claimers(t *testing.T, a, b lifecycle.Store) {
	const targets, each = 6, 8
	o := newOutbox(t, a)
	update(t, a, func(tx lifecycle.Tx) error {
		for i := range each {
			for n := range targets {
				if _, err := tx.InsertJob(lifecycle.NewJob{Target: fmt.Sprint("t", n), Kind: fmt.Sprint(i)}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	var mu sync.Mutex
	running, seen, done := map[string]bool{}, map[string][]string{}, 0
	at(t, 4, func(i int) error {
		s := []lifecycle.Store{a, b}[i%2]
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			var got []lifecycle.Job
			err := s.Update(context.Background(), func(tx lifecycle.Tx) (err error) { got, err = tx.ClaimJobs(o.l, 2, time.Hour); return err })
			if err != nil {
				return err
			}
			mu.Lock()
			all := done == targets*each
			for _, j := range got {
				if running[j.Target] {
					t.Errorf("two jobs of %s run at once", j.Target)
				}
				running[j.Target] = true
				seen[j.Target] = append(seen[j.Target], j.Kind)
			}
			mu.Unlock()
			if all {
				return nil
			}
			for _, j := range got {
				mu.Lock()
				running[j.Target] = false
				done++
				mu.Unlock()
				err := s.Update(context.Background(), func(tx lifecycle.Tx) error {
					return tx.FinishJob(o.l, j, lifecycle.JobOutcome{Result: lifecycle.JobSucceeded})
				})
				if err != nil {
					return err
				}
			}
		}
		return errors.New("the jobs do not come to an end")
	})
	var want []string
	for i := range each {
		want = append(want, fmt.Sprint(i))
	}
	for n := range targets {
		if got := seen[fmt.Sprint("t", n)]; !slices.Equal(got, want) {
			t.Errorf("the jobs of t%d ran in the order %v", n, got)
		}
	}
}
