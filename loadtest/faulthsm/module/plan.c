/*
 * Which statements are in force. There are two layers, the control file's and the socket's; of the
 * statements there may be one of, the socket's wins. A call holds the plan it began with, so that a
 * statement lives until the last call that met it has returned.
 */
#include "faulthsm.h"
#include "device.h"

#include <stdlib.h>
#include <string.h>

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct items layers[2]; /* by enum origin, under mu */
static struct plan *current;   /* under mu */

static void item_drop(struct item *it)
{
	if (atomic_fetch_sub(&it->refs, 1) == 1)
		item_free(it);
}

static void plan_free(struct plan *p)
{
	for (size_t i = 0; i < p->n; i++)
		item_drop(p->at[i]);
	free(p->at);
	free(p);
}

struct plan *plan_hold(void)
{
	pthread_mutex_lock(&mu);
	struct plan *p = current;
	if (p)
		atomic_fetch_add(&p->refs, 1);
	pthread_mutex_unlock(&mu);
	return p;
}

void plan_drop(struct plan *p)
{
	if (p && atomic_fetch_sub(&p->refs, 1) == 1)
		plan_free(p);
}

static int in_plan(const struct plan *p, const struct item *it)
{
	for (size_t i = 0; p && i < p->n; i++)
		if (p->at[i] == it)
			return 1;
	return 0;
}

static uint64_t fnv(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h;
}

/* enforce makes an item ready to meet calls. */
static void enforce(struct item *it)
{
	unsigned servers = it->kind == DEVICE ? it->device->servers : 0;
	for (int i = 0; i < it->effect_count; i++)
		if (it->effects[i].kind == SERVE)
			servers = (unsigned)it->effects[i].n;
	if (servers && it->free_at == NULL)
		it->free_at = shared_servers(it->text, servers, &it->owns_servers);
	it->since = now_ns();
	it->salt = fnv(it->id);
	pthread_mutex_lock(&it->mu);
	it->gone = 0;
	pthread_mutex_unlock(&it->mu);
}

static void retire(struct item *it)
{
	pthread_mutex_lock(&it->mu);
	it->gone = 1;
	pthread_cond_broadcast(&it->changed);
	pthread_mutex_unlock(&it->mu);
}

static void singleton(struct plan *p, struct item *it)
{
	switch (it->kind) {
	case LIMIT_SESSIONS: p->limit_sessions = it; break;
	case LIMIT_OBJECTS: p->limit_objects = it; break;
	case LIMIT_OPENS: p->limit_opens = it; break;
	case PIN_TRIES: p->pin_tries = it; break;
	case CLOCK: p->clock = it; break;
	case TOKEN: p->token = it; break;
	case DEVICE: p->device = it; break;
	case SEED: p->seed = it->n; break;
	case RULE: break;
	}
}

static const struct item *find(const struct items *l, const char *id)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->at[i]->id, id) == 0)
			return l->at[i];
	return NULL;
}

/* rebuild makes the plan of both layers and puts it into force. It returns 0 without memory. */
static int rebuild(void)
{
	struct plan *p = calloc(1, sizeof *p);
	struct items *file = &layers[FROM_FILE], *socket = &layers[FROM_SOCKET];
	if (p)
		p->at = calloc(file->n + socket->n + 1, sizeof *p->at);
	if (p == NULL || p->at == NULL) {
		free(p);
		return 0;
	}
	for (int layer = 0; layer < 2; layer++)
		for (size_t i = 0; i < layers[layer].n; i++) {
			struct item *it = layers[layer].at[i];
			if (layer == FROM_FILE && find(socket, it->id))
				continue;
			atomic_fetch_add(&it->refs, 1);
			p->at[p->n++] = it;
			singleton(p, it);
		}
	p->refs = 1;
	struct plan *old = current;
	for (size_t i = 0; i < p->n; i++)
		if (!in_plan(old, p->at[i]))
			enforce(p->at[i]);
	current = p;
	for (size_t i = 0; old && i < old->n; i++)
		if (!in_plan(p, old->at[i]))
			retire(old->at[i]);
	plan_drop(old);
	return 1;
}

/* settled does what follows from a new plan once no lock is held. */
static void settled(int was_absent)
{
	plan_arm();
	struct plan *p = plan_hold();
	int absent = p && p->token && p->token->absent;
	plan_drop(p);
	if (absent && !was_absent) {
		const char *why = token_close_sessions(NULL);
		log_note("token absent: %s", why ? why : "its sessions are closed");
	}
}

static int absent_now(void) { return current && current->token && current->token->absent; }

void plan_arm(void)
{
	pthread_mutex_lock(&mu);
	int any = current && current->n > 0;
	pthread_mutex_unlock(&mu);
	atomic_store(&armed, any || token_disturbed());
}

static int conflict(const struct items *fresh, enum origin origin, struct lang_error *e)
{
	const struct items *other = &layers[1 - origin];
	for (size_t i = 0; i < fresh->n; i++) {
		const struct item *it = fresh->at[i], *o = find(other, it->id);
		if (o && (o->kind == RULE || it->kind == RULE)) {
			snprintf(e->text, sizeof e->text, "there is an item \"%s\" from the %s already: write another id, or remove that one first",
			         it->id, origin == FROM_FILE ? "socket" : "control file");
			return 1;
		}
	}
	return 0;
}

int plan_file(const char *text, size_t len, struct lang_error *e)
{
	struct items fresh;
	if (!lang_parse(text, len, &fresh, e))
		return 0;
	pthread_mutex_lock(&mu);
	e->line = 0;
	if (conflict(&fresh, FROM_FILE, e)) {
		pthread_mutex_unlock(&mu);
		items_free(&fresh);
		return 0;
	}
	struct items old = layers[FROM_FILE];
	int was_absent = absent_now();
	for (size_t i = 0; i < fresh.n; i++) {
		struct item *it = fresh.at[i];
		/* A statement that is still there goes on counting. */
		for (size_t j = 0; j < old.n; j++)
			if (strcmp(old.at[j]->text, it->text) == 0) {
				item_free(it);
				it = fresh.at[i] = old.at[j];
				break;
			}
		it->origin = FROM_FILE;
		atomic_fetch_add(&it->refs, 1);
	}
	layers[FROM_FILE] = fresh;
	int done = rebuild();
	if (!done) {
		layers[FROM_FILE] = old;
		old = fresh;
		snprintf(e->text, sizeof e->text, "out of memory");
	}
	for (size_t j = 0; j < old.n; j++)
		item_drop(old.at[j]);
	free(old.at);
	pthread_mutex_unlock(&mu);
	if (done)
		settled(was_absent);
	return done;
}

int plan_add(const char *text, size_t len, struct lang_error *e)
{
	struct items fresh;
	if (!lang_parse(text, len, &fresh, e))
		return 0;
	pthread_mutex_lock(&mu);
	struct items *layer = &layers[FROM_SOCKET], old = *layer, joined = {calloc(old.n + fresh.n + 1, sizeof *joined.at), 0};
	e->line = 0;
	int good = joined.at != NULL && !conflict(&fresh, FROM_SOCKET, e);
	for (size_t i = 0; good && i < fresh.n; i++)
		if (fresh.at[i]->kind == RULE && find(&old, fresh.at[i]->id)) {
			snprintf(e->text, sizeof e->text, "there is a rule \"%s\" already: write another id, or remove it first", fresh.at[i]->id);
			good = 0;
		}
	if (!good) {
		if (joined.at == NULL)
			snprintf(e->text, sizeof e->text, "out of memory");
		pthread_mutex_unlock(&mu);
		free(joined.at);
		items_free(&fresh);
		return 0;
	}
	int was_absent = absent_now();
	for (size_t i = 0; i < old.n; i++)
		if (!find(&fresh, old.at[i]->id)) /* one that there may be one of is replaced */
			joined.at[joined.n++] = old.at[i];
	for (size_t i = 0; i < fresh.n; i++) {
		fresh.at[i]->origin = FROM_SOCKET;
		atomic_store(&fresh.at[i]->refs, 1);
		joined.at[joined.n++] = fresh.at[i];
	}
	*layer = joined;
	int done = rebuild();
	if (!done) {
		*layer = old;
		for (size_t i = 0; i < fresh.n; i++)
			item_drop(fresh.at[i]);
		free(joined.at);
		snprintf(e->text, sizeof e->text, "out of memory");
	} else {
		for (size_t i = 0; i < old.n; i++)
			if (find(&fresh, old.at[i]->id))
				item_drop(old.at[i]);
		free(old.at);
	}
	free(fresh.at);
	pthread_mutex_unlock(&mu);
	if (done)
		settled(was_absent);
	return done;
}

/* take removes from both layers what has the id, or everything (NULL). */
static size_t take(const char *id)
{
	size_t n = 0;
	struct item *taken[2 * ITEMS_MAX];
	pthread_mutex_lock(&mu);
	for (int layer = 0; layer < 2; layer++) {
		struct items *l = &layers[layer];
		size_t kept = 0;
		for (size_t i = 0; i < l->n; i++)
			if (id == NULL || strcmp(l->at[i]->id, id) == 0)
				taken[n++] = l->at[i];
			else
				l->at[kept++] = l->at[i];
		l->n = kept;
	}
	if (n)
		(void)rebuild();
	for (size_t i = 0; i < n; i++)
		item_drop(taken[i]);
	pthread_mutex_unlock(&mu);
	plan_arm();
	return n;
}

size_t plan_remove(const char *id) { return take(id); }
size_t plan_clear(void) { return take(NULL); }

size_t plan_release(const char *id)
{
	size_t n = 0;
	struct plan *p = plan_hold();
	for (size_t i = 0; p && i < p->n; i++) {
		struct item *it = p->at[i];
		if (id && strcmp(it->id, id) != 0)
			continue;
		n++;
		pthread_mutex_lock(&it->mu);
		it->released++;
		pthread_cond_broadcast(&it->changed);
		pthread_mutex_unlock(&it->mu);
	}
	plan_drop(p);
	return n;
}

void plan_fork_prepare(void) { pthread_mutex_lock(&mu); }
void plan_fork_parent(void) { pthread_mutex_unlock(&mu); }

void plan_fork_child(void)
{
	pthread_mutex_unlock(&mu);
	/* Threads that waited in an item do not exist here, but may have held its lock. */
	for (size_t i = 0; current && i < current->n; i++) {
		struct item *it = current->at[i];
		pthread_condattr_t a;
		pthread_condattr_init(&a);
		pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
		pthread_mutex_init(&it->mu, NULL);
		pthread_cond_init(&it->changed, &a);
		pthread_condattr_destroy(&a);
		atomic_store(&it->waiting, 0);
	}
}
