//go:build linux && cgo

package reaction

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/pool"
)

// TestProfilesStayWithinTheDevicesThatAreImitated: both say where a figure comes from, so they must not contradict each other.
func TestProfilesStayWithinTheDevicesThatAreImitated(t *testing.T) {
	source, err := os.ReadFile("../faulthsm/module/device.c")
	if err != nil {
		t.Fatal(err)
	}
	profiles, err := pkcs11.Profiles()
	if err != nil {
		t.Fatal(err)
	}
	for vendor, device := range map[hsm.Vendor]string{
		hsm.VendorLuna: "luna-a790", hsm.VendorCloudHSM: "cloudhsm-hsm2m", hsm.VendorYubiHSM: "yubihsm2", hsm.VendorTPM: "tpm",
	} {
		entry := regexp.MustCompile(`(?s)\.name = "` + device + `".*?\n\t\}`).FindString(string(source))
		if entry == "" {
			t.Fatalf("no device %s", device)
		}
		figure := func(name string) int {
			m := regexp.MustCompile(`\.` + name + ` = (\d+)`).FindStringSubmatch(entry)
			if m == nil {
				return 0
			}
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		for _, p := range profiles {
			if p.Vendor != vendor {
				continue
			}
			for what, n := range map[string]int{"sessions": p.MaxSessions, "objects": p.MaxObjects, "opens": p.OpenPerSecond} {
				if d := figure(what); d > 0 && (n == 0 || n > d) {
					t.Errorf("%s: %d %s in the profile, %d in the device", vendor, n, what, d)
				}
			}
			if d := figure("servers"); p.Concurrency > 0 && p.Concurrency != d {
				t.Errorf("%s: best at %d at once in the profile, at %d in the device", vendor, p.Concurrency, d)
			}
			if d := figure("linger"); d > 0 && p.IdleTimeout != time.Duration(d)*time.Second {
				t.Errorf("%s: sessions expire after %s in the profile, after %d s in the device", vendor, p.IdleTimeout, d)
			}
		}
	}
}

// TestAnOperatorsProfileIsUsed: a token that no profile of the program knows, with one from a file.
func TestAnOperatorsProfileIsUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acme.yaml")
	text := `vendor: acme
limits:
  sessions: {is: 3, source: invented for this test, measured: false}
  objects: {is: 2, source: invented for this test, measured: false}
  largest_message: {is: 29, source: one byte less than the message, measured: false}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	both(t, setup{sessions: 9, profile: file}, func(r *rig) {
		r.prefer("mac")
		if s := r.stat("a"); s.Sessions != 2 { // and one that keeps the login
			r.Errorf("%d sessions, want 2", s.Sessions)
		}
		for _, ask := range []string{"sign", "other", "mac"} {
			if by, err := r.do(ask); by != "a" || err != nil {
				r.Errorf("%s: answered by %q, %v", ask, by, err)
			}
		}
		if s := r.stat("a"); s.Handles != 2 || s.Evictions == 0 {
			r.Errorf("%d keys are loaded, %d were evicted; want 2 and some", s.Handles, s.Evictions)
		}
		calls := r.calls("C_EncryptInit")
		if by, err := r.do("encrypt"); by != "b" || err != nil {
			r.Errorf("a message that is too long for the token: answered by %q, %v", by, err)
		}
		if r.calls("C_EncryptInit") != calls {
			r.Error("the token was asked all the same")
		}
	})
}

// TestAProfileThatCannotBeReadKeepsAMemberOut.
func TestAProfileThatCannotBeReadKeepsAMemberOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acme.yaml")
	if err := os.WriteFile(file, []byte("vendor: acme\nlimts: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	both(t, setup{refused: true, profile: file}, func(r *rig) {
		r.until("the operator is told", func() bool { return r.log.count("line 2: limts: there is no such field here") > 0 })
		if s := r.stat("a"); s.State != pool.Joining {
			r.Errorf("a is %s", s.State)
		}
	})
}
