package main

import "slices"

// spread is what several rounds gave for one figure.
type spread struct{ median, min, max float64 }

// spreadOf returns the spread of values, zeros of none. With an even number the median is the mean of the two in the middle.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{median: (v[(n-1)/2] + v[n/2]) / 2, min: v[0], max: v[n-1]}
}
