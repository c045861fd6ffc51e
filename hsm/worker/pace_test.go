package worker

import (
	"slices"
	"testing"
	"time"
)

func TestProcessorsFollowTheCostOfCalls(t *testing.T) {
	var got []int
	p := &pace{usual: 8, set: func(n int) { got = append(got, n) }}
	calls := func(n int, d time.Duration) {
		for range n {
			p.spent(d)
		}
	}
	calls(10*paceEvery, 100*time.Microsecond) // neither fast nor slow: as it was
	calls(paceEvery-1, 10*time.Microsecond)   // not for long enough
	calls(3*paceEvery, 10*time.Microsecond)
	calls(3*paceEvery, 100*time.Microsecond)
	calls(3*paceEvery, time.Millisecond)
	if !slices.Equal(got, []int{2, 8}) {
		t.Errorf("set to %v, want 2 of 8 once calls are fast and 8 again when they are slow", got)
	}
	got = nil
	p = &pace{usual: 1, set: func(n int) { got = append(got, n) }}
	calls(paceEvery, time.Microsecond)
	if !slices.Equal(got, []int{1}) {
		t.Errorf("on one processor: %v", got)
	}
}
