package lifecycle

import (
	"fmt"
	"path/filepath"
	"strings"

	"keyway/hsm"
)

// expandURI writes what r.URI says into the fields that say the same, and returns what is wrong with it. A field that
// says otherwise already is an error, so that nobody has to know which of the two counts.
func (r *MemberRecord) expandURI() (errs []error) {
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("uri: "+format, a...)) }
	u, err := hsm.ParseURI(r.URI)
	if err != nil {
		bad("%w", err)
		return errs
	}
	if r.Driver == "" {
		r.Driver = "pkcs11"
	}
	if r.Driver != "pkcs11" {
		bad("it names a PKCS#11 token, and the driver is %q", r.Driver)
	}
	for _, f := range []struct {
		attribute, value, name string
		field                  *string
	}{
		{"module-path", u.ModulePath, "module", &r.Module},
		{"token", u.Token, "token_label", &r.TokenLabel},
		{"serial", u.Serial, "token_serial", &r.TokenSerial},
		{"manufacturer", u.Manufacturer, "token_manufacturer", &r.TokenManufacturer},
		{"model", u.Model, "token_model", &r.TokenModel},
		{"pin-source", u.PINFile, "pin_file", &r.PINFile},
	} {
		switch {
		case f.value == "" || f.value == *f.field:
		case *f.field == "":
			*f.field = f.value
		default:
			bad("its %s is %q and %s is %q: leave one of them out", f.attribute, f.value, f.name, *f.field)
		}
	}
	if u.ModuleName != "" && r.Module == "" {
		bad("libraries are not searched for by module-name: give their module-path, or module")
	} else if u.ModuleName != "" && !strings.EqualFold(u.ModuleName, moduleName(r.Module)) {
		bad("its module-name is %q and the library is %s: leave one of them out", u.ModuleName, r.Module)
	}
	if len(u.Empty) > 0 {
		bad("%s without a value fits only a token that has none: give the value, or leave it out", strings.Join(u.Empty, ", "))
	}
	if u.Object != "" || len(u.ID) > 0 || u.Type != "" {
		bad("object, id and type name an object, and a member is a whole token: leave them out")
	}
	if u.LibraryManufacturer != "" || u.LibraryDescription != "" || u.LibraryVersion != "" {
		bad("the library is named by module-path: leave library-manufacturer, library-description and library-version out")
	}
	return errs
}

// moduleName is a library's name as module-name has it: without directory, "lib", and everything from the first dot on.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".")
	return strings.TrimPrefix(name, "lib")
}
