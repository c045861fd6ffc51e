package pkcs11

import (
	"testing"

	"keyway/hsm"
)

func TestProfileIsChosenByWhatTheTokenSays(t *testing.T) {
	f := func(v hsm.Vendor, manufacturer, model, library string, want hsm.Vendor) {
		t.Helper()
		if got := profileFor(v, manufacturer, model, library).Vendor; got != want {
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
