//go:build cgo

package pkcs11

/*
#cgo linux LDFLAGS: -ldl
#cgo CFLAGS: -O2 -Wall
#cgo nocallback kw_run
#cgo noescape kw_run
#cgo nocallback kw_wrap_bytes
#cgo nocallback kw_unwrap_bytes
#cgo nocallback kw_find
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"unsafe"

	"keyway/hsm"
)

// functions is a library's CK_FUNCTION_LIST. All its methods are one crossing each.
type functions struct{ f *C.kw_functions }

// result is what came of a call.
type result struct {
	code   hsm.Code
	n      int
	handle hsm.Handle
	other  hsm.Handle
	step   int
}

// fits reports success with an output that is inside out. A library that claims to have written more, or an
// impossible number, gets a code that says that something is wrong with it.
func (r *result) fits(out []byte) bool {
	if r.code == hsm.OK && (r.n < 0 || r.n > len(out)) {
		r.code = hsm.DeviceError
	}
	return r.code == hsm.OK
}

func resultOf(r C.kw_result) result {
	return result{hsm.Code(r.rv), int(r.len), hsm.Handle(r.handle), hsm.Handle(r.other), int(r.step)}
}

// ptr is the address of b for C. Some libraries refuse NULL even where the length is 0.
func ptr(b []byte) *C.kw_byte {
	if len(b) == 0 {
		return &nothing
	}
	return (*C.kw_byte)(unsafe.Pointer(unsafe.SliceData(b)))
}

var nothing C.kw_byte

// load loads the module at path, or returns why it cannot be.
func load(path string) (functions, error) {
	var why [512]C.char
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	f := C.kw_load(p, &why[0], C.size_t(len(why)))
	if f == nil {
		return functions{}, errors.New(C.GoString(&why[0]))
	}
	return functions{f}, nil
}

// operation is what run does, apart from the bytes.
type operation struct {
	kind      C.int
	mechanism hsm.MechanismType
	hash      hashNumbers
	resume    bool
}

const (
	sign    = C.KW_SIGN
	encrypt = C.KW_ENCRYPT
	decrypt = C.KW_DECRYPT
)

// run does one operation; n is the number of bytes written to out.
func (f functions) run(session uint, key hsm.Handle, op operation, iv, aad, in, out []byte) result {
	var resume C.int
	if op.resume {
		resume = 1
	}
	return resultOf(C.kw_run(f.f, C.kw_operation{
		session: C.kw_ulong(session), key: C.kw_ulong(key), mechanism: C.kw_ulong(op.mechanism),
		hash: C.kw_ulong(op.hash.mechanism), mgf: C.kw_ulong(op.hash.mgf), salt_len: C.kw_ulong(op.hash.size),
		kind: op.kind, resume: resume,
	}, ptr(iv), ptr(aad), C.kw_ulong(len(aad)), ptr(in), C.kw_ulong(len(in)), ptr(out), C.kw_ulong(len(out))))
}

func (f functions) wrapBytes(session uint, kek hsm.Handle, m hsm.MechanismType, in, out []byte) result {
	return resultOf(C.kw_wrap_bytes(f.f, C.kw_ulong(session), C.kw_ulong(kek), C.kw_ulong(m),
		ptr(in), C.kw_ulong(len(in)), ptr(out), C.kw_ulong(len(out))))
}

func (f functions) unwrapBytes(session uint, kek hsm.Handle, m hsm.MechanismType, in, out []byte) result {
	return resultOf(C.kw_unwrap_bytes(f.f, C.kw_ulong(session), C.kw_ulong(kek), C.kw_ulong(m),
		ptr(in), C.kw_ulong(len(in)), ptr(out), C.kw_ulong(len(out))))
}

func (f functions) create(session uint, t *template) result {
	return resultOf(C.kw_create(f.f, C.kw_ulong(session), ptr(t.packed), C.kw_ulong(t.n)))
}

func (f functions) generate(session uint, m hsm.MechanismType, t *template) result {
	return resultOf(C.kw_generate(f.f, C.kw_ulong(session), C.kw_ulong(m), ptr(t.packed), C.kw_ulong(t.n)))
}

// generatePair returns the private object in handle and the public one in other.
func (f functions) generatePair(session uint, m hsm.MechanismType, pub, prv *template) result {
	return resultOf(C.kw_generate_pair(f.f, C.kw_ulong(session), C.kw_ulong(m),
		ptr(pub.packed), C.kw_ulong(pub.n), ptr(prv.packed), C.kw_ulong(prv.n)))
}

func (f functions) wrap(session uint, kek hsm.Handle, m hsm.Mechanism, key hsm.Handle, out []byte) result {
	h := hashOf(m.Hash)
	return resultOf(C.kw_wrap(f.f, C.kw_ulong(session), C.kw_ulong(kek), C.kw_ulong(m.Type), C.kw_ulong(h.mechanism), C.kw_ulong(h.mgf),
		C.kw_ulong(key), ptr(out), C.kw_ulong(len(out))))
}

func (f functions) unwrap(session uint, kek hsm.Handle, m hsm.Mechanism, blob []byte, t *template) result {
	h := hashOf(m.Hash)
	return resultOf(C.kw_unwrap(f.f, C.kw_ulong(session), C.kw_ulong(kek), C.kw_ulong(m.Type), C.kw_ulong(h.mechanism), C.kw_ulong(h.mgf),
		ptr(blob), C.kw_ulong(len(blob)), ptr(t.packed), C.kw_ulong(t.n)))
}

// find returns in n how many objects there are (2 stands for more), and the first.
func (f functions) find(session uint, t *template) result {
	return resultOf(C.kw_find(f.f, C.kw_ulong(session), ptr(t.packed), C.kw_ulong(t.n)))
}

// attribute reads one attribute into out.
func (f functions) attribute(session uint, h hsm.Handle, a attribute, out []byte) result {
	return resultOf(C.kw_attribute_value(f.f, C.kw_ulong(session), C.kw_ulong(h), C.kw_ulong(a),
		ptr(out), C.kw_ulong(len(out))))
}

func (f functions) setAttributes(session uint, h hsm.Handle, t *template) result {
	return resultOf(C.kw_set_attributes(f.f, C.kw_ulong(session), C.kw_ulong(h), ptr(t.packed), C.kw_ulong(t.n)))
}

func (f functions) destroy(session uint, h hsm.Handle) result {
	return resultOf(C.kw_destroy(f.f, C.kw_ulong(session), C.kw_ulong(h)))
}

func (f functions) random(session uint, out []byte) result {
	return resultOf(C.kw_random(f.f, C.kw_ulong(session), ptr(out), C.kw_ulong(len(out))))
}

func (f functions) login(session, user uint, pin []byte) result {
	return resultOf(C.kw_login(f.f, C.kw_ulong(session), C.kw_ulong(user), ptr(pin), C.kw_ulong(len(pin))))
}

// initToken takes a label of exactly 32 bytes, padded with spaces.
func (f functions) initToken(slot uint, pin, label []byte) result {
	return resultOf(C.kw_init_token(f.f, C.kw_ulong(slot), ptr(pin), C.kw_ulong(len(pin)), ptr(label)))
}

func (f functions) initPIN(session uint, pin []byte) result {
	return resultOf(C.kw_init_pin(f.f, C.kw_ulong(session), ptr(pin), C.kw_ulong(len(pin))))
}
