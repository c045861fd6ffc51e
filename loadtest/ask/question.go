package ask

import (
	"context"
	"math/rand/v2"
)

// Question is one kind of request; ask sends one and returns nil when the answer is right.
type Question struct {
	Name   string
	weight int
	// EdDSA: only members whose token has Ed25519 can answer it.
	EdDSA bool
	ask   func(*Asker, context.Context, *rand.Rand) error
}

// Questions are the mixture. The last ones are callers' mistakes, which have a right answer too.
var Questions = []Question{
	{"sign ec", 20, false, (*Asker).signEC},
	{"sign rsa", 8, false, (*Asker).signRSA},
	{"sign ed25519", 4, true, (*Asker).signEd},
	{"wrap", 12, false, (*Asker).wrap},
	{"unwrap", 12, false, (*Asker).unwrap},
	{"encrypt", 6, false, (*Asker).encrypt},
	{"decrypt", 10, false, (*Asker).decrypt},
	{"mac", 10, false, (*Asker).mac},
	{"verify mac", 4, false, (*Asker).verifyMAC},
	{"random", 6, false, (*Asker).random},
	{"bad ciphertext", 4, false, (*Asker).badCiphertext},
	{"bad mac", 2, false, (*Asker).badMAC},
	{"bad request", 2, false, (*Asker).badRequest},
}

// chooser picks Questions by weight.
type chooser struct {
	all   []Question
	total int
}

func newChooser(all []Question) chooser {
	c := chooser{all: all}
	for _, q := range all {
		c.total += q.weight
	}
	return c
}

func (c *chooser) pick(r *rand.Rand) *Question {
	n := r.IntN(c.total)
	for i := range c.all {
		if n -= c.all[i].weight; n < 0 {
			return &c.all[i]
		}
	}
	panic("ask: weights do not add up")
}
