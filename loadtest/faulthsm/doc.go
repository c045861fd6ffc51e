// Package faulthsm builds and controls a PKCS#11 module that stands before a real one (SoftHSM, NSS, a
// vendor's) and makes its calls fail: return any code, take their time, hang, crash, lose their login, their
// sessions or the token, lock the PIN, give wrong results. README.md has the control language and how
// operators rehearse a failure with it; module/ has the module's source, in C.
//
// A [Module] is the library in a directory of its own, so that a process may hold several. Statements get to
// it by its control file, which all processes that load it follow ([Module.Apply]), or over the socket of
// one of them ([Conn]).
//
// It is a tool for tests and rehearsals: it must never stand before a token in production.
package faulthsm
