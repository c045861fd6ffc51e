package key

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2031, 5, 6, 12, 0, 0, 0, time.UTC)

func TestEffectiveIsTheStateMovedByTheDates(t *testing.T) {
	h := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	dated := Version{NotBefore: h(1), OriginatorEnd: h(2), RecipientEnd: h(3)}
	f := func(s State, at time.Time, want State, processes bool) {
		t.Helper()
		v := dated
		v.State = s
		if got := v.Effective(at); got != want || v.Processes(at) != processes {
			t.Errorf("%s at %s: %s, processes=%v; want %s, %v", s, at.Format(time.TimeOnly), got, v.Processes(at), want, processes)
		}
	}
	f(Active, h(0), PreActive, false)
	f(Active, h(1), Active, true)
	f(Active, h(2).Add(-1), Active, true)
	f(Active, h(2), Deactivated, true)
	f(Active, h(3), Deactivated, false)
	f(PreActive, h(1), PreActive, false) // a date does not activate
	f(Suspended, h(1), Suspended, false)
	f(Suspended, h(2), Suspended, false) // nor lift a suspension
	f(Deactivated, h(0), Deactivated, false)
	f(Deactivated, h(1), Deactivated, true)
	f(Compromised, h(2), Compromised, true)
	f(Compromised, h(3), Compromised, false)
	f(Destroyed, h(1), Destroyed, false)
	f(DestroyedCompromised, h(1), DestroyedCompromised, false)
	onlyRecipient := Version{State: Active, Usages: Sign, RecipientEnd: h(3)}
	if got := onlyRecipient.Effective(h(3)); got != Deactivated {
		t.Errorf("past its recipient end and without another: %s", got)
	}
}

// While a version is suspended nothing is done with it by either half, so nothing protected meanwhile is processed.
func TestSuspendedDoesNothingAtAnyTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		date := func(name string) time.Time {
			if n := rapid.IntRange(-3, 3).Draw(t, name); n != 0 {
				return noon.Add(time.Duration(n) * time.Hour)
			}
			return time.Time{}
		}
		v := Version{Name: "k", Number: 1, State: Suspended, Usages: Originator | Recipient, NotBefore: date("not before"), OriginatorEnd: date("originator end"), RecipientEnd: date("recipient end")}
		u := Usage(1 << rapid.IntRange(0, 7).Draw(t, "usage"))
		now := noon.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "now")) * time.Hour)
		if err := v.Permits(u, now); !errors.Is(err, ErrState) {
			t.Fatalf("%s of a suspended version: %v", u, err)
		}
	})
}

func TestKindsSayWhatEndsAndHow(t *testing.T) {
	f := func(k Kind, s State, want State) {
		t.Helper()
		got, err := NextOf(k, s, Destroy)
		if got != want || (err == nil) != (want != 0) || err != nil && !errors.Is(err, ErrTransition) {
			t.Errorf("destroy of a %s key that is %s: %v, %v; want %v", k, s, got, err, want)
		}
	}
	for _, k := range []Kind{KindMaster, KindRBG} {
		f(k, Active, Destroyed)
		f(k, Suspended, Destroyed)
		f(k, Deactivated, Destroyed)
		f(k, Compromised, DestroyedCompromised)
	}
	for _, k := range []Kind{KindSignature, KindAuthentication, KindMAC, KindEncryption, KindWrapping, KindTransport, 0, KindRBG + 1} {
		f(k, Active, 0)
		f(k, Suspended, 0)
		f(k, Deactivated, Destroyed)
	}
	for _, r := range Kinds() {
		if r.Originator > r.OriginatorMax || (r.PublicEnds != 0) != r.Asymmetric {
			t.Errorf("%s: default %s of at most %s, public half %s", r.Kind, r.Originator, r.OriginatorMax, r.PublicEnds)
		}
	}
	for _, a := range Algorithms() {
		if len(KindsOf(a.Algorithm, a.Default)) == 0 {
			t.Errorf("%s with its default usages is of no kind", a.Algorithm)
		}
	}
}

func TestPrivateHalfOfASigningPairEndsBeforeThePublicOne(t *testing.T) {
	f := func(a Algorithm, u Usage, s State, want bool) {
		t.Helper()
		v := Version{Algorithm: a, Usages: u, State: s, OriginatorEnd: noon, Blob: []byte{1}}
		if got := v.EraseDue(noon); got != want {
			t.Errorf("%s for %s, %s: %v, want %v", a, u, s, got, want)
		}
		if s == Active && v.EraseDue(noon.Add(-1)) {
			t.Errorf("%s for %s: due before the end", a, u)
		}
		v.Blob = nil
		if v.EraseDue(noon) {
			t.Errorf("%s for %s: due though it is erased", a, u)
		}
	}
	f(ECP256, Sign|Verify, Active, true)
	f(Ed25519, Sign, Deactivated, true)
	f(RSA2048, Sign|Verify, Deactivated, true)
	f(RSA2048, Sign|Verify|Decrypt, Deactivated, false)
	f(RSA2048, Decrypt, Deactivated, false)
	f(AES256, Encrypt|Decrypt, Deactivated, false)
	f(HMACSHA256, MAC, Deactivated, false)
	f(ECP256, Sign|Verify, Suspended, false)
	f(ECP256, 0, Deactivated, false)
}
