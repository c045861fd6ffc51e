//go:build !cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"

	"keyway/hsm"
)

var errNoCgo = fmt.Errorf("this keyway was built without cgo and cannot load PKCS#11 modules: build it with CGO_ENABLED=1 and a C compiler: %w", errors.ErrUnsupported)

// Usable says why this build cannot load a library.
func Usable() error { return errNoCgo }

// Token is a token of a PKCS#11 library; this build cannot open any.
type Token struct{ hsm.Token }

// Open says that this build cannot load a library.
func Open(context.Context, Config) (*Token, error) { return nil, errNoCgo }

// InitToken says that this build cannot load a library.
func InitToken(Config, hsm.PIN) error { return errNoCgo }
