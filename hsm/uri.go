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
