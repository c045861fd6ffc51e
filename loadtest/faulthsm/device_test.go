//go:build linux && cgo

package faulthsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
)

func TestDevices(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	ec, macKey := r.generate(s, signSpec), r.generate(s, macSpec)
	sign := func() *hsm.Op {
		return &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, Key: ec, In: make([]byte, 32)}
	}
	// Times of one P-256 signature, and of one HMAC-SHA256, as published; 0: none is.
	for name, c := range map[string]struct{ ec, mac time.Duration }{
		"luna-a790":       {1500 * time.Microsecond, 0},
		"cloudhsm-hsm2m":  {6666 * time.Microsecond, 0},
		"yubihsm2":        {73 * time.Millisecond, 4 * time.Millisecond},
		"tpm":             {1, 1}, // by chance
		"yubihsm2 scaled": {7300 * time.Microsecond, 400 * time.Microsecond},
	} {
		d := Device{Name: name}
		if n, scaled := strings.CutSuffix(name, " scaled"); scaled {
			d = Device{n, 0.1}
		}
		if name == "tpm" {
			d.Scale = 0.01
		}
		r.add(d)
		for _, op := range []struct {
			*hsm.Op
			least time.Duration
		}{{sign(), c.ec}, {mac(macKey), c.mac}} {
			fired := r.item("device").Fired
			took := took(func() {
				if err := s.Do(op.Op); err != nil || op.Err != nil {
					t.Fatal(err, op.Err)
				}
			})
			if took < op.least {
				t.Errorf("%s, %s: took %s, want at least %s", name, op.Mech.Type, took, op.least)
			}
			if waited := r.item("device").Fired > fired; waited != (op.least > 0) {
				t.Errorf("%s, %s: waited: %t", name, op.Mech.Type, waited)
			}
		}
		r.remove("device")
	}
	if !slices.Contains(deviceNames(t), "tpm") {
		t.Error("the language does not tell the devices' names")
	}
}

// deviceNames asks the checker, whose error names them.
func deviceNames(t *testing.T) []string {
	t.Helper()
	answers := newLint(t, lintPath(t))
	answer := answers.ask("device none")
	_, list, ok := strings.Cut(answer, "write one of ")
	if !ok {
		t.Fatal(answer)
	}
	names := strings.Split(list, ", ")
	for _, n := range names {
		if !strings.HasPrefix(answers.ask(fmt.Sprint(Device{n, 2})), "ok\n") {
			t.Errorf("device %s is not understood", n)
		}
	}
	return names
}
