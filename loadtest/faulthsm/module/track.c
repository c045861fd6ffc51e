/* Sessions, the operation each has pending, and the session objects each has made. */
#include "faulthsm.h"

#include <stdlib.h>

#define SHARDS 64
#define BUCKETS 64

struct object {
	CK_OBJECT_HANDLE h;
	CK_SLOT_ID slot;
	int private;
	struct object *next, **link;       /* of its bucket */
	struct object *sibling, **brother; /* of its session */
};

struct session {
	CK_SESSION_HANDLE h;
	CK_SLOT_ID slot;
	struct { CK_ULONG mechanism; CK_OBJECT_HANDLE key; int set; } ops[OP_COUNT];
	struct session *next;
	struct object *objects; /* under objects_mu */
};

static struct shard { pthread_mutex_t mu; struct session *buckets[BUCKETS]; } shards[SHARDS] = {
	[0 ... SHARDS - 1] = {.mu = PTHREAD_MUTEX_INITIALIZER},
};
static _Atomic uint64_t sessions;

/* Taken after a shard's lock, never before. */
static pthread_mutex_t objects_mu = PTHREAD_MUTEX_INITIALIZER;
static struct object **objects; /* buckets */
static size_t buckets, object_count;

static uint64_t spread(uint64_t h) { return (h * 0x9e3779b97f4a7c15u) >> 32; }

static struct shard *shard_of(CK_SESSION_HANDLE h) { return &shards[spread(h) % SHARDS]; }

static struct session **slot_of(struct shard *s, CK_SESSION_HANDLE h)
{
	struct session **p = &s->buckets[spread(h) / SHARDS % BUCKETS];
	while (*p && (*p)->h != h)
		p = &(*p)->next;
	return p;
}

static void object_free(struct object *o)
{
	*o->link = o->next;
	if (o->next)
		o->next->link = o->link;
	*o->brother = o->sibling;
	if (o->sibling)
		o->sibling->brother = o->brother;
	object_count--;
	free(o);
}

/* take takes a session, which *p points to, out of its shard, with its objects. */
static void take(struct session **p)
{
	struct session *s = *p;
	*p = s->next;
	pthread_mutex_lock(&objects_mu);
	while (s->objects)
		object_free(s->objects);
	pthread_mutex_unlock(&objects_mu);
	free(s);
	atomic_fetch_sub(&sessions, 1);
}

void track_open(CK_SESSION_HANDLE h, CK_SLOT_ID slot)
{
	struct session *s = calloc(1, sizeof *s);
	if (s == NULL)
		return; /* it is then in no rule with a session */
	s->h = h, s->slot = slot;
	struct shard *d = shard_of(h);
	pthread_mutex_lock(&d->mu);
	struct session **p = slot_of(d, h);
	if (*p)
		take(p); /* a handle that the module gives out again */
	p = &d->buckets[spread(h) / SHARDS % BUCKETS];
	s->next = *p;
	*p = s;
	atomic_fetch_add(&sessions, 1);
	pthread_mutex_unlock(&d->mu);
	shared_sessions(track_sessions());
}

void track_close(CK_SESSION_HANDLE h)
{
	struct shard *d = shard_of(h);
	pthread_mutex_lock(&d->mu);
	struct session **p = slot_of(d, h);
	if (*p)
		take(p);
	pthread_mutex_unlock(&d->mu);
	shared_sessions(track_sessions());
}

static void close_all(const CK_SLOT_ID *slot)
{
	for (int i = 0; i < SHARDS; i++) {
		pthread_mutex_lock(&shards[i].mu);
		for (int b = 0; b < BUCKETS; b++)
			for (struct session **p = &shards[i].buckets[b]; *p;)
				if (slot == NULL || (*p)->slot == *slot)
					take(p);
				else
					p = &(*p)->next;
		pthread_mutex_unlock(&shards[i].mu);
	}
	shared_sessions(track_sessions());
}

void track_close_slot(CK_SLOT_ID slot) { close_all(&slot); }
void track_clear(void) { close_all(NULL); }

int track_slot(CK_SESSION_HANDLE h, CK_SLOT_ID *slot)
{
	struct shard *d = shard_of(h);
	pthread_mutex_lock(&d->mu);
	struct session *s = *slot_of(d, h);
	if (s)
		*slot = s->slot;
	pthread_mutex_unlock(&d->mu);
	return s != NULL;
}

void track_op(CK_SESSION_HANDLE h, enum op op, CK_ULONG mechanism, CK_OBJECT_HANDLE key)
{
	struct shard *d = shard_of(h);
	pthread_mutex_lock(&d->mu);
	struct session *s = *slot_of(d, h);
	if (s) {
		s->ops[op].mechanism = mechanism;
		s->ops[op].key = key;
		s->ops[op].set = 1;
	}
	pthread_mutex_unlock(&d->mu);
}

int track_op_of(CK_SESSION_HANDLE h, enum op op, CK_ULONG *mechanism, CK_OBJECT_HANDLE *key)
{
	struct shard *d = shard_of(h);
	int set = 0;
	pthread_mutex_lock(&d->mu);
	struct session *s = *slot_of(d, h);
	if (s && s->ops[op].set) {
		*mechanism = s->ops[op].mechanism;
		*key = s->ops[op].key;
		set = 1;
	}
	pthread_mutex_unlock(&d->mu);
	return set;
}

uint64_t track_sessions(void) { return atomic_load(&sessions); }

size_t track_some(struct tracked *out, size_t max)
{
	size_t n = 0;
	for (int i = 0; i < SHARDS; i++) {
		pthread_mutex_lock(&shards[i].mu);
		for (int b = 0; b < BUCKETS; b++)
			for (struct session *s = shards[i].buckets[b]; s; s = s->next) {
				size_t j = 0;
				while (j < n && out[j].slot != s->slot)
					j++;
				if (j == n && n < max)
					out[n++] = (struct tracked){s->h, s->slot};
			}
		pthread_mutex_unlock(&shards[i].mu);
	}
	return n;
}

/* grow keeps the buckets at least as many as the objects; without memory they stay as they are. */
static void grow(void)
{
	if (object_count < buckets)
		return;
	size_t n = buckets ? buckets * 4 : 256;
	struct object **more = calloc(n, sizeof *more);
	if (more == NULL)
		return;
	for (size_t i = 0; i < buckets; i++)
		for (struct object *o = objects[i], *next; o; o = next) {
			struct object **p = &more[spread(o->h) % n];
			next = o->next;
			o->next = *p;
			if (o->next)
				o->next->link = &o->next;
			o->link = p;
			*p = o;
		}
	free(objects);
	objects = more, buckets = n;
}

static struct object *object_of(CK_OBJECT_HANDLE h)
{
	struct object *o = buckets ? objects[spread(h) % buckets] : NULL;
	while (o && o->h != h)
		o = o->next;
	return o;
}

void track_object(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE h, int private)
{
	struct shard *d = shard_of(session);
	pthread_mutex_lock(&d->mu);
	struct session *s = *slot_of(d, session);
	struct object *o = s ? calloc(1, sizeof *o) : NULL;
	if (o) {
		pthread_mutex_lock(&objects_mu);
		struct object *old = object_of(h);
		if (old)
			object_free(old);
		grow();
		if (buckets == 0) {
			free(o);
		} else {
			*o = (struct object){.h = h, .slot = s->slot, .private = private, .link = &objects[spread(h) % buckets], .brother = &s->objects};
			o->next = *o->link;
			if (o->next)
				o->next->link = &o->next;
			*o->link = o;
			o->sibling = s->objects;
			if (o->sibling)
				o->sibling->brother = &o->sibling;
			s->objects = o;
			object_count++;
		}
		pthread_mutex_unlock(&objects_mu);
	}
	pthread_mutex_unlock(&d->mu);
}

void track_object_gone(CK_OBJECT_HANDLE h)
{
	pthread_mutex_lock(&objects_mu);
	struct object *o = object_of(h);
	if (o)
		object_free(o);
	pthread_mutex_unlock(&objects_mu);
}

void track_logged_out(CK_SLOT_ID slot)
{
	pthread_mutex_lock(&objects_mu);
	for (size_t i = 0; i < buckets; i++)
		for (struct object *o = objects[i], *next; o; o = next) {
			next = o->next;
			if (o->private && o->slot == slot)
				object_free(o);
		}
	pthread_mutex_unlock(&objects_mu);
}

uint64_t track_objects(void)
{
	pthread_mutex_lock(&objects_mu);
	uint64_t n = object_count;
	pthread_mutex_unlock(&objects_mu);
	return n;
}

void track_fork_prepare(void)
{
	for (int i = 0; i < SHARDS; i++)
		pthread_mutex_lock(&shards[i].mu);
	pthread_mutex_lock(&objects_mu);
}

void track_fork_done(int child)
{
	(void)child;
	pthread_mutex_unlock(&objects_mu);
	for (int i = SHARDS - 1; i >= 0; i--)
		pthread_mutex_unlock(&shards[i].mu);
}
