package hsm

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// URI names a token, and perhaps an object on it, in the words of RFC 7512, for instance
// "pkcs11:token=keys;serial=42?module-path=/usr/lib/libx.so&pin-source=file:/etc/pin". A zero field says nothing.
//
// It holds no PIN: one written into a URI (pin-value) is refused.
type URI struct {
	// Token, Manufacturer, Serial and Model are what the token says of itself (CK_TOKEN_INFO).
	Token, Manufacturer, Serial, Model string
	// LibraryManufacturer, LibraryDescription and LibraryVersion are what the library says of itself (CK_INFO).
	LibraryManufacturer, LibraryDescription, LibraryVersion string
	// Object is the object's CKA_LABEL, ID its CKA_ID, and Type its class: "public", "private", "cert", "secret-key" or "data".
	Object string
	ID     []byte
	Type   string
	// Empty names the attributes that are there without a value, which fit only what has none.
	Empty []string
	// ModuleName is a library's name without prefix and extension, ModulePath where it is.
	ModuleName, ModulePath string
	// PINFile is the absolute path of the file that pin-source names.
	PINFile string
}

// errPINValue never says what was refused.
var errPINValue = errors.New("pkcs11 URI: pin-value is refused: a PIN in a URI gets into process lists, shell histories and logs; " +
	"change that PIN, put it into a file that only its owner can read, and write pin-source=file:/path")

// uriAttribute is an attribute whose value is text, of the path or of the query.
type uriAttribute struct {
	name  string
	value func(*URI) *string
	query bool
}

// uriAttributes is in the order in which they are written.
var uriAttributes = []uriAttribute{
	{"token", func(u *URI) *string { return &u.Token }, false},
	{"manufacturer", func(u *URI) *string { return &u.Manufacturer }, false},
	{"serial", func(u *URI) *string { return &u.Serial }, false},
	{"model", func(u *URI) *string { return &u.Model }, false},
	{"library-manufacturer", func(u *URI) *string { return &u.LibraryManufacturer }, false},
	{"library-description", func(u *URI) *string { return &u.LibraryDescription }, false},
	{"library-version", func(u *URI) *string { return &u.LibraryVersion }, false},
	{"object", func(u *URI) *string { return &u.Object }, false},
	{"type", func(u *URI) *string { return &u.Type }, false},
	{"module-name", func(u *URI) *string { return &u.ModuleName }, true},
	{"module-path", func(u *URI) *string { return &u.ModulePath }, true},
}

// uriTypes are what type may say.
var uriTypes = []string{"public", "private", "cert", "secret-key", "data"}

// ParseURI reads a URI of RFC 7512. An unknown attribute of the path is an error, since it asks for something
// that nobody would look at; one of the query is ignored (section 2.5). slot-id and its like are refused, because slots
// are numbered anew at each start. No error quotes a value.
func ParseURI(s string) (URI, error) {
	var u URI
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !strings.EqualFold(scheme, "pkcs11") {
		return u, errors.New("pkcs11 URI: it must begin with \"pkcs11:\"")
	}
	// First of all, so that no other complaint can quote a part of it.
	for piece := range strings.FieldsFuncSeq(rest, func(r rune) bool { return r == ';' || r == '?' || r == '&' }) {
		if name, _, _ := strings.Cut(piece, "="); strings.EqualFold(strings.TrimSpace(name), "pin-value") {
			return u, errPINValue
		}
	}
	path, query, _ := strings.Cut(rest, "?")
	seen := map[string]bool{}
	err := eachAttribute(path, ';', func(name, raw string) error {
		v, err := decode(name, raw, pathOpen)
		if err != nil {
			return err
		}
		return u.setPath(name, v, seen)
	})
	if err == nil {
		err = eachAttribute(query, '&', func(name, raw string) error {
			v, err := decode(name, raw, queryOpen)
			if err != nil {
				return err
			}
			return u.setQuery(name, v, seen)
		})
	}
	if err != nil {
		return URI{}, fmt.Errorf("pkcs11 URI: %w", err)
	}
	slices.Sort(u.Empty)
	return u, nil
}

// eachAttribute calls f with the name and the encoded value of each attribute.
func eachAttribute(s string, by byte, f func(name, raw string) error) error {
	if s == "" {
		return nil
	}
	for i, piece := range strings.Split(s, string(by)) {
		name, raw, ok := strings.Cut(piece, "=")
		if !ok || !attributeName(name) {
			return fmt.Errorf("attribute %d between %q is not of the form name=value", i+1, by)
		}
		if err := f(name, raw); err != nil {
			return err
		}
	}
	return nil
}

func attributeName(s string) bool {
	for _, c := range []byte(s) {
		if !alphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

func (u *URI) setPath(name string, v []byte, seen map[string]bool) error {
	if seen[name] {
		return fmt.Errorf("%s is given twice", name)
	}
	seen[name] = true
	switch name {
	case "slot-id", "slot-description", "slot-manufacturer":
		return fmt.Errorf("%s is refused: slots are numbered and filled anew at each start; name the token by token or serial", name)
	case "id":
		if u.ID = v; len(v) == 0 {
			u.ID = nil
			u.Empty = append(u.Empty, name)
		}
		return nil
	}
	for _, a := range uriAttributes {
		if a.name != name || a.query {
			continue
		}
		if err := checkText(name, v); err != nil {
			return err
		}
		if *a.value(u) = string(v); len(v) == 0 {
			u.Empty = append(u.Empty, name)
		}
		return u.checkWords(name)
	}
	return fmt.Errorf("%s is no attribute of the path that Keyway knows, and what it asks for would go unchecked: leave it out", name)
}

// checkWords refuses values that the grammar does not have.
func (u *URI) checkWords(name string) error {
	switch name {
	case "type":
		if !slices.Contains(uriTypes, u.Type) {
			return fmt.Errorf("type is one of %s", strings.Join(uriTypes, ", "))
		}
	case "library-version":
		major, minor, dotted := strings.Cut(u.LibraryVersion, ".")
		if !digits(major) || dotted && !digits(minor) {
			return errors.New("library-version is a number or two with a dot between them")
		}
	}
	return nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func (u *URI) setQuery(name string, v []byte, seen map[string]bool) error {
	known := name == "pin-source"
	for _, a := range uriAttributes {
		if a.name == name && a.query {
			known, *a.value(u) = true, string(v)
		}
	}
	if !known {
		return nil // the RFC's 2.5 has them ignored
	}
	if seen[name] {
		return fmt.Errorf("%s is given twice", name)
	}
	seen[name] = true
	if len(v) == 0 {
		return fmt.Errorf("%s is empty", name)
	}
	if err := checkText(name, v); err != nil {
		return err
	}
	if name != "pin-source" {
		return nil
	}
	var err error
	u.PINFile, err = pinFile(string(v))
	return err
}

// pinFile is the path that a pin-source names: itself a URI of the scheme file, or a path.
func pinFile(source string) (string, error) {
	path, isURI := strings.CutPrefix(source, "file:")
	if isURI {
		if host, ok := strings.CutPrefix(path, "//"); ok {
			at := strings.IndexByte(host, '/')
			if at < 0 || at > 0 && host[:at] != "localhost" {
				return "", errors.New("pin-source names a file of another machine")
			}
			path = host[at:]
		}
		var err error
		if path, err = url.PathUnescape(path); err != nil || strings.ContainsRune(path, 0) {
			return "", errors.New("pin-source has a broken percent-encoding inside its file: URI")
		}
	}
	switch {
	case strings.HasPrefix(source, "|"):
		return "", errors.New("pin-source names a program, and Keyway runs none for a PIN: write the PIN into a file")
	case !filepath.IsAbs(path) || !utf8.ValidString(path):
		return "", errors.New("pin-source must name a file by its absolute path, as file:/path")
	}
	return path, nil
}

func checkText(name string, v []byte) error {
	if !utf8.Valid(v) {
		return fmt.Errorf("%s is not UTF-8", name)
	}
	if bytes.IndexByte(v, 0) >= 0 {
		return fmt.Errorf("%s holds a NUL", name)
	}
	return nil
}

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
