/* The functions that take a PIN, and the end of a login. */
#include "calls.h"

CK_RV f_C_InitToken(CK_SLOT_ID slot, CK_BYTE *pin, CK_ULONG n, CK_UTF8CHAR *label)
{
	CALL_OF(C_InitToken, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_InitToken, slot, pin, n, label);
		if (unlikely(c.armed) && c.rv == CKR_OK)
			pin_reset(slot);
	}
	return finish(&c);
}

CK_RV f_C_InitPIN(CK_SESSION_HANDLE s, CK_BYTE *pin, CK_ULONG n)
{
	IN_SESSION(C_InitPIN);
	if (before(&c)) {
		REAL(C_InitPIN, s, pin, n);
		if (unlikely(c.armed) && c.rv == CKR_OK && c.has_slot)
			pin_reset(c.slot);
	}
	return finish(&c);
}

/* tries_pin begins the counting of a try; it returns 0 when the PIN is locked. */
static int tries_pin(struct call *c, struct pin_count *p, int *counted)
{
	*counted = c->armed && c->plan && c->plan->pin_tries && c->has_slot;
	if (!*counted || !pin_begin(p, c->slot, (unsigned)c->plan->pin_tries->n))
		return 1;
	c->rv = CKR_PIN_LOCKED;
	c->altered = 1;
	return 0;
}

CK_RV f_C_SetPIN(CK_SESSION_HANDLE s, CK_BYTE *old, CK_ULONG n, CK_BYTE *new, CK_ULONG m)
{
	IN_SESSION(C_SetPIN);
	struct pin_count p;
	int counted = 0;
	if (before(&c)) {
		if (tries_pin(&c, &p, &counted))
			REAL(C_SetPIN, s, old, n, new, m);
		if (counted)
			pin_end(&p, c.rv);
	}
	return finish(&c);
}

CK_RV f_C_Login(CK_SESSION_HANDLE s, CK_ULONG user, CK_BYTE *pin, CK_ULONG n)
{
	IN_SESSION(C_Login);
	struct pin_count p;
	int counted = 0;
	if (before(&c)) {
		if (user == CKU_SO || tries_pin(&c, &p, &counted)) {
			REAL(C_Login, s, user, pin, n);
			if (unlikely(c.armed) && c.rv == CKR_OK && c.has_slot)
				token_logged_in(c.slot);
		}
		if (counted)
			pin_end(&p, c.rv);
	}
	return finish(&c);
}

CK_RV f_C_Logout(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_Logout);
	CK_SLOT_ID slot;
	if (before(&c)) {
		REAL(C_Logout, s);
		if (c.rv == CKR_OK && track_slot(s, &slot))
			track_logged_out(slot);
	}
	return finish(&c);
}
