//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

// #include <stdlib.h>
import "C"

// library is a loaded and initialised module, by both of our ways into it.
type library struct {
	functions
	ctx  *pkcs11.Ctx
	path string
}

// openLibrary loads the module and initialises it unless that has been done in this process.
func openLibrary(module, initArgs string) (*library, error) {
	// The same library by two paths would be two copies of its state in our minds and one in its own.
	path, err := filepath.EvalSymlinks(module)
	if err != nil {
		return nil, fmt.Errorf("PKCS#11 module %s not found: %w; install the vendor's client software (SoftHSM: apt-get install softhsm2) or correct the path", module, err)
	}
	f, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("PKCS#11 module %s cannot be loaded: %w; install the vendor's client software complete and for this system's architecture", module, err)
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("PKCS#11 module %s cannot be loaded a second time", module)
	}
	var opts []pkcs11.InitializeOption
	if initArgs != "" {
		// Never freed: a library may keep the pointer.
		opts = append(opts, pkcs11.InitializeWithReserved(unsafe.Pointer(C.CString(initArgs))))
	}
	err = fault(ctx.Initialize(opts...), hsm.FnInitialize, "")
	if hsm.CodeOf(err) == hsm.CryptokiInitialized {
		err = nil // somebody in this process has called it before
	}
	if err != nil {
		hint := ""
		if initArgs == "" && hsm.CodeOf(err) == hsm.ArgumentsBad {
			hint = "; NSS needs an argument like configdir='/path'"
		}
		return nil, fmt.Errorf("PKCS#11 module %s does not start: %w%s", module, err, hint)
	}
	return &library{f, ctx, path}, nil
}

// fault turns an error of miekg/pkcs11 into ours.
func fault(err error, fn hsm.Function, v hsm.Vendor) error {
	if err == nil {
		return nil
	}
	var e pkcs11.Error
	if errors.As(err, &e) {
		return &hsm.Error{Code: hsm.Code(e), Function: fn, Vendor: v}
	}
	return fmt.Errorf("%s: %w", fn, err)
}

// fits compares what is wanted, if anything, with what a token says, which is padded with blanks.
func fits(want, got string) bool { return want == "" || want == strings.TrimRight(got, " \x00") }

// slotOf finds the token by what the Config says of it, and tells what there is when it is not there.
func (l *library) slotOf(c *Config) (uint, pkcs11.TokenInfo, error) {
	slots, err := l.ctx.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("listing the slots of %s: %w", c.Module, fault(err, hsm.FnOther, c.Vendor))
	}
	var at []uint
	var info pkcs11.TokenInfo
	var present []string
	for _, s := range slots {
		i, err := l.ctx.GetTokenInfo(s)
		if err != nil || i.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		present = append(present, fmt.Sprintf("%q (serial %s, %s %s)", i.Label, i.SerialNumber, i.ManufacturerID, i.Model))
		if fits(c.TokenLabel, i.Label) && fits(c.TokenSerial, i.SerialNumber) && fits(c.TokenManufacturer, i.ManufacturerID) && fits(c.TokenModel, i.Model) {
			at, info = append(at, s), i
		}
	}
	switch len(at) {
	case 1:
		return at[0], info, nil
	case 0:
		return 0, info, fmt.Errorf("token %s is not there: %w; %s has %d tokens: %q", c.name(),
			&hsm.Error{Code: hsm.TokenNotPresent, Function: hsm.FnOther, Vendor: c.Vendor}, c.Module, len(present), present)
	}
	return 0, info, fmt.Errorf("%d tokens of %s answer to %s: name the serial number too (there are %q)", len(at), c.Module, c.name(), present)
}
