/* The functions that do cryptography. An answer without the token ends there what a …Init left pending. */
#include "calls.h"

#include <stdlib.h>
#include <string.h>

static void discard(CK_RV (*f) CK_IO, CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n)
{
	CK_ULONG len = n + 16384;
	CK_BYTE *scratch = f ? malloc(len) : NULL;
	if (scratch == NULL)
		return;
	gate_enter();
	(void)f(s, in, n, scratch, &len);
	gate_leave();
	explicit_bzero(scratch, n + 16384);
	free(scratch);
}

/* ask_length says how large the buffer must be, and leaves the operation pending. */
static void ask_length(CK_RV (*f) CK_IO, CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_ULONG *len)
{
	if (f == NULL)
		return;
	gate_enter();
	(void)f(s, in, n, NULL, len);
	gate_leave();
}

static void discard_final(CK_RV (*f) CK_OUT, CK_SESSION_HANDLE s)
{
	CK_BYTE scratch[16384];
	CK_ULONG len = sizeof scratch;
	if (f == NULL)
		return;
	gate_enter();
	(void)f(s, scratch, &len);
	gate_leave();
	explicit_bzero(scratch, sizeof scratch);
}

static void discard_verify(CK_SESSION_HANDLE s)
{
	CK_BYTE none[64] = {0};
	if (real->C_VerifyFinal == NULL)
		return;
	gate_enter();
	(void)real->C_VerifyFinal(s, none, sizeof none);
	gate_leave();
}

#define INIT(f, op) \
	CK_RV f_##f(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key) \
	{ \
		CK_OBJECT_HANDLE theirs_key = key; \
		IN_SESSION(f, WITH(m), .has_key = 1, .key = key); \
		if (before(&c) && ours(&c, &key, CKR_KEY_HANDLE_INVALID)) { \
			REAL(f, s, m, key); \
			if (c.rv == CKR_OK) \
				track_op(s, op, c.mechanism, theirs_key); \
		} \
		return finish(&c); \
	}

/* SINGLE is a function that does a whole operation: an answer without the token must end it there. */
#define SINGLE(f) \
	CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .in = n, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, in, n, out, len); \
		else if (c.end && c.rv == CKR_BUFFER_TOO_SMALL) \
			ask_length(real->f, s, in, n, len); \
		else if (c.end) \
			discard(real->f, s, in, n); \
		return finish(&c); \
	}

#define UPDATE(f, final) \
	CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .in = n, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, in, n, out, len); \
		else if (c.end && c.rv != CKR_BUFFER_TOO_SMALL) \
			discard_final(real->final, s); \
		return finish(&c); \
	}

#define FINAL(f) \
	CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, out, len); \
		else if (c.end && c.rv != CKR_BUFFER_TOO_SMALL) \
			discard_final(real->f, s); \
		return finish(&c); \
	}

#define FEED(f, final) \
	CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n) \
	{ \
		IN_SESSION(f, .in = n); \
		if (before(&c)) \
			REAL(f, s, in, n); \
		else if (c.end) \
			discard_final(real->final, s); \
		return finish(&c); \
	}

/* DUAL works on two operations at once, of which an answer without the token ends neither. */
#define DUAL(f) \
	CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .in = n, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, in, n, out, len); \
		return finish(&c); \
	}

INIT(C_EncryptInit, OP_ENCRYPT)
SINGLE(C_Encrypt)
UPDATE(C_EncryptUpdate, C_EncryptFinal)
FINAL(C_EncryptFinal)
INIT(C_DecryptInit, OP_DECRYPT)
SINGLE(C_Decrypt)
UPDATE(C_DecryptUpdate, C_DecryptFinal)
FINAL(C_DecryptFinal)
SINGLE(C_Digest)
FEED(C_DigestUpdate, C_DigestFinal)
FINAL(C_DigestFinal)
INIT(C_SignInit, OP_SIGN)
SINGLE(C_Sign)
FEED(C_SignUpdate, C_SignFinal)
FINAL(C_SignFinal)
INIT(C_SignRecoverInit, OP_SIGN_RECOVER)
SINGLE(C_SignRecover)
INIT(C_VerifyInit, OP_VERIFY)
INIT(C_VerifyRecoverInit, OP_VERIFY_RECOVER)
SINGLE(C_VerifyRecover)
DUAL(C_DigestEncryptUpdate)
DUAL(C_DecryptDigestUpdate)
DUAL(C_SignEncryptUpdate)
DUAL(C_DecryptVerifyUpdate)

CK_RV f_C_DigestInit(CK_SESSION_HANDLE s, CK_MECHANISM *m)
{
	IN_SESSION(C_DigestInit, WITH(m));
	if (before(&c)) {
		REAL(C_DigestInit, s, m);
		if (c.rv == CKR_OK)
			track_op(s, OP_DIGEST, c.mechanism, 0);
	}
	return finish(&c);
}

CK_RV f_C_DigestKey(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key)
{
	IN_SESSION(C_DigestKey, .has_key = 1, .key = key);
	if (before(&c)) {
		if (ours(&c, &key, CKR_KEY_HANDLE_INVALID))
			REAL(C_DigestKey, s, key);
	} else if (c.end) {
		discard_final(real->C_DigestFinal, s);
	}
	return finish(&c);
}

CK_RV f_C_Verify(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *sig, CK_ULONG len)
{
	IN_SESSION(C_Verify, .in = len);
	if (before(&c)) {
		REAL(C_Verify, s, in, n, sig, len);
	} else if (c.end) {
		CK_RV rv = c.rv;
		REAL(C_Verify, s, in, n, sig, len);
		c.rv = rv;
	}
	return finish(&c);
}

CK_RV f_C_VerifyUpdate(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n)
{
	IN_SESSION(C_VerifyUpdate, .in = n);
	if (before(&c))
		REAL(C_VerifyUpdate, s, in, n);
	else if (c.end)
		discard_verify(s);
	return finish(&c);
}

CK_RV f_C_VerifyFinal(CK_SESSION_HANDLE s, CK_BYTE *sig, CK_ULONG len)
{
	IN_SESSION(C_VerifyFinal, .in = len);
	if (before(&c))
		REAL(C_VerifyFinal, s, sig, len);
	else if (c.end)
		discard_verify(s);
	return finish(&c);
}

CK_RV f_C_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE kek, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *len)
{
	IN_SESSION(C_WrapKey, WITH(m), .has_key = 1, .key = kek, .key2 = key, .out = out, .len = len);
	if (before(&c) && ours(&c, &kek, CKR_WRAPPING_KEY_HANDLE_INVALID) && ours(&c, &key, CKR_KEY_HANDLE_INVALID))
		REAL(C_WrapKey, s, m, kek, key, out, len);
	return finish(&c);
}

CK_RV f_C_SeedRandom(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n)
{
	IN_SESSION(C_SeedRandom, .in = n);
	if (before(&c))
		REAL(C_SeedRandom, s, in, n);
	return finish(&c);
}

CK_RV f_C_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG n)
{
	CK_ULONG len = n;
	IN_SESSION(C_GenerateRandom, .out = out, .len = &len);
	if (before(&c))
		REAL(C_GenerateRandom, s, out, n);
	return finish(&c);
}
