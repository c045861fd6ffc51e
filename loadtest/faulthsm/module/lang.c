#include "lang.h"
#include "device.h"
#include "names.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX 256

#define NS 1LL
#define US (1000 * NS)
#define MS (1000 * US)
#define SECOND (1000 * MS)
#define LONGEST (24 * 3600 * SECOND)

/* The words of one line, and how far they have been read. */
struct line {
	char buffer[LINE_MAX_LEN + 1];
	char *words[WORDS_MAX];
	int n, at;
	struct lang_error *e;
};

static int fail(struct line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int fail(struct line *l, const char *format, ...)
{
	va_list a;
	va_start(a, format);
	vsnprintf(l->e->text, sizeof l->e->text, format, a);
	va_end(a);
	return 0;
}

static const char *peek(struct line *l) { return l->at < l->n ? l->words[l->at] : NULL; }

static int is(struct line *l, const char *word)
{
	const char *w = peek(l);
	if (w == NULL || strcmp(w, word) != 0)
		return 0;
	l->at++;
	return 1;
}

/* next takes a word; what says what it should have been when there is none. */
static const char *next(struct line *l, const char *what)
{
	if (l->at < l->n)
		return l->words[l->at++];
	fail(l, "the line ends where %s should be", what);
	return NULL;
}

static int split(struct line *l, const char *text, size_t len)
{
	l->n = l->at = 0;
	if (len > 0 && text[len - 1] == '\r')
		len--;
	if (len > LINE_MAX_LEN)
		return fail(l, "the line has %zu characters; write at most %d", len, LINE_MAX_LEN);
	memcpy(l->buffer, text, len);
	l->buffer[len] = 0;
	for (size_t i = 0; i < len;) {
		unsigned char c = (unsigned char)l->buffer[i];
		if (c == ' ' || c == '\t') {
			i++;
			continue;
		}
		if (c == '#')
			break;
		if (l->n == WORDS_MAX)
			return fail(l, "the line has more than %d words; write several rules", WORDS_MAX);
		l->words[l->n++] = l->buffer + i;
		for (; i < len && l->buffer[i] != ' ' && l->buffer[i] != '\t'; i++)
			if ((unsigned char)l->buffer[i] < 0x21 || (unsigned char)l->buffer[i] > 0x7E)
				return fail(l, "character %zu is 0x%02X; write printable ASCII only", i + 1, (unsigned char)l->buffer[i]);
		l->buffer[i++] = 0;
	}
	return 1;
}

static int whole(struct line *l, const char *what, uint64_t least, uint64_t most, uint64_t *out)
{
	const char *w = next(l, what);
	if (w == NULL)
		return 0;
	int hex = w[0] == '0' && (w[1] == 'x' || w[1] == 'X');
	const char *digits = hex ? w + 2 : w;
	int good = *digits != 0 && strlen(digits) <= (hex ? 16 : 20);
	for (const char *p = digits; *p; p++)
		good = good && (hex ? strchr("0123456789abcdefABCDEF", *p) != NULL : *p >= '0' && *p <= '9');
	errno = 0;
	if (good)
		*out = strtoull(digits, NULL, hex ? 16 : 10);
	if (!good || errno != 0 || *out < least || *out > most)
		return fail(l, "\"%s\" is not %s: write a whole number from %llu to %llu", w, what, (unsigned long long)least, (unsigned long long)most);
	return 1;
}

/* decimal reads digits with at most one point between them. */
static int decimal(const char *w, size_t len, double *out)
{
	char digits[32];
	int points = 0;
	if (len == 0 || len >= sizeof digits || w[0] == '.' || w[len - 1] == '.')
		return 0;
	for (size_t i = 0; i < len; i++) {
		if (w[i] == '.')
			points++;
		else if (w[i] < '0' || w[i] > '9')
			return 0;
		digits[i] = w[i];
	}
	digits[len] = 0;
	*out = strtod(digits, NULL);
	return points <= 1;
}

static int fraction(struct line *l, const char *what, double most, double *out)
{
	const char *w = next(l, what);
	if (w == NULL)
		return 0;
	if (!decimal(w, strlen(w), out) || !(*out > 0) || *out > most)
		return fail(l, "\"%s\" is not %s: write a number above 0, at most %g", w, what, most);
	return 1;
}

static const struct { const char *unit; int64_t ns; } units[] = {
	{"ns", NS}, {"us", US}, {"ms", MS}, {"s", SECOND}, {"m", 60 * SECOND}, {"h", 3600 * SECOND},
};

#define UNITS (sizeof units / sizeof *units)

static int parse_time(const char *w, int64_t *out)
{
	size_t digits = strspn(w, "0123456789.");
	double v;
	for (size_t i = 0; i < UNITS; i++)
		if (strcmp(w + digits, units[i].unit) == 0 && decimal(w, digits, &v)) {
			double ns = v * (double)units[i].ns;
			if (!(ns >= 1) || ns > (double)LONGEST)
				return 0;
			*out = (int64_t)llround(ns);
			return 1;
		}
	return 0;
}

static int duration(struct line *l, const char *what, int64_t *out)
{
	const char *w = next(l, what);
	if (w == NULL)
		return 0;
	if (!parse_time(w, out))
		return fail(l, "\"%s\" is not %s: write a number with its unit, from 1ns to 24h: 500us, 5ms, 1.5s, 2m", w, what);
	return 1;
}

static void time_text(int64_t ns, char *out, size_t size)
{
	size_t u = 0;
	for (size_t i = 0; i < UNITS; i++)
		if (ns % units[i].ns == 0)
			u = i;
	snprintf(out, size, "%lld%s", (long long)(ns / units[u].ns), units[u].unit);
}

static int code(struct line *l, CK_RV *out)
{
	const char *w = next(l, "a return code");
	if (w == NULL)
		return 0;
	if (value_code(w, out))
		return 1;
	if (*w >= '0' && *w <= '9') {
		uint64_t v;
		l->at--;
		if (!whole(l, "a return code", 0, UINT64_MAX, &v))
			return 0;
		*out = v;
		return 1;
	}
	const char *n = nearest(NAME_CODE, w);
	if (n)
		return fail(l, "unknown return code \"%s\": did you mean %s?", w, n);
	return fail(l, "unknown return code \"%s\": write a name as DEVICE_ERROR or a number as 0x30", w);
}

static int spread(struct line *l, struct dist *d)
{
	int64_t a, b;
	*d = (struct dist){FIXED, 0, 0};
	if (is(l, "uniform")) {
		d->kind = UNIFORM;
		if (!duration(l, "the shortest time", &a) || !duration(l, "the longest time", &b))
			return 0;
		if (a > b)
			return fail(l, "uniform wants the shorter time first");
		d->a = (double)a, d->b = (double)b;
		return 1;
	}
	if (is(l, "exponential")) {
		d->kind = EXPONENTIAL;
		if (!duration(l, "the mean time", &a))
			return 0;
	} else if (is(l, "lognormal")) {
		d->kind = LOGNORMAL;
		if (!duration(l, "the median time", &a) || !fraction(l, "sigma, the deviation of the logarithm", 5, &d->b))
			return 0;
	} else {
		(void)is(l, "fixed");
		const char *w = peek(l);
		if (w && (*w < '0' || *w > '9'))
			return fail(l, "\"%s\" is no time: write a duration as 5ms, or uniform 1ms 9ms, exponential 5ms, lognormal 5ms 0.5", w);
		if (!duration(l, "a time", &a))
			return 0;
	}
	d->a = (double)a;
	return 1;
}

static void spread_text(const struct dist *d, char *out, size_t size)
{
	char a[32], b[32];
	time_text((int64_t)d->a, a, sizeof a);
	switch (d->kind) {
	case FIXED: snprintf(out, size, "%s", a); break;
	case UNIFORM: time_text((int64_t)d->b, b, sizeof b), snprintf(out, size, "uniform %s %s", a, b); break;
	case EXPONENTIAL: snprintf(out, size, "exponential %s", a); break;
	case LOGNORMAL: snprintf(out, size, "lognormal %s %.10g", a, d->b); break;
	}
}

static int bytes(struct line *l, uint64_t *out)
{
	const char *w = next(l, "a number of bytes");
	if (w == NULL)
		return 0;
	size_t digits = strspn(w, "0123456789");
	uint64_t unit = strcmp(w + digits, "B") == 0 ? 1 : strcmp(w + digits, "KiB") == 0 ? 1024 : strcmp(w + digits, "MiB") == 0 ? 1 << 20 : 0;
	if (digits == 0 || digits > 9 || unit == 0 || (*out = strtoull(w, NULL, 10) * unit) == 0 || *out > 64 << 20)
		return fail(l, "\"%s\" is no number of bytes: write 1B to 64MiB, as 512B, 64KiB, 1MiB", w);
	return 1;
}

static const char effects_list[] =
	"call, return, sleep, hang, crash, logout, close-session, close-sessions, forget-objects, remove-token, flip, shorten, leak, serve, nothing";

static int effect(struct line *l, struct effect *f)
{
	memset(f, 0, sizeof *f);
	const char *w = next(l, "an effect");
	if (w == NULL)
		return 0;
	static const struct { const char *word; enum effect_kind kind; } plain[] = {
		{"call", CALL}, {"return", RETURN}, {"sleep", SLEEP}, {"hang", HANG}, {"crash", CRASH}, {"logout", LOGOUT},
		{"close-session", CLOSE_SESSION}, {"close-sessions", CLOSE_SESSIONS}, {"forget-objects", FORGET_OBJECTS},
		{"remove-token", REMOVE_TOKEN}, {"flip", FLIP}, {"shorten", SHORTEN}, {"leak", LEAK}, {"serve", SERVE}, {"nothing", NOTHING},
	};
	size_t i = 0;
	while (i < sizeof plain / sizeof *plain && strcmp(plain[i].word, w) != 0)
		i++;
	if (i == sizeof plain / sizeof *plain)
		return fail(l, "unknown effect \"%s\": write one of %s", w, effects_list);
	f->kind = plain[i].kind;
	switch (f->kind) {
	case RETURN:
		if (!code(l, &f->code))
			return 0;
		f->leave_active = is(l, "leave-active");
		return 1;
	case SLEEP:
		return spread(l, &f->dist);
	case LOGOUT:
		f->has_code = is(l, "code");
		return !f->has_code || code(l, &f->code);
	case REMOVE_TOKEN:
		return !is(l, "for") || duration(l, "how long the token is away", &f->time);
	case FLIP:
		f->n = UINT64_MAX;
		return !is(l, "bit") || whole(l, "the number of a bit", 0, 1 << 30, &f->n);
	case SHORTEN:
		return bytes(l, &f->n);
	case LEAK:
		return bytes(l, &f->n);
	case SERVE:
		if (!whole(l, "how many calls are served at once", 1, SERVERS_MAX, &f->n) || !spread(l, &f->dist))
			return 0;
		f->has_code = is(l, "refuse");
		if (!f->has_code)
			return 1;
		if (!code(l, &f->code))
			return 0;
		if (!is(l, "beyond"))
			return fail(l, "after \"refuse CODE\" write \"beyond\" and the longest time a call may wait, as beyond 1s");
		return duration(l, "the longest time a call may wait", &f->time);
	default:
		return 1;
	}
}

void effect_text(const struct effect *f, char *out, size_t size)
{
	char d[96], c[32], t[32];
	switch (f->kind) {
	case CALL: snprintf(out, size, "call"); break;
	case RETURN: snprintf(out, size, "return %s%s", name_code(f->code, c, sizeof c), f->leave_active ? " leave-active" : ""); break;
	case SLEEP: spread_text(&f->dist, d, sizeof d), snprintf(out, size, "sleep %s", d); break;
	case HANG: snprintf(out, size, "hang"); break;
	case CRASH: snprintf(out, size, "crash"); break;
	case LOGOUT:
		snprintf(out, size, "logout%s%s", f->has_code ? " code " : "", f->has_code ? name_code(f->code, c, sizeof c) : "");
		break;
	case CLOSE_SESSION: snprintf(out, size, "close-session"); break;
	case CLOSE_SESSIONS: snprintf(out, size, "close-sessions"); break;
	case FORGET_OBJECTS: snprintf(out, size, "forget-objects"); break;
	case REMOVE_TOKEN:
		if (f->time)
			time_text(f->time, t, sizeof t);
		snprintf(out, size, "remove-token%s%s", f->time ? " for " : "", f->time ? t : "");
		break;
	case FLIP:
		if (f->n == UINT64_MAX)
			snprintf(out, size, "flip");
		else
			snprintf(out, size, "flip bit %llu", (unsigned long long)f->n);
		break;
	case SHORTEN: snprintf(out, size, "shorten %lluB", (unsigned long long)f->n); break;
	case LEAK: snprintf(out, size, "leak %lluB", (unsigned long long)f->n); break;
	case SERVE:
		spread_text(&f->dist, d, sizeof d);
		if (f->has_code) {
			time_text(f->time, t, sizeof t);
			snprintf(out, size, "serve %llu %s refuse %s beyond %s", (unsigned long long)f->n, d, name_code(f->code, c, sizeof c), t);
		} else
			snprintf(out, size, "serve %llu %s", (unsigned long long)f->n, d);
		break;
	case NOTHING: snprintf(out, size, "nothing"); break;
	}
}

static int identifier(struct line *l, char *out)
{
	const char *w = next(l, "the rule's id");
	if (w == NULL)
		return 0;
	size_t n = strlen(w);
	int good = n <= ID_MAX && ((*w >= 'a' && *w <= 'z') || (*w >= '0' && *w <= '9'));
	for (const char *p = w; *p && good; p++)
		good = (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '-' || *p == '_' || *p == '.';
	if (!good)
		return fail(l, "\"%.40s\" is no id: write up to %d of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit", w, ID_MAX);
	memcpy(out, w, n + 1);
	return 1;
}

/* in_session are the functions of PKCS#11 that take a session, computes those that do cryptography beside preparing it. */
static int in_session(int f) { return f == FN_C_InitPIN || f == FN_C_SetPIN || (f >= FN_C_CloseSession && f != FN_C_CloseAllSessions && f <= FN_C_CancelFunction); }

static int computes(int f)
{
	const char *n = name_function((enum fn)f);
	size_t len = strlen(n);
	return f >= FN_C_EncryptInit && f <= FN_C_GenerateRandom && f != FN_C_SeedRandom && strcmp(n + len - 4, "Init") != 0;
}

static int functions(struct line *l, struct item *it)
{
	char *w = (char *)next(l, "a function");
	if (w == NULL)
		return 0;
	if (strstr(w, ",,") || w[0] == ',' || w[strlen(w) - 1] == ',')
		return fail(l, "\"%s\" has a comma too many: write C_Sign,C_Encrypt without spaces", w);
	char *save = NULL;
	for (char *p = strtok_r(w, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		enum fn f;
		if (value_function(p, &f)) {
			it->on[f] = 1;
			continue;
		}
		int any = strcmp(p, "any") == 0, session = strcmp(p, "session") == 0, crypto = strcmp(p, "crypto") == 0;
		if (!any && !session && !crypto) {
			const char *n = nearest(NAME_FUNCTION, p);
			if (n)
				return fail(l, "unknown function \"%s\": did you mean %s%s?", p, n[0] == 'C' && n[1] == '_' ? "" : "C_", n);
			return fail(l, "unknown function \"%s\": write a name as C_Sign, or any, session or crypto", p);
		}
		for (int i = 0; i < FN_COUNT; i++)
			if (any || (session && in_session(i)) || (crypto && computes(i)))
				it->on[i] = 1;
	}
	return 1;
}

static int wanted(struct line *l, const char *what, struct want *w)
{
	w->set = 1;
	return whole(l, what, 0, UINT64_MAX, &w->value);
}

static int mechanism(struct line *l, struct want *w)
{
	const char *name = next(l, "a mechanism");
	if (name == NULL)
		return 0;
	CK_ULONG m;
	w->set = 1;
	if (value_mechanism(name, &m)) {
		w->value = m;
		return 1;
	}
	if (*name >= '0' && *name <= '9') {
		l->at--;
		return whole(l, "the number of a mechanism", 0, UINT64_MAX, &w->value);
	}
	const char *n = nearest(NAME_MECHANISM, name);
	if (n)
		return fail(l, "unknown mechanism \"%s\": did you mean %s?", name, n);
	return fail(l, "unknown mechanism \"%s\": write a name as ECDSA or a number as 0x1041", name);
}

static const char conditions_list[] = "nth, every, skip, times, probability, from, lasts, session, key, slot, mechanism";

static int condition(struct line *l, struct item *it, const char *w)
{
	const uint64_t most = INT64_MAX;
	int twice = 0;
#define ONCE(field) (twice = (field) != 0)
	if (strcmp(w, "nth") == 0 && !ONCE(it->nth))
		return whole(l, "which call", 1, most, &it->nth);
	if (strcmp(w, "every") == 0 && !ONCE(it->every))
		return whole(l, "every how many calls", 1, most, &it->every);
	if (strcmp(w, "skip") == 0 && !ONCE(it->skip))
		return whole(l, "how many calls are left alone", 1, most, &it->skip);
	if (strcmp(w, "times") == 0 && !ONCE(it->times))
		return whole(l, "how many times", 1, most, &it->times);
	if (strcmp(w, "probability") == 0 && !ONCE(it->probability > 0))
		return fraction(l, "a probability", 1, &it->probability);
	if (strcmp(w, "from") == 0 && !ONCE(it->from))
		return duration(l, "when it begins", &it->from);
	if (strcmp(w, "lasts") == 0 && !ONCE(it->lasts))
		return duration(l, "how long it lasts", &it->lasts);
	if (strcmp(w, "session") == 0 && !ONCE(it->session.set))
		return wanted(l, "a session's handle", &it->session);
	if (strcmp(w, "key") == 0 && !ONCE(it->key.set))
		return wanted(l, "a key's handle", &it->key);
	if (strcmp(w, "slot") == 0 && !ONCE(it->slot.set))
		return wanted(l, "a slot's number", &it->slot);
	if (strcmp(w, "mechanism") == 0 && !ONCE(it->mechanism.set))
		return mechanism(l, &it->mechanism);
#undef ONCE
	if (twice)
		return fail(l, "\"%s\" is said twice", w);
	return fail(l, "unknown condition \"%s\": write one of %s, or \"do\" and an effect", w, conditions_list);
}

static int rule(struct line *l, struct item *it)
{
	it->kind = RULE;
	if (!identifier(l, it->id))
		return 0;
	if (!is(l, "on"))
		return fail(l, "after the id write \"on\" and functions, as rule %s on C_Sign do hang", it->id);
	if (!functions(l, it))
		return 0;
	while (!is(l, "do")) {
		const char *w = next(l, "\"do\" and an effect");
		if (w == NULL || !condition(l, it, w))
			return 0;
	}
	if (it->nth && (it->every || it->skip || it->times))
		return fail(l, "\"nth\" says which call it is: leave out every, skip and times");
	int ended = 0, served = 0;
	do {
		if (it->effect_count == EFFECTS_MAX)
			return fail(l, "a rule has at most %d effects: write several rules", EFFECTS_MAX);
		struct effect *f = &it->effects[it->effect_count];
		if (!effect(l, f))
			return 0;
		if (ended)
			return fail(l, "nothing comes after \"return\" and \"crash\": put them last");
		it->effect_count++;
		ended = f->kind == RETURN || f->kind == CRASH;
		if (f->kind == CALL && it->calls++)
			return fail(l, "\"call\" is said twice: the token is called once");
		if (f->kind == SERVE && served++)
			return fail(l, "\"serve\" is said twice: write several rules");
	} while (is(l, "then"));
	return 1;
}

static int optional_code(struct line *l, CK_RV standard, CK_RV *out)
{
	*out = standard;
	return !is(l, "code") || code(l, out);
}

static int limit(struct line *l, struct item *it)
{
	if (is(l, "sessions")) {
		it->kind = LIMIT_SESSIONS;
		strcpy(it->id, "limit-sessions");
		if (!whole(l, "how many sessions", 0, 1000000, &it->n))
			return 0;
		if (is(l, "linger") && !duration(l, "how long sessions of a dead process still count", &it->time))
			return 0;
		return optional_code(l, CKR_SESSION_COUNT, &it->code);
	}
	if (is(l, "objects")) {
		it->kind = LIMIT_OBJECTS;
		strcpy(it->id, "limit-objects");
		return whole(l, "how many session objects", 0, 100000000, &it->n) && optional_code(l, CKR_DEVICE_MEMORY, &it->code);
	}
	if (is(l, "opens")) {
		it->kind = LIMIT_OPENS;
		strcpy(it->id, "limit-opens");
		if (!whole(l, "how many sessions may be opened", 1, 64, &it->n))
			return 0;
		if (!is(l, "per"))
			return fail(l, "write \"per\" and a time, as limit opens 10 per 1s");
		return duration(l, "a time", &it->time) && optional_code(l, CKR_SESSION_COUNT, &it->code);
	}
	const char *w = peek(l);
	return fail(l, "unknown limit \"%s\": write limit sessions N, limit objects N or limit opens N per TIME", w ? w : "");
}

static int token(struct line *l, struct item *it)
{
	it->kind = TOKEN;
	strcpy(it->id, "token");
	if (is(l, "present"))
		return 1;
	if (!is(l, "absent"))
		return fail(l, "write token absent or token present");
	it->absent = 1;
	return optional_code(l, CKR_DEVICE_REMOVED, &it->code);
}

static int device(struct line *l, struct item *it)
{
	char known[256] = "";
	it->kind = DEVICE;
	it->scale = 1;
	strcpy(it->id, "device");
	for (size_t i = 0; device_at(i); i++)
		snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", device_at(i)->name);
	const char *w = next(l, "a device's name");
	if (w == NULL)
		return 0;
	it->device = device_named(w);
	if (it->device == NULL)
		return fail(l, "unknown device \"%s\": write one of %s", w, known);
	return !is(l, "scale") || fraction(l, "by how much its times are multiplied", 100, &it->scale);
}

static int pin(struct line *l, struct item *it)
{
	it->kind = PIN_TRIES;
	strcpy(it->id, "pin-tries");
	if (!is(l, "tries"))
		return fail(l, "write pin tries N: after N wrong PINs the PIN is locked");
	return whole(l, "how many wrong PINs lock it", 1, 100, &it->n);
}

static int seed(struct line *l, struct item *it)
{
	it->kind = SEED;
	strcpy(it->id, "seed");
	return whole(l, "a seed", 0, UINT64_MAX, &it->n);
}

static const struct { const char *word; int (*parse)(struct line *, struct item *); } statements[] = {
	{"rule", rule}, {"limit", limit}, {"pin", pin}, {"token", token}, {"device", device}, {"seed", seed},
};

#define STATEMENTS (sizeof statements / sizeof *statements)

int lang_statement(const char *word)
{
	for (size_t i = 0; i < STATEMENTS; i++)
		if (strcmp(statements[i].word, word) == 0)
			return 1;
	return 0;
}

static int statement(struct line *l, struct item *it)
{
	const char *w = l->words[l->at++];
	for (size_t i = 0; i < STATEMENTS; i++)
		if (strcmp(statements[i].word, w) == 0) {
			if (!statements[i].parse(l, it))
				return 0;
			if (l->at < l->n)
				return fail(l, "\"%s\" is too much here: the statement was complete before it", l->words[l->at]);
			return 1;
		}
	return fail(l, "unknown statement \"%s\": write one of rule, limit, pin, token, device, seed", w);
}

/* put appends to the canonical text. */
struct text { char at[LINE_MAX_LEN * 2]; size_t n; };

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *t, const char *format, ...)
{
	va_list a;
	va_start(a, format);
	int n = vsnprintf(t->at + t->n, sizeof t->at - t->n, format, a);
	va_end(a);
	if (n > 0)
		t->n += (size_t)n < sizeof t->at - t->n ? (size_t)n : sizeof t->at - t->n - 1;
}

static void put_number(struct text *t, const char *word, uint64_t n)
{
	if (n)
		put(t, " %s %llu", word, (unsigned long long)n);
}

static void put_time(struct text *t, const char *word, int64_t ns)
{
	char b[32];
	if (ns) {
		time_text(ns, b, sizeof b);
		put(t, " %s %s", word, b);
	}
}

static void put_wanted(struct text *t, const char *word, struct want w)
{
	if (w.set)
		put(t, " %s %llu", word, (unsigned long long)w.value);
}

static void put_functions(struct text *t, const struct item *it)
{
	int all = 1, sessions = 1, crypto = 1;
	for (int i = 0; i < FN_COUNT; i++) {
		all &= it->on[i];
		sessions &= it->on[i] == in_session(i);
		crypto &= it->on[i] == computes(i);
	}
	if (all || sessions || crypto) {
		put(t, "%s", all ? "any" : sessions ? "session" : "crypto");
		return;
	}
	const char *comma = "";
	for (int i = 0; i < FN_COUNT; i++)
		if (it->on[i]) {
			put(t, "%s%s", comma, name_function((enum fn)i));
			comma = ",";
		}
}

static void put_rule(struct text *t, const struct item *it)
{
	char b[256];
	put(t, "rule %s on ", it->id);
	put_functions(t, it);
	put_number(t, "nth", it->nth);
	put_number(t, "every", it->every);
	put_number(t, "skip", it->skip);
	put_number(t, "times", it->times);
	if (it->probability > 0)
		put(t, " probability %.10g", it->probability);
	put_time(t, "from", it->from);
	put_time(t, "lasts", it->lasts);
	put_wanted(t, "session", it->session);
	put_wanted(t, "key", it->key);
	put_wanted(t, "slot", it->slot);
	if (it->mechanism.set)
		put(t, " mechanism %s", name_mechanism(it->mechanism.value, b, sizeof b));
	for (int i = 0; i < it->effect_count; i++) {
		effect_text(&it->effects[i], b, sizeof b);
		put(t, " %s %s", i ? "then" : "do", b);
	}
}

/* canonical is the statement in its one form: two statements mean the same if, and only if, it is the same. */
static char *canonical(const struct item *it)
{
	struct text t = {.n = 0};
	char c[32];
	switch (it->kind) {
	case RULE: put_rule(&t, it); break;
	case LIMIT_SESSIONS:
		put(&t, "limit sessions %llu", (unsigned long long)it->n);
		put_time(&t, "linger", it->time);
		put(&t, " code %s", name_code(it->code, c, sizeof c));
		break;
	case LIMIT_OBJECTS: put(&t, "limit objects %llu code %s", (unsigned long long)it->n, name_code(it->code, c, sizeof c)); break;
	case LIMIT_OPENS:
		put(&t, "limit opens %llu", (unsigned long long)it->n);
		put_time(&t, "per", it->time);
		put(&t, " code %s", name_code(it->code, c, sizeof c));
		break;
	case PIN_TRIES: put(&t, "pin tries %llu", (unsigned long long)it->n); break;
	case TOKEN:
		if (it->absent)
			put(&t, "token absent code %s", name_code(it->code, c, sizeof c));
		else
			put(&t, "token present");
		break;
	case DEVICE: put(&t, "device %s scale %.10g", it->device->name, it->scale); break;
	case SEED: put(&t, "seed %llu", (unsigned long long)it->n); break;
	}
	return strdup(t.at);
}

void item_free(struct item *it)
{
	if (it == NULL)
		return;
	pthread_mutex_destroy(&it->mu);
	pthread_cond_destroy(&it->changed);
	if (it->owns_servers)
		free(it->free_at);
	free(it->text);
	free(it);
}

void items_free(struct items *l)
{
	for (size_t i = 0; i < l->n; i++)
		item_free(l->at[i]);
	free(l->at);
	*l = (struct items){0};
}

static struct item *new_item(void)
{
	struct item *it = calloc(1, sizeof *it);
	if (it == NULL)
		return NULL;
	pthread_condattr_t a;
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_mutex_init(&it->mu, NULL);
	pthread_cond_init(&it->changed, &a);
	pthread_condattr_destroy(&a);
	return it;
}

static int out_of_memory(struct line *l) { return fail(l, "out of memory"); }

static int add_line(struct line *l, struct items *out)
{
	if (l->n == 0)
		return 1;
	struct item *it = new_item();
	if (it == NULL)
		return out_of_memory(l);
	if (!statement(l, it)) {
		item_free(it);
		return 0;
	}
	it->text = canonical(it);
	struct item **more = it->text ? realloc(out->at, (out->n + 1) * sizeof *more) : NULL;
	if (more == NULL) {
		item_free(it);
		return out_of_memory(l);
	}
	out->at = more;
	for (size_t i = 0; i < out->n; i++)
		if (strcmp(out->at[i]->id, it->id) == 0) {
			int is_rule = it->kind == RULE;
			char id[ID_MAX + 1];
			strcpy(id, it->id);
			item_free(it);
			return is_rule || out->at[i]->kind == RULE
				? fail(l, "there is an item \"%s\" above already: write another id", id)
				: fail(l, "\"%s\" is said above already: say it once", id);
		}
	if (out->n == ITEMS_MAX) {
		item_free(it);
		return fail(l, "there are more than %d statements", ITEMS_MAX);
	}
	out->at[out->n++] = it;
	return 1;
}

int lang_parse(const char *text, size_t len, struct items *out, struct lang_error *e)
{
	struct line l = {.e = e};
	*out = (struct items){0};
	*e = (struct lang_error){0};
	while (len > 0) {
		const char *end = memchr(text, '\n', len);
		size_t n = end ? (size_t)(end - text) : len;
		e->line++;
		if (!split(&l, text, n) || !add_line(&l, out)) {
			items_free(out);
			return 0;
		}
		text += n, len -= n;
		if (end)
			text++, len--;
	}
	return 1;
}

const char *lang_error_text(const struct lang_error *e, char *buffer, size_t size)
{
	if (e->line)
		snprintf(buffer, size, "line %u: %s", e->line, e->text);
	else
		snprintf(buffer, size, "%s", e->text);
	return buffer;
}

int lang_effect(const char *text, struct effect *out, struct lang_error *e)
{
	struct line l = {.e = e};
	*e = (struct lang_error){.line = 1};
	if (!split(&l, text, strlen(text)) || !effect(&l, out))
		return 0;
	if (l.at < l.n)
		return fail(&l, "\"%s\" is too much here", l.words[l.at]);
	return 1;
}
