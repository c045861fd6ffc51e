//go:build linux

package main

import (
	"context"
	"math/rand/v2"
)

// question is one kind of request. ask sends one and returns nil when the answer is right.
type question struct {
	name   string
	weight int
	// eddsa: only members whose token has Ed25519 can answer it.
	eddsa bool
	ask   func(*asker, context.Context, *rand.Rand) error
}

// questions are the mixture. The last ones are callers' mistakes, which have a right answer too.
var questions = []question{
	{"sign ec", 20, false, (*asker).signEC},
	{"sign rsa", 8, false, (*asker).signRSA},
	{"sign ed25519", 4, true, (*asker).signEd},
	{"wrap", 12, false, (*asker).wrap},
	{"unwrap", 12, false, (*asker).unwrap},
	{"encrypt", 6, false, (*asker).encrypt},
	{"decrypt", 10, false, (*asker).decrypt},
	{"mac", 10, false, (*asker).mac},
	{"verify mac", 4, false, (*asker).verifyMAC},
	{"random", 6, false, (*asker).random},
	{"bad ciphertext", 4, false, (*asker).badCiphertext},
	{"bad mac", 2, false, (*asker).badMAC},
	{"bad request", 2, false, (*asker).badRequest},
}

// chooser picks questions by weight.
type chooser struct {
	all   []question
	total int
}

func newChooser(all []question) chooser {
	c := chooser{all: all}
	for _, q := range all {
		c.total += q.weight
	}
	return c
}

func (c *chooser) pick(r *rand.Rand) *question {
	n := r.IntN(c.total)
	for i := range c.all {
		if n -= c.all[i].weight; n < 0 {
			return &c.all[i]
		}
	}
	panic("chaos: weights do not add up")
}
