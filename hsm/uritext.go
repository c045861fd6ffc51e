package hsm

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// The characters that need no encoding beside letters, digits and "-._~".
const (
	bothOpen  = ":[]@!$'()*+,="
	pathOpen  = bothOpen + "&"
	queryOpen = bothOpen + "/?|"
)

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func clearChar(c byte, open string) bool {
	return alphanumeric(c) || strings.IndexByte("-._~", c) >= 0 || strings.IndexByte(open, c) >= 0
}

// decode undoes the percent-encoding of a value and refuses what should have been encoded.
func decode(name, raw, open string) ([]byte, error) {
	v := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			if i+2 >= len(raw) || unhex(raw[i+1]) < 0 || unhex(raw[i+2]) < 0 {
				return nil, fmt.Errorf("%s has a %% that two hexadecimal digits do not follow", name)
			}
			c = byte(unhex(raw[i+1])<<4 | unhex(raw[i+2]))
			i += 2
		} else if !clearChar(c, open) {
			return nil, fmt.Errorf("%s has a character that must be percent-encoded, at byte %d of its value", name, i+1)
		}
		v = append(v, c)
	}
	return v, nil
}

// unhex is the value of a hexadecimal digit, -1 when c is none.
func unhex(c byte) int {
	if 'A' <= c && c <= 'F' {
		c += 'a' - 'A'
	}
	return strings.IndexByte("0123456789abcdef", c)
}

// String writes the URI; [ParseURI] reads the same from it.
func (u URI) String() string {
	b := []byte("pkcs11:")
	add := func(sep byte, name, value, open string) {
		if b[len(b)-1] != ':' && b[len(b)-1] != '?' {
			b = append(b, sep)
		}
		b = append(append(b, name...), '=')
		b = encode(b, value, open)
	}
	for _, a := range uriAttributes {
		if v := *a.value(&u); !a.query && (v != "" || slices.Contains(u.Empty, a.name)) {
			add(';', a.name, v, pathOpen)
		}
	}
	if len(u.ID) > 0 || slices.Contains(u.Empty, "id") {
		add(';', "id", "", "")
		for _, c := range u.ID { // all of it, as the RFC's 2.3 advises
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	at := len(b)
	b = append(b, '?')
	for _, a := range uriAttributes {
		if v := *a.value(&u); a.query && v != "" {
			add('&', a.name, v, queryOpen)
		}
	}
	if u.PINFile != "" {
		scheme := "file:"
		if strings.HasPrefix(u.PINFile, "//") {
			scheme = "file://" // else the path would begin like the name of a machine
		}
		add('&', "pin-source", scheme+(&url.URL{Path: u.PINFile}).EscapedPath(), queryOpen)
	}
	if len(b) == at+1 {
		b = b[:at]
	}
	return string(b)
}

func encode(b []byte, v, open string) []byte {
	for _, c := range []byte(v) {
		if clearChar(c, open) {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	return b
}
