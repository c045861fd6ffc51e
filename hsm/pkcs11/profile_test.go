package pkcs11

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
)

// TestTheProfilesAreWhatTheirFilesSay: the drivers' behaviour hangs on these values, so each change of a file is made here too.
func TestTheProfilesAreWhatTheirFilesSay(t *testing.T) {
	want := map[hsm.Vendor]Profile{
		hsm.VendorSoftHSM: {
			Manufacturers: []string{"SoftHSM"}, Models: []string{"SoftHSM"}, Broken: []hsm.MechanismType{0x210A}, OAEPHashes: []hsm.Hash{hsm.SHA1},
			SerialGenerate: true, FindAlone: true, ClearWrap: []hsm.KeyType{hsm.KeyEd25519}, TrustsKeyTypes: true,
		},
		hsm.VendorNSS: {
			Manufacturers: []string{"Mozilla"}, Models: []string{"NSS 3"}, Libraries: []string{"NSS Internal"},
			LargestSecret: 256, WrapsAnything: true, ECNeedsPoint: true, WrapWholeOnly: true, TrustsKeyTypes: true,
		},
		hsm.VendorLuna: {
			Manufacturers: []string{"SafeNet", "Thales", "Gemalto"}, Models: []string{"LunaSA", "Luna "}, MaxSessions: 128, Concurrency: 30,
			SlowestCall: 20 * time.Second,
		},
		hsm.VendorNShield: {Manufacturers: []string{"nCipher"}, Libraries: []string{"nCipher", "nShield"}},
		hsm.VendorCloudHSM: {
			Manufacturers: []string{"Cavium", "Marvell", "CloudHSM"}, Libraries: []string{"CloudHSM"},
			MaxSessions: 1024, OpenPerSecond: 10, MaxObjects: 3000, TokenIV: true, LargestMessage: 16384,
		},
		hsm.VendorYubiHSM: {
			Manufacturers: []string{"Yubico"}, Models: []string{"YubiHSM"}, MaxSessions: 16, OpenPerSecond: 10, MaxObjects: 128, IdleTimeout: 30 * time.Second,
		},
		hsm.VendorTPM:    {Libraries: []string{"tpm2-pkcs11", "tpm2-software"}, Models: []string{"TPM"}, MaxSessions: 4},
		hsm.VendorNetHSM: {Manufacturers: []string{"Nitrokey"}, Models: []string{"NetHSM"}, Libraries: []string{"Nitrokey"}},
	}
	all, err := Profiles()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(want) {
		t.Errorf("%d profiles, want %d", len(all), len(want))
	}
	for _, p := range all {
		w, ok := want[p.Vendor]
		w.Vendor = p.Vendor
		if !ok || !reflect.DeepEqual(p, w) {
			t.Errorf("profile %s is\n%+v, want\n%+v", p.Vendor, p, w)
		}
	}
}

// TestAMistakeInAProfileIsToldWithItsLine, and nothing of the file is used.
func TestAMistakeInAProfileIsToldWithItsLine(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "acme.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := ReadProfile(file)
		if len(want) == 0 {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if err == nil || !reflect.DeepEqual(p, Profile{}) {
			t.Fatalf("%q was read as %+v", text, p)
		}
		for _, w := range append(want, file) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v\nlacks %q", text, err, w)
			}
		}
	}
	const figure = "\n    source: their manual, page 7\n    measured: false\n"
	f("vendor: acme\n")
	f("vendor: acme\nlimits:\n  sessions:\n    is: 7" + figure)
	f("", "line 1: vendor: give the vendor's name")
	f("vendor: ACME Corp\n", "line 1: vendor:")
	f("vendor: acme\nlimit:\n  sessions: 1\n", "line 2: limit: there is no such field here")
	f("vendor: acme\nlimits:\n  sesions:\n    is: 7"+figure, "line 3: sesions: there is no such field here")
	f("vendor: acme\nlimits:\n  sessions:\n    is: 7\n    measured: true\n", "line 3: limits.sessions: say source")
	f("vendor: acme\nlimits:\n  sessions:\n    is: 7\n    source: x\n", "line 3: limits.sessions: say measured")
	f("vendor: acme\nlimits:\n  sessions:\n    source: x\n    measured: true\n", "line 3: limits.sessions: say is")
	f("vendor: acme\nlimits:\n  sessions:\n    is: -1"+figure, "line 4: limits.sessions: must be above 0")
	f("vendor: acme\nlimits:\n  sessions:\n    is: 0"+figure, "line 4: limits.sessions: must be above 0")
	f("vendor: acme\nlimits:\n  idle_timeout:\n    is: -5s"+figure, "line 4: limits.idle_timeout: must be above 0")
	f("vendor: acme\nlimits:\n  sessions: 7\n", "line 3", "limits.sessions: say is")
	f("vendor: acme\nlimits:\n  sessions:\n    is: many"+figure, "line 4: `many`: this is no value of that field")
	f("vendor: acme\nbehaviour:\n  oaep_hashes:\n    is: [md5]"+figure, "line 3: behaviour.oaep_hashes: use each of sha1")
	f("vendor: acme\nbehaviour:\n  clear_wrap:\n    is: [dsa]"+figure, "line 3: behaviour.clear_wrap: use aes")
	f("vendor: acme\n  nonsense: [\n", "syntax")
	f("vendor: Acme\nlimits:\n  sesions:\n    is: 1"+figure, "2 thing(s)", "line 1", "line 3") // all at once
	if _, err := ReadProfile(filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestProfileIsChosenByWhatTheTokenSays(t *testing.T) {
	f := func(v hsm.Vendor, manufacturer, model, library string, want hsm.Vendor) {
		t.Helper()
		p, err := profileFor(v, manufacturer, model, library)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Vendor; got != want {
			t.Errorf("profileFor(%q, %q, %q, %q) = %q, want %q", v, manufacturer, model, library, got, want)
		}
	}
	f("", "SoftHSM project", "SoftHSM v2", "SoftHSM Implementation of PKCS11", hsm.VendorSoftHSM)
	f("", "Mozilla Foundation", "NSS 3", "NSS Internal Crypto Services", hsm.VendorNSS)
	f("", "SafeNet", "LunaSA 7.4.0", "Chrystoki", hsm.VendorLuna)
	f("", "nCipher Corp. Ltd", "", "nCipher PKCS#11 13.4.5", hsm.VendorNShield)
	f("", "Yubico (www.yubico.com)", "YubiHSM", "", hsm.VendorYubiHSM)
	f("", "Nitrokey GmbH", "NetHSM", "", hsm.VendorNetHSM)
	f("", "IBM", "SW TPM", "tpm2-software.github.io TPM2.0 Cryptoki", hsm.VendorTPM)
	f("", "Somebody", "Something", "Else", hsm.VendorGeneric)
	f(hsm.VendorLuna, "SoftHSM project", "SoftHSM v2", "", hsm.VendorLuna)
	f("homemade", "SoftHSM project", "SoftHSM v2", "", "homemade")
}

func TestSessionLimitLeavesRoomForTheLogin(t *testing.T) {
	const unavailable = ^uint64(0)
	f := func(profile int, all, rw uint64, want int) {
		t.Helper()
		if got := (&Profile{MaxSessions: profile}).sessions(all, rw); got != want {
			t.Errorf("sessions(%d, %d) with %d in the profile = %d, want %d", all, rw, profile, got, want)
		}
	}
	f(0, 0, 0, 0)
	f(0, unavailable, unavailable, 0)
	f(16, unavailable, 0, 15)
	f(16, 10, 8, 7)
	f(0, 1, 0, 1)
}
