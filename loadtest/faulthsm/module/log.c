/* The last things that were done, for people: a ring of entries. */
#include "faulthsm.h"
#include "names.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ENTRIES 1024

struct entry {
	struct timespec at;
	char id[ID_MAX + 1]; /* empty: a note */
	struct effect effect;
	enum fn fn;
	CK_SESSION_HANDLE session;
	CK_SLOT_ID slot;
	CK_OBJECT_HANDLE key;
	char note[200];
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct entry ring[ENTRIES];
static uint64_t written;

static struct entry *entry(void)
{
	struct entry *e = &ring[written++ % ENTRIES];
	memset(e, 0, sizeof *e);
	clock_gettime(CLOCK_REALTIME, &e->at);
	return e;
}

void log_effect(const struct call *c, const char *id, const struct effect *f)
{
	pthread_mutex_lock(&mu);
	struct entry *e = entry();
	snprintf(e->id, sizeof e->id, "%s", id);
	e->effect = *f;
	e->fn = c->fn;
	e->session = c->session;
	e->slot = c->slot;
	e->key = c->key;
	pthread_mutex_unlock(&mu);
}

void log_note(const char *format, ...)
{
	va_list a;
	va_start(a, format);
	pthread_mutex_lock(&mu);
	struct entry *e = entry();
	vsnprintf(e->note, sizeof e->note, format, a);
	pthread_mutex_unlock(&mu);
	va_end(a);
}

static void print(FILE *out, const struct entry *e)
{
	struct tm tm;
	char when[32], effect[256];
	gmtime_r(&e->at.tv_sec, &tm);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
	fprintf(out, " %s.%06ldZ ", when, e->at.tv_nsec / 1000);
	if (e->id[0] == 0) {
		fprintf(out, "%s\n", e->note);
		return;
	}
	effect_text(&e->effect, effect, sizeof effect);
	if (e->fn == FN_COUNT)
		fprintf(out, "%s: %s\n", e->id, effect);
	else
		fprintf(out, "%s slot=%lu session=%lu key=%lu %s: %s\n", name_function(e->fn), e->slot, e->session, e->key, e->id, effect);
}

void log_print(FILE *out, size_t most)
{
	/* Copied, so that a slow reader does not hold up calls. */
	struct entry *copy = malloc(sizeof ring);
	if (copy == NULL)
		return;
	pthread_mutex_lock(&mu);
	memcpy(copy, ring, sizeof ring);
	uint64_t n = written;
	pthread_mutex_unlock(&mu);
	uint64_t have = n < ENTRIES ? n : ENTRIES;
	if (most < have)
		have = most;
	for (uint64_t i = n - have; i < n; i++)
		print(out, &copy[i % ENTRIES]);
	free(copy);
}

void log_forked(void) { pthread_mutex_init(&mu, NULL); }
