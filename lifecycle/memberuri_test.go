package lifecycle

import (
	"reflect"
	"strings"
	"testing"
)

const memberURI = "pkcs11:token=keys%20of%20a;serial=42;manufacturer=SoftHSM%20project;model=SoftHSM%20v2?module-path=/usr/lib/libsofthsm2.so&pin-source=file:/etc/pin"

func TestAMembersURIBecomesItsFields(t *testing.T) {
	want := MemberRecord{
		Name: "a", Driver: "pkcs11", URI: memberURI, Module: "/usr/lib/libsofthsm2.so", TokenLabel: "keys of a", TokenSerial: "42",
		TokenManufacturer: "SoftHSM project", TokenModel: "SoftHSM v2", PINFile: "/etc/pin",
	}
	f := func(r MemberRecord, want MemberRecord) {
		t.Helper()
		for range 2 { // a record that has been stored is checked again
			if err := r.Check(); err != nil || !reflect.DeepEqual(r, want) {
				t.Fatalf("%+v, %v\nwant %+v", r, err, want)
			}
		}
	}
	f(MemberRecord{Name: "a", URI: memberURI}, want)
	f(want, want)
	rest := MemberRecord{Name: "a", Driver: "pkcs11", Module: "/opt/libCryptoki2_64.so", PINFile: "/pin"}
	rest.URI = "pkcs11:serial=42?module-name=cryptoki2_64"
	want = rest
	want.TokenSerial = "42"
	f(rest, want)
}

func TestAMembersURIAndItsFieldsMustAgree(t *testing.T) {
	f := func(r MemberRecord, words ...string) {
		t.Helper()
		r.Name = "a"
		err := r.Check()
		if err == nil {
			t.Errorf("%+v was accepted", r)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: %q does not say %q", r, err, w)
			}
		}
	}
	f(MemberRecord{URI: memberURI, TokenLabel: "other"}, `uri: its token is "keys of a" and token_label is "other"`)
	f(MemberRecord{URI: memberURI, TokenSerial: "43"}, "serial", "token_serial")
	f(MemberRecord{URI: memberURI, Module: "/other.so"}, "module-path", "module is")
	f(MemberRecord{URI: memberURI, PINFile: "/other"}, "pin-source", "pin_file")
	f(MemberRecord{URI: memberURI, TokenModel: "other"}, "model", "token_model")
	f(MemberRecord{URI: memberURI, TokenManufacturer: "other"}, "manufacturer", "token_manufacturer")
	f(MemberRecord{URI: memberURI, Driver: "soft"}, `driver is "soft"`)
	f(MemberRecord{URI: memberURI + "&module-name=luna"}, "module-name", "luna")
	f(MemberRecord{URI: "pkcs11:token=a?module-name=softhsm2&pin-source=/pin"}, "module-path")
	f(MemberRecord{URI: "pkcs11:token=a;object=k" + "?module-path=/a.so&pin-source=/pin"}, "whole token")
	f(MemberRecord{URI: "pkcs11:token=a;library-version=3?module-path=/a.so&pin-source=/pin"}, "library-version")
	f(MemberRecord{URI: "pkcs11:token=a;serial=?module-path=/a.so&pin-source=/pin"}, "serial without a value")
	f(MemberRecord{URI: "pkcs11:?module-path=/a.so&pin-source=/pin"}, "token_label or token_serial")
	f(MemberRecord{URI: "pkcs11:token=a?module-path=a.so&pin-source=/pin"}, "absolute")
	f(MemberRecord{URI: "pkcs11:slot-id=1"}, "uri: pkcs11 URI: slot-id")
	r := MemberRecord{Name: "a", URI: "pkcs11:token=a?module-path=/a.so&pin-value=the-pin"}
	if err := r.Check(); err == nil || strings.Contains(err.Error(), "the-pin") || !strings.Contains(err.Error(), "pin-value is refused") {
		t.Errorf("a PIN in the URI: %v", err)
	}
}
