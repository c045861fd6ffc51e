/* Time and chance: waiting, distributions, and servers with a queue. */
#include "faulthsm.h"

#include <math.h>
#include <time.h>

#define SECOND 1000000000LL

int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

void wait_until(struct item *it, int64_t until, int hang)
{
	struct timespec t = {.tv_sec = until / SECOND, .tv_nsec = until % SECOND};
	atomic_fetch_add(&it->waiting, 1);
	pthread_mutex_lock(&it->mu);
	uint64_t released = it->released;
	while (!it->gone && !(hang && it->released != released)) {
		if (until == INT64_MAX)
			pthread_cond_wait(&it->changed, &it->mu);
		else if (now_ns() >= until)
			break;
		else
			pthread_cond_timedwait(&it->changed, &it->mu, &t);
	}
	pthread_mutex_unlock(&it->mu);
	atomic_fetch_sub(&it->waiting, 1);
}

/* mix is the finaliser of splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint64_t chance(uint64_t seed, const struct item *it, uint64_t i)
{
	return mix(mix(seed ^ it->salt) + (i + 1) * 0x9e3779b97f4a7c15u);
}

/* unit is a number above 0, at most 1. */
static double unit(uint64_t r) { return ((double)(r >> 11) + 1) * 0x1p-53; }

double dist_sample(const struct dist *d, uint64_t random)
{
	double u = unit(random), v, ns = d->a;
	switch (d->kind) {
	case FIXED:
		break;
	case UNIFORM:
		ns = d->a + u * (d->b - d->a);
		break;
	case EXPONENTIAL:
		ns = -log(u) * d->a;
		break;
	case LOGNORMAL: /* Box and Muller */
		v = unit(mix(random + 0x9e3779b97f4a7c15u));
		ns = d->a * exp(d->b * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
		break;
	}
	return ns < 86400e9 ? ns : 86400e9;
}

/* first_free is the server that is free first. */
static unsigned first_free(_Atomic int64_t *free_at, unsigned n, int64_t *when)
{
	unsigned best = 0;
	for (unsigned i = 0; i < n; i++) {
		int64_t t = atomic_load_explicit(&free_at[i], memory_order_relaxed);
		if (i == 0 || t < *when)
			best = i, *when = t;
	}
	return best;
}

/*
 * A server's time is booked, not slept in: that the sleeper wakes late then delays
 * his own call but not the next one's, and the rate under load is exactly n / length.
 */
int64_t serve(_Atomic int64_t *free_at, unsigned n, int64_t start, int64_t length)
{
	for (;;) {
		int64_t when = 0;
		unsigned i = first_free(free_at, n, &when);
		int64_t done = (when > start ? when : start) + length;
		if (atomic_compare_exchange_weak(&free_at[i], &when, done))
			return done;
	}
}

int64_t backlog(_Atomic int64_t *free_at, unsigned n, int64_t now)
{
	int64_t when = 0;
	first_free(free_at, n, &when);
	return when > now ? when - now : 0;
}
