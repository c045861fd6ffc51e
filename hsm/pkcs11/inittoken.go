//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

// InitToken makes a new token called cfg.TokenLabel, for development and tests: C_InitToken in
// the first slot whose token is not initialised, then C_InitPIN with cfg.PIN. It never touches an
// initialised token.
//
// NSS makes its token with its database; there only the user PIN is set, which works once, and soPIN is not used.
func InitToken(cfg Config, soPIN hsm.PIN) error {
	if cfg.TokenLabel == "" || len(cfg.TokenLabel) > 32 {
		return fmt.Errorf("token label %q: use 1 to 32 bytes", cfg.TokenLabel)
	}
	pin := cfg.PIN.Reveal()
	if len(pin) == 0 {
		return errors.New("a new token needs a user PIN")
	}
	lib, err := openLibrary(cfg.Module, cfg.InitArgs)
	if err != nil {
		return err
	}
	slot, info, err := lib.slotOf(&cfg)
	so := soPIN.Reveal()
	isNSS := func(i pkcs11.TokenInfo) bool {
		p, err := profileFor(cfg.Vendor, i.ManufacturerID, i.Model, "")
		return err == nil && p.Vendor == hsm.VendorNSS
	}
	switch {
	case err == nil && !isNSS(info):
		return fmt.Errorf("token %s of %s exists already: choose another label", cfg.name(), cfg.Module)
	case err == nil && info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED != 0 && info.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0:
		return fmt.Errorf("token %s of %s has a user PIN already", cfg.name(), cfg.Module)
	case err != nil:
		if slot, info, err = lib.free(&cfg); err != nil {
			return err
		}
	}
	if isNSS(info) {
		so = nil // its security officer has none until there is a user PIN, and never again
	} else {
		label := []byte(cfg.TokenLabel + strings.Repeat(" ", 32-len(cfg.TokenLabel)))
		if r := lib.initToken(slot, so, label); r.code != hsm.OK {
			return fmt.Errorf("initialising token %s: %w", cfg.name(), &hsm.Error{Code: r.code, Function: hsm.FnOther, Vendor: cfg.Vendor})
		}
	}
	h, err := lib.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("opening a session on the new token %s: %w", cfg.name(), fault(err, hsm.FnOpenSession, cfg.Vendor))
	}
	defer func() { _ = lib.ctx.CloseSession(h) }()
	if r := lib.login(uint(h), pkcs11.CKU_SO, so); r.code != hsm.OK {
		return fmt.Errorf("logging in to the new token %s as security officer: %w", cfg.name(), &hsm.Error{Code: r.code, Function: hsm.FnLogin, Vendor: cfg.Vendor})
	}
	r := lib.functions.initPIN(uint(h), pin)
	_ = lib.ctx.Logout(h)
	if r.code != hsm.OK {
		return fmt.Errorf("setting the user PIN of the new token %s: %w", cfg.name(), &hsm.Error{Code: r.code, Function: hsm.FnLogin, Vendor: cfg.Vendor})
	}
	return nil
}

// free is the first slot with a token that is not initialised.
func (l *library) free(cfg *Config) (uint, pkcs11.TokenInfo, error) {
	slots, err := l.ctx.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("listing the slots of %s: %w", cfg.Module, fault(err, hsm.FnOther, cfg.Vendor))
	}
	for _, s := range slots {
		if i, err := l.ctx.GetTokenInfo(s); err == nil && i.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			return s, i, nil
		}
	}
	return 0, pkcs11.TokenInfo{}, fmt.Errorf("%s has no free slot for token %s: add one in the vendor's configuration", cfg.Module, cfg.name())
}
