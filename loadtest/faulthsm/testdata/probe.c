/*
 * A caller of a PKCS#11 module, for tests of faulthsm: what the Go driver does not show. It ends with 0
 * unless something is the matter with the test itself.
 *
 *   probe MODULE slots - | flags LABEL | login LABEL PIN | setpin LABEL OLD NEW | initpin LABEL SOPIN PIN
 *   probe MODULE differ LABEL PIN      every function once and more, with codes and results, the same each time
 *   probe MODULE hammer LABEL PIN SECONDS      many threads at once
 *   probe MODULE fork LABEL PIN        a child that begins anew
 */
#include "ck.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static CK_FUNCTION_LIST *f;
static char *init_args; /* of NSS */
static int nss; /* which jumps to NULL where others refuse it */

static void die(const char *what, CK_RV rv)
{
	fprintf(stderr, "%s: 0x%lX\n", what, rv);
	exit(2);
}

static void must(const char *what, CK_RV rv)
{
	if (rv != CKR_OK)
		die(what, rv);
}

static void load(const char *path)
{
	CK_RV (*get)(CK_FUNCTION_LIST **);
	void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (h == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		exit(2);
	}
	*(void **)&get = dlsym(h, "C_GetFunctionList");
	if (get == NULL)
		die("no C_GetFunctionList", 0);
	must("C_GetFunctionList", get(&f));
}

static CK_RV initialize(void)
{
	/* CK_C_INITIALIZE_ARGS: four functions, flags, reserved */
	struct { void *fn[4]; CK_FLAGS flags; void *reserved; } args = {.flags = 2 /* CKF_OS_LOCKING_OK */, .reserved = init_args};
	return f->C_Initialize(&args);
}

static int find_slot(const char *label, CK_SLOT_ID *slot)
{
	CK_SLOT_ID slots[64];
	CK_ULONG n = 64;
	must("C_GetSlotList", f->C_GetSlotList(1, slots, &n));
	for (CK_ULONG i = 0; i < n; i++) {
		CK_TOKEN_INFO info;
		if (f->C_GetTokenInfo(slots[i], &info) == CKR_OK && strncmp((char *)info.label, label, strlen(label)) == 0 &&
		    (strlen(label) == 32 || info.label[strlen(label)] == ' ')) {
			*slot = slots[i];
			return 1;
		}
	}
	return 0;
}

static CK_SLOT_ID slot_of(const char *label)
{
	CK_SLOT_ID slot;
	if (!find_slot(label, &slot))
		die("no such token", 0);
	return slot;
}

/* slots tells how many slots are listed with a token, without, and say that they have one. */
static void slots(void)
{
	CK_SLOT_ID all[64];
	CK_ULONG with = 64, n = 64, say = 0;
	must("C_GetSlotList", f->C_GetSlotList(1, all, &with));
	must("C_GetSlotList", f->C_GetSlotList(0, all, &n));
	for (CK_ULONG i = 0; i < n; i++) {
		CK_SLOT_INFO info;
		must("C_GetSlotInfo", f->C_GetSlotInfo(all[i], &info));
		say += info.flags & CKF_TOKEN_PRESENT;
	}
	printf("%s %s %s\n", with ? "some" : "none", n ? "some" : "none", say ? "some" : "none");
}

static CK_SESSION_HANDLE open_session(CK_SLOT_ID slot)
{
	CK_SESSION_HANDLE s;
	must("C_OpenSession", f->C_OpenSession(slot, 6, NULL, NULL, &s));
	return s;
}

static CK_RV login(CK_SESSION_HANDLE s, CK_ULONG user, const char *pin) { return f->C_Login(s, user, (CK_BYTE *)pin, strlen(pin)); }

static void flags(const char *label)
{
	CK_TOKEN_INFO info;
	must("C_GetTokenInfo", f->C_GetTokenInfo(slot_of(label), &info));
	printf("pin-flags:%s%s%s\n", info.flags & CKF_USER_PIN_COUNT_LOW ? " count-low" : "", info.flags & CKF_USER_PIN_FINAL_TRY ? " final-try" : "",
	       info.flags & CKF_USER_PIN_LOCKED ? " locked" : "");
}

/* --- differ --- */

static CK_BBOOL yes = 1, no = 0;
static CK_ULONG secret = 4, aes = 0x1F, generic = 0x10, private_class = 3, rsa = 0, ec = 3, bits = 2048, len32 = 32;

static void show(const char *what, CK_RV rv) { printf("%-40s 0x%lX\n", what, rv); }

static void hex(const char *what, CK_RV rv, const CK_BYTE *p, CK_ULONG n)
{
	printf("%-40s 0x%lX %lu ", what, rv, n);
	for (CK_ULONG i = 0; rv == CKR_OK && p && i < n && i < 64; i++)
		printf("%02x", p[i]);
	printf("\n");
}

static CK_OBJECT_HANDLE aes_key(CK_SESSION_HANDLE s, CK_BYTE fill)
{
	CK_BYTE v[32];
	CK_OBJECT_HANDLE h = 0;
	memset(v, fill, sizeof v);
	CK_ATTRIBUTE a[] = {{0, &secret, 8}, {0x100, &aes, 8}, {1, &no, 1}, {0x104, &yes, 1}, {0x105, &yes, 1}, {0x106, &yes, 1},
	                    {0x107, &yes, 1}, {0x162, &yes, 1}, {0x103, &no, 1}, {0x11, v, sizeof v}};
	show("C_CreateObject AES", f->C_CreateObject(s, a, sizeof a / sizeof *a, &h));
	printf("  handle %lu\n", h);
	return h;
}

static CK_OBJECT_HANDLE mac_key(CK_SESSION_HANDLE s)
{
	CK_BYTE v[32];
	CK_OBJECT_HANDLE h = 0;
	memset(v, 7, sizeof v);
	CK_ATTRIBUTE a[] = {{0, &secret, 8}, {0x100, &generic, 8}, {1, &no, 1}, {0x108, &yes, 1}, {0x10A, &yes, 1}, {0x162, &yes, 1}, {0x103, &no, 1}, {0x11, v, sizeof v}};
	show("C_CreateObject generic", f->C_CreateObject(s, a, sizeof a / sizeof *a, &h));
	return h;
}

static void general(CK_SLOT_ID slot)
{
	CK_SLOT_ID slots[64];
	CK_ULONG n = 0, types[256];
	CK_SLOT_INFO si;
	CK_TOKEN_INFO ti;
	struct { CK_ULONG min, max, flags; } mi;
	struct { CK_VERSION v; CK_UTF8CHAR manufacturer[32]; CK_FLAGS flags; CK_UTF8CHAR description[32]; CK_VERSION lv; } info;
	memset(&info, 0, sizeof info); /* its padding too */
	memset(&si, 0, sizeof si);
	memset(&ti, 0, sizeof ti);
	memset(&mi, 0, sizeof mi);
	CK_RV rv = f->C_GetInfo(&info);
	hex("C_GetInfo", rv, (CK_BYTE *)&info, sizeof info);
	if (!nss)
		show("C_GetInfo NULL", f->C_GetInfo(NULL));
	rv = f->C_GetSlotList(1, NULL, &n);
	printf("slots 0x%lX %lu\n", rv, n);
	n = 0;
	show("C_GetSlotList too small", f->C_GetSlotList(1, slots, &n));
	printf("  %lu\n", n);
	if (!nss)
		show("C_GetSlotList NULL", f->C_GetSlotList(1, NULL, NULL));
	rv = f->C_GetSlotInfo(slot, &si);
	hex("C_GetSlotInfo", rv, si.description, sizeof si.description);
	printf("  flags %lX\n", si.flags);
	show("C_GetSlotInfo 99", f->C_GetSlotInfo(999999, &si));
	rv = f->C_GetTokenInfo(slot, &ti);
	hex("C_GetTokenInfo", rv, ti.label, sizeof ti.label);
	printf("  flags %lX sessions %lu of %lu, pins %lu to %lu\n", ti.flags, ti.sessions, ti.max_sessions, ti.min_pin, ti.max_pin);
	show("C_GetTokenInfo 99", f->C_GetTokenInfo(999999, &ti));
	n = 256;
	rv = f->C_GetMechanismList(slot, types, &n);
	hex("C_GetMechanismList", rv, (CK_BYTE *)types, n);
	rv = f->C_GetMechanismInfo(slot, 0x1041, &mi);
	hex("C_GetMechanismInfo ECDSA", rv, (CK_BYTE *)&mi, sizeof mi);
	show("C_GetMechanismInfo unknown", f->C_GetMechanismInfo(slot, 0x7FFFFFFF, &mi));
	show("C_WaitForSlotEvent", f->C_WaitForSlotEvent(1, slots, NULL));
}

static void sessions(CK_SLOT_ID slot, const char *pin)
{
	CK_SESSION_HANDLE s = 0;
	CK_SESSION_INFO info;
	CK_BYTE state[64];
	CK_ULONG n = sizeof state;
	memset(&info, 0, sizeof info);
	memset(state, 0, sizeof state);
	show("C_OpenSession parallel", f->C_OpenSession(slot, 2, NULL, NULL, &s));
	show("C_OpenSession slot 999999", f->C_OpenSession(999999, 4, NULL, NULL, &s));
	if (!nss)
		show("C_OpenSession NULL", f->C_OpenSession(slot, 4, NULL, NULL, NULL));
	show("C_OpenSession", f->C_OpenSession(slot, 6, NULL, NULL, &s));
	printf("  handle %lu\n", s);
	hex("C_GetSessionInfo", f->C_GetSessionInfo(s, &info), (CK_BYTE *)&info, sizeof info);
	show("C_GetSessionInfo 12345", f->C_GetSessionInfo(12345, &info));
	show("C_GetOperationState", f->C_GetOperationState(s, state, &n));
	show("C_SetOperationState", f->C_SetOperationState(s, state, sizeof state, 0, 0));
	show("C_GetFunctionStatus", f->C_GetFunctionStatus(s));
	show("C_CancelFunction", f->C_CancelFunction(s));
	show("C_Logout without login", f->C_Logout(s));
	show("C_Login wrong", login(s, 1, "wrong"));
	show("C_Login type 9", login(s, 9, pin));
	show("C_Login", login(s, 1, pin));
	show("C_Login again", login(s, 1, "wrong"));
	hex("C_GetSessionInfo", f->C_GetSessionInfo(s, &info), (CK_BYTE *)&info, sizeof info);
	show("C_InitPIN as user", f->C_InitPIN(s, (CK_BYTE *)"1234", 4));
	show("C_SetPIN", f->C_SetPIN(s, (CK_BYTE *)pin, strlen(pin), (CK_BYTE *)pin, strlen(pin)));
	show("C_SetPIN wrong", f->C_SetPIN(s, (CK_BYTE *)"none", 4, (CK_BYTE *)pin, strlen(pin)));
	show("C_CloseSession", f->C_CloseSession(s));
	show("C_CloseSession again", f->C_CloseSession(s));
	show("C_OpenSession", f->C_OpenSession(slot, 6, NULL, NULL, &s));
	show("C_CloseAllSessions", f->C_CloseAllSessions(slot));
	show("C_CloseAllSessions 999999", f->C_CloseAllSessions(999999));
	hex("C_GetSessionInfo of a dead one", f->C_GetSessionInfo(s, &info), NULL, 0);
}

static void objects(CK_SESSION_HANDLE s)
{
	CK_OBJECT_HANDLE h = aes_key(s, 1), copy = 0, found[8];
	CK_ULONG n = 0, size = 0;
	CK_BYTE value[64] = {0};
	CK_ATTRIBUTE label = {3, "label", 5}, get[] = {{3, value, sizeof value}, {0x11, NULL, 0}}, other = {1, &no, 1};
	show("C_SetAttributeValue", f->C_SetAttributeValue(s, h, &label, 1));
	CK_RV rv = f->C_GetAttributeValue(s, h, get, 2);
	hex("C_GetAttributeValue", rv, value, get[0].len);
	printf("  value has %ld\n", (long)get[1].len);
	show("C_GetAttributeValue of none", f->C_GetAttributeValue(s, 4242, get, 1));
	show("C_GetObjectSize", f->C_GetObjectSize(s, h, &size));
	printf("  %ld\n", (long)size);
	show("C_CopyObject", f->C_CopyObject(s, h, &other, 1, &copy));
	show("C_FindObjectsInit", f->C_FindObjectsInit(s, &label, 1));
	show("C_FindObjectsInit again", f->C_FindObjectsInit(s, &label, 1));
	show("C_FindObjects", f->C_FindObjects(s, found, 8, &n));
	printf("  found %lu:", n);
	for (CK_ULONG i = 0; i < n; i++)
		printf(" %s", found[i] == h ? "original" : found[i] == copy ? "copy" : "other");
	printf("\n");
	show("C_FindObjectsFinal", f->C_FindObjectsFinal(s));
	show("C_FindObjectsFinal again", f->C_FindObjectsFinal(s));
	show("C_FindObjects without", f->C_FindObjects(s, found, 8, &n));
	show("C_DestroyObject", f->C_DestroyObject(s, copy));
	show("C_DestroyObject again", f->C_DestroyObject(s, copy));
	show("C_DestroyObject", f->C_DestroyObject(s, h));
	if (!nss)
		show("C_CreateObject of nothing", f->C_CreateObject(s, NULL, 0, &h));
}

static void ciphers(CK_SESSION_HANDLE s)
{
	CK_OBJECT_HANDLE k = aes_key(s, 2);
	CK_BYTE iv[16] = {3}, in[48] = "the same plaintext, in three blocks of sixteen.", out[256] = {0}, back[256] = {0};
	CK_MECHANISM cbc = {0x1082, iv, 16}, ecb = {0x1081, NULL, 0}, bad = {0x1082, NULL, 0}, none = {0x7FFFFFF0, NULL, 0};
	CK_ULONG n = sizeof out, m = sizeof back;
	show("C_EncryptInit unknown mechanism", f->C_EncryptInit(s, &none, k));
	if (!nss)
		show("C_EncryptInit no iv", f->C_EncryptInit(s, &bad, k));
	show("C_EncryptInit no key", f->C_EncryptInit(s, &cbc, 4242));
	if (!nss)
		show("C_EncryptInit NULL", f->C_EncryptInit(s, NULL, k));
	show("C_Encrypt without", f->C_Encrypt(s, in, 48, out, &n));
	show("C_EncryptInit", f->C_EncryptInit(s, &cbc, k));
	show("C_EncryptInit again", f->C_EncryptInit(s, &cbc, k));
	n = 0;
	hex("C_Encrypt length", f->C_Encrypt(s, in, 48, NULL, &n), NULL, n);
	n = 1;
	hex("C_Encrypt too small", f->C_Encrypt(s, in, 48, out, &n), NULL, n);
	n = sizeof out;
	CK_RV rv = f->C_Encrypt(s, in, 48, out, &n);
	hex("C_Encrypt", rv, out, n);
	show("C_DecryptInit", f->C_DecryptInit(s, &cbc, k));
	rv = f->C_Decrypt(s, out, n, back, &m);
	hex("C_Decrypt", rv, back, m);
	show("C_EncryptInit ECB", f->C_EncryptInit(s, &ecb, k));
	n = sizeof out;
	rv = f->C_EncryptUpdate(s, in, 32, out, &n);
	hex("C_EncryptUpdate", rv, out, n);
	n = sizeof out;
	rv = f->C_EncryptFinal(s, out, &n);
	hex("C_EncryptFinal", rv, out, n);
	show("C_DecryptInit ECB", f->C_DecryptInit(s, &ecb, k));
	m = sizeof back;
	rv = f->C_DecryptUpdate(s, in, 32, back, &m);
	hex("C_DecryptUpdate", rv, back, m);
	m = sizeof back;
	rv = f->C_DecryptFinal(s, back, &m);
	hex("C_DecryptFinal", rv, back, m);
	show("C_DigestEncryptUpdate", f->C_DigestEncryptUpdate(s, in, 16, out, &n));
	show("C_DecryptDigestUpdate", f->C_DecryptDigestUpdate(s, in, 16, out, &n));
	show("C_SignEncryptUpdate", f->C_SignEncryptUpdate(s, in, 16, out, &n));
	show("C_DecryptVerifyUpdate", f->C_DecryptVerifyUpdate(s, in, 16, out, &n));
}

static void digests(CK_SESSION_HANDLE s)
{
	CK_BYTE in[] = "abc", out[64] = {0};
	CK_MECHANISM sha = {0x250, NULL, 0};
	CK_ULONG n = sizeof out;
	CK_OBJECT_HANDLE k = mac_key(s);
	show("C_DigestInit", f->C_DigestInit(s, &sha));
	CK_RV rv = f->C_Digest(s, in, 3, out, &n);
	hex("C_Digest", rv, out, n);
	show("C_DigestInit", f->C_DigestInit(s, &sha));
	show("C_DigestUpdate", f->C_DigestUpdate(s, in, 3));
	show("C_DigestKey", f->C_DigestKey(s, k));
	n = sizeof out;
	rv = f->C_DigestFinal(s, out, &n);
	hex("C_DigestFinal", rv, out, n);
	show("C_DigestUpdate without", f->C_DigestUpdate(s, in, 3));
}

static void signatures(CK_SESSION_HANDLE s)
{
	CK_BYTE in[] = "a message", out[512] = {0};
	CK_MECHANISM hmac = {0x251, NULL, 0}, pkcs = {1, NULL, 0}, ecdsa = {0x1041, NULL, 0};
	CK_ULONG n = sizeof out;
	CK_OBJECT_HANDLE k = mac_key(s), pub = 0, prv = 0;
	show("C_SignInit", f->C_SignInit(s, &hmac, k));
	CK_RV rv = f->C_Sign(s, in, 9, out, &n);
	hex("C_Sign HMAC", rv, out, n);
	show("C_VerifyInit", f->C_VerifyInit(s, &hmac, k));
	show("C_Verify", f->C_Verify(s, in, 9, out, n));
	show("C_VerifyInit", f->C_VerifyInit(s, &hmac, k));
	out[0] ^= 1;
	show("C_Verify wrong", f->C_Verify(s, in, 9, out, n));
	out[0] ^= 1;
	show("C_SignInit", f->C_SignInit(s, &hmac, k));
	show("C_SignUpdate", f->C_SignUpdate(s, in, 9));
	n = sizeof out;
	rv = f->C_SignFinal(s, out, &n);
	hex("C_SignFinal", rv, out, n);
	show("C_VerifyInit", f->C_VerifyInit(s, &hmac, k));
	show("C_VerifyUpdate", f->C_VerifyUpdate(s, in, 9));
	show("C_VerifyFinal", f->C_VerifyFinal(s, out, n));
	show("C_SignRecoverInit", f->C_SignRecoverInit(s, &pkcs, k));
	show("C_SignRecover", f->C_SignRecover(s, in, 9, out, &n));
	show("C_VerifyRecoverInit", f->C_VerifyRecoverInit(s, &pkcs, k));
	show("C_VerifyRecover", f->C_VerifyRecover(s, in, 9, out, &n));

	CK_BYTE exponent[] = {1, 0, 1}, p256[] = {6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7};
	CK_MECHANISM rsa_gen = {0, NULL, 0}, ec_gen = {0x1040, NULL, 0};
	CK_ATTRIBUTE rsa_pub[] = {{1, &no, 1}, {0x10A, &yes, 1}, {0x121, &bits, 8}, {0x122, exponent, 3}}, prv_t[] = {{1, &no, 1}, {2, &yes, 1}, {0x108, &yes, 1}};
	CK_ATTRIBUTE ec_pub[] = {{1, &no, 1}, {0x10A, &yes, 1}, {0x180, p256, sizeof p256}};
	show("C_GenerateKeyPair RSA", f->C_GenerateKeyPair(s, &rsa_gen, rsa_pub, 4, prv_t, 3, &pub, &prv));
	show("C_SignInit RSA", f->C_SignInit(s, &pkcs, prv));
	n = sizeof out;
	hex("C_Sign RSA", f->C_Sign(s, in, 9, out, &n), NULL, n);
	show("C_VerifyInit RSA", f->C_VerifyInit(s, &pkcs, pub));
	show("C_Verify RSA", f->C_Verify(s, in, 9, out, n));
	show("C_SignInit RSA", f->C_SignInit(s, &pkcs, prv));
	n = sizeof out;
	show("C_Sign RSA too long", f->C_Sign(s, out, 400, out, &n));
	show("C_GenerateKeyPair EC", f->C_GenerateKeyPair(s, &ec_gen, ec_pub, 3, prv_t, 3, &pub, &prv));
	show("C_SignInit EC", f->C_SignInit(s, &ecdsa, prv));
	n = sizeof out;
	hex("C_Sign EC", f->C_Sign(s, in, 9, out, &n), NULL, n);
	show("C_VerifyInit EC", f->C_VerifyInit(s, &ecdsa, pub));
	show("C_Verify EC", f->C_Verify(s, in, 9, out, n));
}

static void keys(CK_SESSION_HANDLE s)
{
	CK_OBJECT_HANDLE kek = aes_key(s, 5), k = aes_key(s, 6), h = 0;
	CK_BYTE out[128] = {0}, random[32] = {0};
	CK_ULONG n = sizeof out;
	CK_MECHANISM wrap = {0x2109, NULL, 0}, gen = {0x1080, NULL, 0}, derive = {0x1104, NULL, 0};
	CK_ATTRIBUTE a[] = {{0, &secret, 8}, {0x100, &aes, 8}, {1, &no, 1}, {0x162, &yes, 1}, {0x103, &no, 1}}, g[] = {{1, &no, 1}, {0x161, &len32, 8}};
	CK_ATTRIBUTE value = {0x11, random, sizeof random};
	struct { CK_BYTE *p; CK_ULONG n; } data = {(CK_BYTE *)"0123456789abcdef0123456789abcdef", 32};
	CK_RV rv = f->C_WrapKey(s, &wrap, kek, k, out, &n);
	hex("C_WrapKey", rv, out, n);
	show("C_WrapKey no kek", f->C_WrapKey(s, &wrap, 4242, k, out, &n));
	show("C_WrapKey no key", f->C_WrapKey(s, &wrap, kek, 4242, out, &n));
	n = 40;
	show("C_UnwrapKey", f->C_UnwrapKey(s, &wrap, kek, out, n, a, 5, &h));
	rv = f->C_GetAttributeValue(s, h, &value, 1);
	hex("  its value", rv, random, value.len);
	out[3] ^= 1;
	show("C_UnwrapKey changed", f->C_UnwrapKey(s, &wrap, kek, out, n, a, 5, &h));
	show("C_GenerateKey", f->C_GenerateKey(s, &gen, g, 2, &h));
	if (!nss)
		show("C_GenerateKey NULL", f->C_GenerateKey(s, &gen, g, 2, NULL));
	derive.parameter = &data, derive.len = sizeof data;
	show("C_DeriveKey", f->C_DeriveKey(s, &derive, kek, a, 5, &h));
	show("C_SeedRandom", f->C_SeedRandom(s, random, sizeof random));
	show("C_GenerateRandom", f->C_GenerateRandom(s, random, sizeof random));
	if (!nss)
		show("C_GenerateRandom NULL", f->C_GenerateRandom(s, NULL, 4));
}

static void differ(const char *label, const char *pin)
{
	CK_SLOT_ID slot = slot_of(label);
	show("C_Initialize again", initialize());
	general(slot);
	sessions(slot, pin);
	CK_SESSION_HANDLE s = open_session(slot);
	show("C_Login", login(s, 1, pin));
	objects(s);
	ciphers(s);
	digests(s);
	signatures(s);
	keys(s);
	show("C_Logout", f->C_Logout(s));
	show("C_Finalize reserved", f->C_Finalize("x"));
	show("C_Finalize", f->C_Finalize(NULL));
	show("C_Finalize again", f->C_Finalize(NULL));
	if (!nss)
		show("C_GetSessionInfo after", f->C_GetSessionInfo(s, NULL));
	show("C_OpenSession after", f->C_OpenSession(slot, 6, NULL, NULL, &s));
	show("C_InitToken after", f->C_InitToken(slot, (CK_BYTE *)pin, 4, (CK_UTF8CHAR *)"x"));
	(void)private_class, (void)rsa, (void)ec;
}

/* --- hammer --- */

static atomic_int stop;
static atomic_ulong good, bad;
static CK_SLOT_ID hammer_slot;
static const char *hammer_pin;

static void *hit(void *unused)
{
	while (!stop) {
		CK_SESSION_HANDLE s;
		CK_OBJECT_HANDLE h;
		CK_BYTE v[32] = {1}, out[64];
		CK_ULONG n;
		CK_MECHANISM hmac = {0x251, NULL, 0};
		CK_ATTRIBUTE a[] = {{0, &secret, 8}, {0x100, &generic, 8}, {1, &no, 1}, {2, &no, 1}, {0x108, &yes, 1}, {0x11, v, sizeof v}};
		if (f->C_OpenSession(hammer_slot, 6, NULL, NULL, &s) != CKR_OK) {
			bad++;
			continue;
		}
		(void)login(s, 1, hammer_pin); /* which somebody else may have lost */
		for (int i = 0; i < 20 && !stop; i++) {
			h = 0;
			CK_RV rv = f->C_CreateObject(s, a, 6, &h);
			if (rv == CKR_OK)
				rv = f->C_SignInit(s, &hmac, h);
			n = sizeof out;
			if (rv == CKR_OK)
				rv = f->C_Sign(s, v, sizeof v, out, &n);
			if (h)
				(void)f->C_DestroyObject(s, h);
			*(rv == CKR_OK ? &good : &bad) += 1;
		}
		(void)f->C_CloseSession(s);
	}
	return unused;
}

static void hammer(const char *label, const char *pin, const char *seconds)
{
	pthread_t t[8];
	hammer_slot = slot_of(label), hammer_pin = pin;
	CK_SESSION_HANDLE s = open_session(hammer_slot);
	(void)login(s, 1, pin);
	printf("ready\n");
	fflush(stdout);
	for (int i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, hit, NULL);
	struct timespec d = {.tv_sec = atol(seconds)};
	nanosleep(&d, NULL);
	stop = 1;
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	(void)f->C_Finalize(NULL);
	printf("good %lu bad %lu\n", good, bad);
}

/* --- fork --- */

static void forks(const char *label, const char *pin)
{
	CK_SLOT_ID slot = slot_of(label);
	CK_SESSION_HANDLE s = open_session(slot);
	pthread_t t[2];
	must("C_Login", login(s, 1, pin));
	hammer_slot = slot, hammer_pin = pin;
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, hit, NULL);
	for (int i = 0; i < 20; i++) {
		struct timespec d = {.tv_nsec = 3000000};
		nanosleep(&d, NULL);
		pid_t child = fork();
		if (child == 0) {
			/* Only what goes to no lock of the real module, which may be held: faulthsm's own part. */
			CK_FUNCTION_LIST *again;
			alarm(20);
			_exit(f->C_GetFunctionList(&again) == CKR_OK && again == f ? 0 : 3);
		}
		int status;
		waitpid(child, &status, 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
			fprintf(stderr, "child %d ended with %x\n", i, status);
			exit(2);
		}
	}
	stop = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	/* Now nothing is held, and a child may begin anew. */
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		alarm(20);
		CK_RV rv = initialize();
		printf("child: C_Initialize 0x%lX\n", rv);
		if (find_slot(label, &slot) && f->C_OpenSession(slot, 6, NULL, NULL, &s) == CKR_OK)
			printf("child: session\n");
		fflush(stdout);
		struct timespec d = {.tv_sec = 15};
		nanosleep(&d, NULL); /* until it has been talked to */
		_exit(0);
	}
	printf("child %d\n", (int)child);
	fflush(stdout);
	int status;
	waitpid(child, &status, 0);
	printf("child ended %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	init_args = getenv("PROBE_INIT");
	nss = init_args != NULL;
	setvbuf(stdout, NULL, _IOLBF, 0);
	load(argv[1]);
	CK_RV rv = initialize();
	const char *what = argv[2], *label = argv[3], *one = argc > 4 ? argv[4] : "", *two = argc > 5 ? argv[5] : "";
	if (strcmp(what, "differ") == 0)
		show("C_Initialize", rv);
	else
		must("C_Initialize", rv);
	if (strcmp(what, "flags") == 0)
		flags(label);
	else if (strcmp(what, "slots") == 0)
		slots();
	else if (strcmp(what, "login") == 0)
		printf("0x%lX\n", login(open_session(slot_of(label)), 1, one));
	else if (strcmp(what, "setpin") == 0)
		printf("0x%lX\n", f->C_SetPIN(open_session(slot_of(label)), (CK_BYTE *)one, strlen(one), (CK_BYTE *)two, strlen(two)));
	else if (strcmp(what, "initpin") == 0) {
		CK_SESSION_HANDLE s = open_session(slot_of(label));
		must("C_Login", login(s, 0, one));
		printf("0x%lX\n", f->C_InitPIN(s, (CK_BYTE *)two, strlen(two)));
	} else if (strcmp(what, "differ") == 0)
		differ(label, one);
	else if (strcmp(what, "hammer") == 0)
		hammer(label, one, two);
	else if (strcmp(what, "fork") == 0)
		forks(label, one);
	else
		return 2;
	return 0;
}
