/* Names of the standard's numbers, as PKCS#11 3.1 (OASIS) gives them, without their prefixes. */
#include "names.h"

#include <stdio.h>
#include <string.h>

static const struct named codes[] = {
	{"OK", 0x0}, {"CANCEL", 0x1}, {"HOST_MEMORY", 0x2}, {"SLOT_ID_INVALID", 0x3}, {"GENERAL_ERROR", 0x5},
	{"FUNCTION_FAILED", 0x6}, {"ARGUMENTS_BAD", 0x7}, {"NO_EVENT", 0x8}, {"NEED_TO_CREATE_THREADS", 0x9},
	{"CANT_LOCK", 0xA}, {"ATTRIBUTE_READ_ONLY", 0x10}, {"ATTRIBUTE_SENSITIVE", 0x11}, {"ATTRIBUTE_TYPE_INVALID", 0x12},
	{"ATTRIBUTE_VALUE_INVALID", 0x13}, {"COPY_PROHIBITED", 0x1A}, {"ACTION_PROHIBITED", 0x1B}, {"DATA_INVALID", 0x20},
	{"DATA_LEN_RANGE", 0x21}, {"DEVICE_ERROR", 0x30}, {"DEVICE_MEMORY", 0x31}, {"DEVICE_REMOVED", 0x32},
	{"ENCRYPTED_DATA_INVALID", 0x40}, {"ENCRYPTED_DATA_LEN_RANGE", 0x41}, {"AEAD_DECRYPT_FAILED", 0x42},
	{"FUNCTION_CANCELED", 0x50}, {"FUNCTION_NOT_PARALLEL", 0x51}, {"FUNCTION_NOT_SUPPORTED", 0x54},
	{"KEY_HANDLE_INVALID", 0x60}, {"KEY_SIZE_RANGE", 0x62}, {"KEY_TYPE_INCONSISTENT", 0x63}, {"KEY_NOT_NEEDED", 0x64},
	{"KEY_CHANGED", 0x65}, {"KEY_NEEDED", 0x66}, {"KEY_INDIGESTIBLE", 0x67}, {"KEY_FUNCTION_NOT_PERMITTED", 0x68},
	{"KEY_NOT_WRAPPABLE", 0x69}, {"KEY_UNEXTRACTABLE", 0x6A}, {"MECHANISM_INVALID", 0x70},
	{"MECHANISM_PARAM_INVALID", 0x71}, {"OBJECT_HANDLE_INVALID", 0x82}, {"OPERATION_ACTIVE", 0x90},
	{"OPERATION_NOT_INITIALIZED", 0x91}, {"PIN_INCORRECT", 0xA0}, {"PIN_INVALID", 0xA1}, {"PIN_LEN_RANGE", 0xA2},
	{"PIN_EXPIRED", 0xA3}, {"PIN_LOCKED", 0xA4}, {"SESSION_CLOSED", 0xB0}, {"SESSION_COUNT", 0xB1},
	{"SESSION_HANDLE_INVALID", 0xB3}, {"SESSION_PARALLEL_NOT_SUPPORTED", 0xB4}, {"SESSION_READ_ONLY", 0xB5},
	{"SESSION_EXISTS", 0xB6}, {"SESSION_READ_ONLY_EXISTS", 0xB7}, {"SESSION_READ_WRITE_SO_EXISTS", 0xB8},
	{"SIGNATURE_INVALID", 0xC0}, {"SIGNATURE_LEN_RANGE", 0xC1}, {"TEMPLATE_INCOMPLETE", 0xD0},
	{"TEMPLATE_INCONSISTENT", 0xD1}, {"TOKEN_NOT_PRESENT", 0xE0}, {"TOKEN_NOT_RECOGNIZED", 0xE1},
	{"TOKEN_WRITE_PROTECTED", 0xE2}, {"UNWRAPPING_KEY_HANDLE_INVALID", 0xF0}, {"UNWRAPPING_KEY_SIZE_RANGE", 0xF1},
	{"UNWRAPPING_KEY_TYPE_INCONSISTENT", 0xF2}, {"USER_ALREADY_LOGGED_IN", 0x100}, {"USER_NOT_LOGGED_IN", 0x101},
	{"USER_PIN_NOT_INITIALIZED", 0x102}, {"USER_TYPE_INVALID", 0x103}, {"USER_ANOTHER_ALREADY_LOGGED_IN", 0x104},
	{"USER_TOO_MANY_TYPES", 0x105}, {"WRAPPED_KEY_INVALID", 0x110}, {"WRAPPED_KEY_LEN_RANGE", 0x112},
	{"WRAPPING_KEY_HANDLE_INVALID", 0x113}, {"WRAPPING_KEY_SIZE_RANGE", 0x114},
	{"WRAPPING_KEY_TYPE_INCONSISTENT", 0x115}, {"RANDOM_SEED_NOT_SUPPORTED", 0x120}, {"RANDOM_NO_RNG", 0x121},
	{"DOMAIN_PARAMS_INVALID", 0x130}, {"CURVE_NOT_SUPPORTED", 0x140}, {"BUFFER_TOO_SMALL", 0x150},
	{"SAVED_STATE_INVALID", 0x160}, {"INFORMATION_SENSITIVE", 0x170}, {"STATE_UNSAVEABLE", 0x180},
	{"CRYPTOKI_NOT_INITIALIZED", 0x190}, {"CRYPTOKI_ALREADY_INITIALIZED", 0x191}, {"MUTEX_BAD", 0x1A0},
	{"MUTEX_NOT_LOCKED", 0x1A1}, {"NEW_PIN_MODE", 0x1B0}, {"NEXT_OTP", 0x1B1}, {"EXCEEDED_MAX_ITERATIONS", 0x1C0},
	{"FIPS_SELF_TEST_FAILED", 0x1C1}, {"LIBRARY_LOAD_FAILED", 0x1C2}, {"PIN_TOO_WEAK", 0x1C3},
	{"PUBLIC_KEY_INVALID", 0x1C4}, {"FUNCTION_REJECTED", 0x200}, {"TOKEN_RESOURCE_EXCEEDED", 0x201},
	{"OPERATION_CANCEL_FAILED", 0x202}, {"KEY_EXHAUSTED", 0x203}, {"VENDOR_DEFINED", 0x80000000},
};

static const struct named mechanisms[] = {
	{"RSA_PKCS_KEY_PAIR_GEN", 0x0}, {"RSA_PKCS", 0x1}, {"RSA_X_509", 0x3}, {"SHA1_RSA_PKCS", 0x6},
	{"RSA_PKCS_OAEP", 0x9}, {"RSA_PKCS_PSS", 0xD}, {"SHA1_RSA_PKCS_PSS", 0xE}, {"SHA256_RSA_PKCS", 0x40},
	{"SHA384_RSA_PKCS", 0x41}, {"SHA512_RSA_PKCS", 0x42}, {"SHA256_RSA_PKCS_PSS", 0x43}, {"SHA384_RSA_PKCS_PSS", 0x44},
	{"SHA512_RSA_PKCS_PSS", 0x45}, {"SHA224_RSA_PKCS", 0x46}, {"SHA224_RSA_PKCS_PSS", 0x47}, {"DES3_KEY_GEN", 0x131},
	{"DES3_ECB", 0x132}, {"DES3_CBC", 0x133}, {"DES3_MAC", 0x134}, {"DES3_CBC_PAD", 0x136}, {"DES3_CMAC", 0x138},
	{"SHA_1", 0x220}, {"SHA_1_HMAC", 0x221}, {"SHA256", 0x250}, {"SHA256_HMAC", 0x251}, {"SHA224", 0x255},
	{"SHA224_HMAC", 0x256}, {"SHA384", 0x260}, {"SHA384_HMAC", 0x261}, {"SHA512", 0x270}, {"SHA512_HMAC", 0x271},
	{"GENERIC_SECRET_KEY_GEN", 0x350}, {"CONCATENATE_BASE_AND_KEY", 0x360}, {"CONCATENATE_BASE_AND_DATA", 0x362},
	{"CONCATENATE_DATA_AND_BASE", 0x363}, {"XOR_BASE_AND_DATA", 0x364}, {"SHA1_KEY_DERIVATION", 0x392},
	{"SHA256_KEY_DERIVATION", 0x393}, {"SHA384_KEY_DERIVATION", 0x394}, {"SHA512_KEY_DERIVATION", 0x395},
	{"SHA224_KEY_DERIVATION", 0x396}, {"SP800_108_COUNTER_KDF", 0x3AC}, {"EC_KEY_PAIR_GEN", 0x1040}, {"ECDSA", 0x1041},
	{"ECDSA_SHA1", 0x1042}, {"ECDSA_SHA224", 0x1043}, {"ECDSA_SHA256", 0x1044}, {"ECDSA_SHA384", 0x1045},
	{"ECDSA_SHA512", 0x1046}, {"ECDH1_DERIVE", 0x1050}, {"ECDH1_COFACTOR_DERIVE", 0x1051},
	{"ECDH_AES_KEY_WRAP", 0x1053}, {"RSA_AES_KEY_WRAP", 0x1054}, {"EC_EDWARDS_KEY_PAIR_GEN", 0x1055}, {"EDDSA", 0x1057},
	{"AES_KEY_GEN", 0x1080}, {"AES_ECB", 0x1081}, {"AES_CBC", 0x1082}, {"AES_MAC", 0x1083}, {"AES_CBC_PAD", 0x1085},
	{"AES_CTR", 0x1086}, {"AES_GCM", 0x1087}, {"AES_CCM", 0x1088}, {"AES_CTS", 0x1089}, {"AES_CMAC", 0x108A},
	{"AES_GMAC", 0x108E}, {"DES3_ECB_ENCRYPT_DATA", 0x1102}, {"DES3_CBC_ENCRYPT_DATA", 0x1103},
	{"AES_ECB_ENCRYPT_DATA", 0x1104}, {"AES_CBC_ENCRYPT_DATA", 0x1105}, {"AES_KEY_WRAP", 0x2109},
	{"AES_KEY_WRAP_PAD", 0x210A}, {"AES_KEY_WRAP_KWP", 0x210B}, {"HKDF_DERIVE", 0x402A},
};

static const char *const functions[FN_COUNT] = {
#define X(name, parameters) #name,
	CK_FUNCTIONS(X)
#undef X
};

static const char *find_name(const struct named *t, size_t n, CK_ULONG value)
{
	for (size_t i = 0; i < n; i++)
		if (t[i].value == value)
			return t[i].name;
	return NULL;
}

static int find_value(const struct named *t, size_t n, const char *name, const char *prefix, CK_ULONG *value)
{
	if (strncmp(name, prefix, strlen(prefix)) == 0)
		name += strlen(prefix);
	for (size_t i = 0; i < n; i++)
		if (strcmp(t[i].name, name) == 0) {
			*value = t[i].value;
			return 1;
		}
	return 0;
}

#define COUNT(t) (sizeof(t) / sizeof *(t))

const char *name_function(enum fn f) { return f < FN_COUNT ? functions[f] : "?"; }

int value_function(const char *name, enum fn *f)
{
	for (int i = 0; i < FN_COUNT; i++)
		if (strcmp(functions[i], name) == 0 || strcmp(functions[i] + 2, name) == 0) {
			*f = (enum fn)i;
			return 1;
		}
	return 0;
}

const char *name_code(CK_RV rv, char *buffer, size_t size)
{
	const char *n = find_name(codes, COUNT(codes), rv);
	if (n)
		return n;
	snprintf(buffer, size, "0x%lX", rv);
	return buffer;
}

int value_code(const char *name, CK_RV *rv) { return find_value(codes, COUNT(codes), name, "CKR_", rv); }

const char *name_mechanism(CK_ULONG m, char *buffer, size_t size)
{
	const char *n = find_name(mechanisms, COUNT(mechanisms), m);
	if (n)
		return n;
	snprintf(buffer, size, "0x%lX", m);
	return buffer;
}

int value_mechanism(const char *name, CK_ULONG *m) { return find_value(mechanisms, COUNT(mechanisms), name, "CKM_", m); }

/* distance is how many letters must be put in, taken out or replaced (Levenshtein), for names of up to 48 letters. */
static unsigned distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned row[49];
	if (n > 48 || m > 48)
		return 99;
	for (size_t j = 0; j <= m; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= m; j++) {
			unsigned up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
			if (up + 1 < best)
				best = up + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = up;
			row[j] = best;
		}
	}
	return row[m];
}

static void consider(const char *wrong, const char *name, const char **best, unsigned *at)
{
	unsigned d = distance(wrong, name);
	if (d < *at)
		*at = d, *best = name;
}

const char *nearest(enum kind_of_name kind, const char *wrong)
{
	const char *best = NULL;
	unsigned at = 4; /* further away is another word, not a slip */
	switch (kind) {
	case NAME_FUNCTION:
		for (int i = 0; i < FN_COUNT; i++) {
			consider(wrong, functions[i], &best, &at);
			consider(wrong, functions[i] + 2, &best, &at);
		}
		break;
	case NAME_CODE:
		if (strncmp(wrong, "CKR_", 4) == 0)
			wrong += 4;
		for (size_t i = 0; i < COUNT(codes); i++)
			consider(wrong, codes[i].name, &best, &at);
		break;
	case NAME_MECHANISM:
		if (strncmp(wrong, "CKM_", 4) == 0)
			wrong += 4;
		for (size_t i = 0; i < COUNT(mechanisms); i++)
			consider(wrong, mechanisms[i].name, &best, &at);
		break;
	}
	return best;
}
