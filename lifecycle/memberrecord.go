package lifecycle

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"

	"keyway/lifecycle/key"
)

// Check writes what r.URI says into r's other fields and returns an error that names every field that is wrong.
func (r *MemberRecord) Check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if err := key.CheckName(r.Name); err != nil {
		bad("name: %w", err)
	}
	if r.URI != "" {
		errs = append(errs, r.expandURI()...)
	}
	switch r.Driver {
	case "pkcs11":
		if !filepath.IsAbs(r.Module) {
			bad("module: give the absolute path of the PKCS#11 library, not %q", r.Module)
		}
		if r.TokenLabel == "" && r.TokenSerial == "" {
			bad("token_label or token_serial: say which token of the library it is")
		}
		if r.Profile != "" && !filepath.IsAbs(r.Profile) {
			bad("profile: give the absolute path of the vendor profile's file, not %q", r.Profile)
		}
	case "soft":
		if r.Profile != "" {
			bad("profile: the embedded token has none")
		}
		if !filepath.IsAbs(r.TokenDir) {
			bad("token_dir: give the absolute path of the embedded token's directory, not %q", r.TokenDir)
		}
	default:
		bad("driver: use pkcs11 or soft, not %q", r.Driver)
	}
	if !filepath.IsAbs(r.PINFile) {
		bad("pin_file: give the absolute path of a file with the PIN, not %q", r.PINFile)
	}
	if r.Isolation != "" && r.Isolation != "worker" && r.Isolation != "none" {
		bad("isolation: use worker or none, not %q", r.Isolation)
	}
	if r.Sessions < 0 || r.Queue < 0 || r.Handles < 0 || r.MaxMemory < 0 {
		bad("sessions, queue, handles and max_memory must not be negative")
	}
	return errors.Join(errs...)
}

// settings is r as it is compared: less what becomes of a member, and with one spelling for what means the same.
func (r MemberRecord) settings() MemberRecord {
	r.Drained, r.Latched, r.Clears = false, "", 0
	if r.Isolation == "worker" {
		r.Isolation = ""
	}
	if len(r.Env) == 0 {
		r.Env = nil
	}
	if r.URI != "" {
		_ = r.expandURI() // a stored record has been checked
		r.URI = ""
	}
	return r
}

// differences names the settings in which a and b differ, as JSON has them.
func differences(a, b MemberRecord) (names []string) {
	va, vb := reflect.ValueOf(a.settings()), reflect.ValueOf(b.settings())
	for i := range va.NumField() {
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			name, _, _ := strings.Cut(va.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}
