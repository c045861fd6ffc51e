#include "words.h"
#include "names.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS 1LL
#define US (1000 * NS)
#define MS (1000 * US)
#define SECOND (1000 * MS)
#define LONGEST (24 * 3600 * SECOND)

int fail(struct line *l, const char *format, ...)
{
	va_list a;
	va_start(a, format);
	vsnprintf(l->e->text, sizeof l->e->text, format, a);
	va_end(a);
	return 0;
}

const char *peek(struct line *l) { return l->at < l->n ? l->words[l->at] : NULL; }

int is(struct line *l, const char *word)
{
	const char *w = peek(l);
	if (w == NULL || strcmp(w, word) != 0)
		return 0;
	l->at++;
	return 1;
}

const char *next(struct line *l, const char *what)
{
	if (l->at < l->n)
		return l->words[l->at++];
	fail(l, "the line ends where %s should be", what);
	return NULL;
}

int split(struct line *l, const char *text, size_t len)
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

int whole(struct line *l, const char *what, uint64_t least, uint64_t most, uint64_t *out)
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

int fraction(struct line *l, const char *what, double most, double *out)
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

int duration(struct line *l, const char *what, int64_t *out)
{
	const char *w = next(l, what);
	if (w == NULL)
		return 0;
	if (!parse_time(w, out))
		return fail(l, "\"%s\" is not %s: write a number with its unit, from 1ns to 24h: 500us, 5ms, 1.5s, 2m", w, what);
	return 1;
}

void time_text(int64_t ns, char *out, size_t size)
{
	size_t u = 0;
	for (size_t i = 0; i < UNITS; i++)
		if (ns % units[i].ns == 0)
			u = i;
	snprintf(out, size, "%lld%s", (long long)(ns / units[u].ns), units[u].unit);
}

int code(struct line *l, CK_RV *out)
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

int spread(struct line *l, struct dist *d)
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

void spread_text(const struct dist *d, char *out, size_t size)
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

int bytes(struct line *l, uint64_t *out)
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
