/*
 * A PKCS#11 module whose answers about lengths and numbers are lies, for the tests of what Keyway makes of them. It
 * writes no byte beyond what it is given: that could not be survived. The lie is chosen by the key's or object's handle.
 */
#include <string.h>

typedef unsigned long ulong;
typedef unsigned char byte;

enum { HONEST = 1, ONE_MORE, HALF_OF_ALL, ALL, NOTHING, NEVER_ENOUGH, TOO_SHORT };

static ulong lie(ulong how, ulong cap, ulong honest)
{
	switch (how) {
	case ONE_MORE: return cap + 1;
	case HALF_OF_ALL: return 1UL << 63;
	case ALL: return ~0UL;
	case NOTHING: return 0;
	case TOO_SHORT: return honest - 1;
	}
	return honest;
}

static ulong key, wanted;

static ulong ok(void) { return 0; }
static ulong unsupported(void) { return 0x54; }

typedef struct { byte v[2]; byte manufacturer[32]; ulong flags; byte description[32]; byte lib[2]; } info;
static ulong get_info(info *i) { memset(i, ' ', sizeof *i); i->flags = 0; return 0; }

static ulong slots(byte present, ulong *list, ulong *n)
{
	if (list)
		list[0] = 7;
	*n = 1;
	return 0;
}

typedef struct {
	byte label[32], manufacturer[32], model[16], serial[16];
	ulong flags, numbers[10];
	byte hw[2], fw[2], time[16];
} token_info;
static ulong get_token_info(ulong slot, token_info *t)
{
	memset(t, 0, sizeof *t);
	memset(t, ' ', 96);
	memcpy(t->label, "liar", 4);
	memcpy(t->serial, "0", 1);
	t->flags = 0x400; /* initialised, wants no login */
	return 0;
}

static const ulong all[] = {0x251, 0x1087, 0x2109, 0x9};
static ulong mechanisms(ulong slot, ulong *list, ulong *n)
{
	*n = sizeof all / sizeof *all;
	if (list)
		memcpy(list, all, sizeof all);
	return 0;
}
static ulong mechanism_info(ulong slot, ulong m, ulong *i) { i[0] = 0; i[1] = 1 << 30; i[2] = 0; return 0; }

static ulong open(ulong slot, ulong flags, void *app, void *notify, ulong *session) { static ulong last; *session = ++last; return 0; }
static ulong session_info(ulong s, ulong *i) { i[0] = 7; i[1] = 2; i[2] = 6; i[3] = 0; return 0; }

static ulong init(ulong s, void *m, ulong k) { key = k; return 0; }

static ulong output(ulong how, byte *out, ulong *n, ulong honest)
{
	ulong cap = *n;
	if (how == NEVER_ENOUGH) {
		*n = cap + 1000;
		return 0x150;
	}
	if (honest > cap)
		honest = cap;
	memset(out, 0x11, honest);
	*n = lie(how, cap, honest);
	return 0;
}
static ulong sign(ulong s, byte *in, ulong in_len, byte *out, ulong *n) { return output(key, out, n, 32); }
static ulong encrypt(ulong s, byte *in, ulong in_len, byte *out, ulong *n) { return output(key, out, n, in_len + 16); }
static ulong decrypt(ulong s, byte *in, ulong in_len, byte *out, ulong *n) { return output(key, out, n, 1); }

static ulong create(ulong s, void *a, ulong n, ulong *object) { *object = HONEST; return 0; }
static ulong wrap(ulong s, void *m, ulong kek, ulong k, byte *out, ulong *n) { return output(kek, out, n, 24); }
static ulong unwrap(ulong s, void *m, ulong kek, byte *in, ulong in_len, void *a, ulong n, ulong *object) { *object = kek; return 0; }

typedef struct { ulong type; byte *value; ulong len; } attribute;
static ulong get_attribute(ulong s, ulong object, attribute *a, ulong n)
{
	ulong honest = a->len < 8 ? a->len : 8;
	if (object == NEVER_ENOUGH) {
		a->len = ~0UL;
		return 0x150;
	}
	memset(a->value, 0, honest);
	a->len = lie(object, a->len, honest);
	return 0;
}

static ulong find_init(ulong s, attribute *a, ulong n)
{
	for (; n > 0; n--, a++)
		if (a->type == 0x102)
			wanted = a->value[0];
	return 0;
}
static ulong find(ulong s, ulong *objects, ulong max, ulong *n)
{
	objects[0] = 0x666;
	*n = lie(wanted, max, 1);
	return 0;
}

static struct { byte version[2]; ulong (*f[68])(); } list = {{2, 40}};

ulong C_GetFunctionList(void **p)
{
	for (int i = 0; i < 68; i++)
		list.f[i] = unsupported;
#define SET(i, fn) list.f[i] = (ulong(*)())fn
	SET(0, ok), SET(1, ok), SET(2, get_info), SET(3, C_GetFunctionList), SET(4, slots), SET(6, get_token_info), SET(7, mechanisms);
	SET(8, mechanism_info), SET(12, open), SET(13, ok), SET(15, session_info), SET(20, create), SET(22, ok), SET(24, get_attribute);
	SET(26, find_init), SET(27, find), SET(28, ok), SET(29, init), SET(30, encrypt), SET(33, init), SET(34, decrypt);
	SET(42, init), SET(43, sign), SET(60, wrap), SET(61, unwrap), SET(64, ok);
	*p = &list;
	return 0;
}
