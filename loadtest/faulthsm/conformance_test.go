//go:build linux && cgo

package faulthsm

import (
	"context"
	"fmt"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/hsm/pkcs11"
)

// TestConformance: a token behind the module, with nothing in force, is a token.
func TestConformance(t *testing.T) {
	for name, make := range map[string]func(testing.TB) *rig{"softhsm": softHSM, "nss": nss} {
		t.Run(name, func(t *testing.T) {
			r := make(t)
			_ = r.tok.Close()
			hsmtest.TestToken(t, func(t testing.TB) hsm.Token {
				t.Helper()
				tok, err := pkcs11.Open(context.Background(), r.cfg)
				if err != nil {
					t.Fatal(err)
				}
				return tok
			})
			if st := r.status(); st.Altered != 0 || st.SessionObjects != 0 || st.Sessions != 0 {
				t.Errorf("%d answers were altered; %d sessions and %d objects are still counted", st.Altered, st.Sessions, st.SessionObjects)
			}
		})
	}
}

// BenchmarkOverhead is what the module costs a call. An operation of two calls (C_SignInit and C_Sign of an HMAC) is done in turns on the bare
// token and behind the module; the quickest turns are compared, which other programs on the machine have not disturbed. "nothing": no
// statement in force; "other": a rule for another function; "fits": one that fits the calls and does nothing.
func BenchmarkOverhead(b *testing.B) {
	for name, make := range map[string]func(testing.TB) *rig{"softhsm": softHSM, "nss": nss} {
		r := make(b)
		_ = r.tok.Close()
		bare := r.cfg
		bare.Module = r.status().Module
		for _, c := range []struct {
			name string
			rule *Rule
		}{
			{"nothing", nil},
			{"other", &Rule{ID: "other", On: []string{"C_Verify"}, Do: []Effect{Hang()}}},
			{"fits", &Rule{ID: "fits", On: []string{"C_Sign", "C_SignInit"}, Every: 1 << 40, Do: []Effect{Hang()}}},
		} {
			b.Run(fmt.Sprint(name, "/", c.name), func(b *testing.B) {
				const turn = 200
				var quickest [2]time.Duration
				var turns [2]func()
				for i, cfg := range []pkcs11.Config{bare, r.cfg} {
					tok, err := pkcs11.Open(context.Background(), cfg)
					if err != nil {
						b.Fatal(err)
					}
					defer tok.Close()
					s := sessionOf(b, tok)
					op := mac(r.generate(s, macSpec))
					turns[i] = func() {
						for range turn {
							if err := s.Do(op); err != nil || op.Err != nil {
								b.Fatal(err, op.Err)
							}
						}
					}
				}
				if c.rule != nil {
					r.add(*c.rule)
					defer r.remove(c.rule.ID)
				}
				for b.Loop() {
					for i, f := range turns {
						if d := took(f); quickest[i] == 0 || d < quickest[i] {
							quickest[i] = d
						}
					}
				}
				b.ReportMetric(float64(quickest[0].Nanoseconds())/turn/2, "bare-ns/call")
				b.ReportMetric(float64((quickest[1]-quickest[0]).Nanoseconds())/turn/2, "added-ns/call")
			})
		}
	}
}
