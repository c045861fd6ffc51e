package hsm

import (
	"reflect"
	"strings"
	"testing"
)

// The examples of RFC 7512, section 3, which folds them over lines; those that Keyway refuses are in the next test.
func TestParseURIReadsTheExamplesOfTheRFC(t *testing.T) {
	f := func(s string, want URI) {
		t.Helper()
		got, err := ParseURI(s)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", s, got, err, want)
			return
		}
		if again, err := ParseURI(got.String()); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s was written as %s, which is %+v, %v", s, got, again, err)
		}
	}
	f("pkcs11:", URI{})
	f("pkcs11:object=my-pubkey;type=public", URI{Object: "my-pubkey", Type: "public"})
	f("pkcs11:object=my-key;type=private?pin-source=file:/etc/token", URI{Object: "my-key", Type: "private", PINFile: "/etc/token"})
	f("pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;"+
		"id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
		URI{Token: "The Software PKCS#11 Softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Object: "my-certificate", Type: "cert",
			ID: []byte("\x69\x95\x3e\x5c\xf4\xbd\xec\x91"), Empty: []string{"serial"}, PINFile: "/etc/token_pin"})
	f("pkcs11:object=my-sign-key;type=private?module-name=mypkcs11", URI{Object: "my-sign-key", Type: "private", ModuleName: "mypkcs11"})
	f("pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1", URI{Object: "my-sign-key", Type: "private", ModulePath: "/mnt/libmypkcs11.so.1"})
	f("pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
		URI{LibraryManufacturer: "Snake Oil, Inc.", LibraryDescription: "Soft Token Library", LibraryVersion: "1.23"})
	f("pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
		URI{Token: "My token% created by Joe", LibraryVersion: "3", ID: []byte("\x01\x02\x03\xba\xdd\xca\xfe\x04\x05\x06")})
	f("pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
		URI{Token: "A name with a substring %;", Object: "my-certificate", Type: "cert"})
	f("pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
		URI{Token: "Name with a small A with acute: á", Object: "my-certificate", Type: "cert"})

	// What the grammar allows beside.
	f("PKCS11:token=:[]@!$'()*+,=&-._~", URI{Token: ":[]@!$'()*+,=&-._~"})
	f("pkcs11:?module-path=/a/b?c|d:[]@!$'()*+,=&vendor-x=1&vendor-x=2&other=3", URI{ModulePath: "/a/b?c|d:[]@!$'()*+,="})
	f("pkcs11:id=", URI{Empty: []string{"id"}})
	f("pkcs11:id=plain%00", URI{ID: []byte("plain\x00")})
	f("pkcs11:token=;manufacturer=", URI{Empty: []string{"manufacturer", "token"}})
	f("pkcs11:?", URI{})
	f("pkcs11:type=secret-key", URI{Type: "secret-key"})
	f("pkcs11:?pin-source=/etc/pin", URI{PINFile: "/etc/pin"})
	f("pkcs11:?pin-source=file:///etc/my%2520pin", URI{PINFile: "/etc/my pin"})
	f("pkcs11:?pin-source=file://localhost/etc/pin", URI{PINFile: "/etc/pin"})
	f("pkcs11:?pin-source=file:////etc/pin", URI{PINFile: "//etc/pin"})
	f("pkcs11:?pin-source=/etc/a%2525%2526b", URI{PINFile: "/etc/a%25%26b"})
}

func TestParseURISaysWhatItRefuses(t *testing.T) {
	f := func(s string, words ...string) {
		t.Helper()
		u, err := ParseURI(s)
		if err == nil || !reflect.DeepEqual(u, URI{}) {
			t.Errorf("%s: %+v, %v", s, u, err)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", s, err, w)
			}
		}
	}
	// Two more of the RFC's examples.
	f("pkcs11:slot-description=Sun%20Metaslot", "slot-description", "name the token by token or serial")
	f("pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a?pin-source=file:/etc/token_pin&vendor-bbb=value-b", "vendor-aaa", "leave it out")
	f("pkcs11:slot-id=327", "slot-id", "anew at each start")
	f("pkcs11:slot-manufacturer=x", "slot-manufacturer")

	f("", "pkcs11:")
	f("http:token=a", "pkcs11:")
	f("token=a", "pkcs11:")
	f("pkcs11:token", "attribute 1")
	f("pkcs11:token=a;", "attribute 2")
	f("pkcs11:=a", "attribute 1")
	f("pkcs11:to ken=a", "attribute 1")
	f("pkcs11:token=a;token=a", "token is given twice")
	f("pkcs11:id=%01;id=%01", "id is given twice")
	f("pkcs11:?module-path=/a&module-path=/a", "module-path is given twice")
	f("pkcs11:token=a b", "token", "percent-encoded", "byte 2")
	f("pkcs11:token=a\x10", "token", "percent-encoded")
	f("pkcs11:token=a/b", "percent-encoded")
	f("pkcs11:token=a#b", "percent-encoded")
	f("pkcs11:token=a|b", "percent-encoded")
	f("pkcs11:?module-path=/a b", "module-path")
	f("pkcs11:?module-path=/a;b", "module-path")
	for _, s := range []string{"%", "%1", "%G0", "%0g", "%\x10\x11", "%%30"} {
		f("pkcs11:token="+s, "hexadecimal")
	}
	f("pkcs11:token=%FF", "UTF-8")
	f("pkcs11:token=a%00", "NUL")
	f("pkcs11:type=key", "secret-key")
	f("pkcs11:type=", "secret-key")
	for _, s := range []string{"", "1.", ".1", "1.2.3", "a"} {
		f("pkcs11:library-version="+s, "library-version")
	}
	f("pkcs11:?module-path=", "module-path is empty")
	f("pkcs11:?pin-source=", "pin-source is empty")
	f("pkcs11:?pin-source=|/usr/lib/pinomatic", "runs none")
	f("pkcs11:?pin-source=etc/pin", "absolute path")
	f("pkcs11:?pin-source=file:etc/pin", "absolute path")
	f("pkcs11:?pin-source=https://example.org/pin", "absolute path")
	f("pkcs11:?pin-source=file://elsewhere/etc/pin", "another machine")
	f("pkcs11:?pin-source=file://", "another machine")
	f("pkcs11:?pin-source=file:/etc/%25zz", "pin-source")
	f("pkcs11:?pin-source=file:/etc/%2500", "pin-source")
	f("pkcs11:?pin-source=file:/etc/%25FF", "pin-source")
}

// A PIN in a URI is refused wherever it stands, before anything else is looked at, and never repeated.
func TestParseURIRefusesAPIN(t *testing.T) {
	f := func(s string) {
		t.Helper()
		_, err := ParseURI(s)
		if err == nil || !strings.Contains(err.Error(), "pin-value is refused") || !strings.Contains(err.Error(), "pin-source=file:") {
			t.Errorf("%s: %v", s, err)
		} else if strings.Contains(err.Error(), "the-pin") {
			t.Errorf("%s: the PIN is in the error: %v", s, err)
		}
	}
	f("pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin") // the RFC's
	f("pkcs11:pin-value=the-pin")
	f("pkcs11:the-pin=1;pin-value=the-pin")
	f("pkcs11:token=\x00?the-pin&pin-value=the-pin")
	f("pkcs11:? PIN-Value =the-pin")
	f("pkcs11:?pin-value")
	f("pkcs11:?module-path=/a?pin-value=the-pin")
	f("pkcs11:?pin-source=file:/a&pin-value=the-pin")
	if _, err := ParseURI("pkcs11:?pin%2Dvalue=the-pin"); err == nil || strings.Contains(err.Error(), "the-pin") {
		t.Errorf("an encoded name: %v", err)
	}
	if u, err := ParseURI("pkcs11:object=pin-value"); err != nil || u.Object != "pin-value" {
		t.Errorf("an object of that name: %+v, %v", u, err)
	}
}

// FuzzURI: what can be read and is written again is read as the same; nothing panics; no PIN comes back.
func FuzzURI(f *testing.F) {
	for _, s := range []string{
		"pkcs11:", "pkcs11:token=%41;id=%00%ff;serial=?module-path=/a&pin-source=file:/b%2525", "pkcs11:?pin-value=12345678",
		"pkcs11:type=cert;library-version=1.2", "pkcs11:?pin-source=file://localhost//x&v=1", "pkcs11:pin-value=%31234;slot-id=3",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		for _, before := range []string{";", "?", "&"} {
			if strings.HasPrefix(s, "pkcs11:") && strings.Contains(s, before+"pin-value=") && err != errPINValue {
				t.Fatalf("%q: %v", s, err) // any other error could hold a part of it
			}
		}
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || !reflect.DeepEqual(again, u) {
			t.Fatalf("%q is %+v, written as %q, which is %+v, %v", s, u, u, again, err)
		}
	})
}
