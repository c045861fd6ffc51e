package main

import (
	"math"
	"math/bits"
	"time"
)

// A histogram has subBuckets buckets for each power of two of nanoseconds, so a
// percentile is at most one part in subBuckets too high. It holds up to 2^maxBits ns, which is 18 minutes.
const (
	subBits    = 6
	subBuckets = 1 << subBits
	maxBits    = 40
)

// histogram counts durations. The zero value is empty. It is not safe for concurrent use: every caller fills
// its own, and they are merged.
type histogram struct {
	counts [(maxBits - subBits + 1) * subBuckets]uint32
	n      uint64
	max    time.Duration
}

// bucketOf returns the bucket of d. Values below subBuckets ns have a bucket each.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return min((shift+1)*subBuckets+int(v>>shift)-subBuckets, len(histogram{}.counts)-1)
}

// highest returns the largest duration of bucket i.
func highest(i int) time.Duration {
	if i < subBuckets {
		return time.Duration(i)
	}
	shift := i/subBuckets - 1
	return time.Duration((uint64(i%subBuckets+subBuckets)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// percentile returns the smallest duration that at least p percent of the counted ones do not exceed, rounded up to
// the end of its bucket, 0 of an empty histogram.
func (h *histogram) percentile(p float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(p*float64(h.n)/100)), 1) // multiplied first: 99.9 % of 10,000 is no more than 9,990
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank {
			return min(highest(i), h.max)
		}
	}
	return h.max
}
