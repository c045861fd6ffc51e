/*
 * What processes that serve the same token share: the servers of a device and the number of sessions.
 * It lies in a file beside the state file that all of them map. Nothing in it needs a lock, so a process that
 * dies leaves at most a booked server or a count, which is noticed and forgotten.
 */
#include "faulthsm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define POOLS 16
#define PROCESSES 128
#define MAGIC 0x316d7368746c7561u /* "aulthsm1": which layout this is */

struct shared {
	_Atomic uint64_t magic;
	struct { _Atomic uint64_t name; _Atomic int64_t free_at[SERVERS_MAX]; } pools[POOLS];
	struct {
		_Atomic int64_t pid;      /* 0: free */
		_Atomic uint64_t began;   /* when the process began, in the kernel's ticks: pids come back */
		_Atomic uint64_t sessions;
		_Atomic int64_t died;     /* when that was noticed, 0 while it lives */
	} processes[PROCESSES];
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct shared *map;
static int tried;
static _Atomic int mine = -1; /* my entry of processes; written under mu */

static struct shared *shared(void)
{
	pthread_mutex_lock(&mu);
	if (!tried && settings.state) {
		tried = 1;
		char path[4096];
		snprintf(path, sizeof path, "%s.shared", settings.state);
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		struct stat st;
		if (fd >= 0 && fstat(fd, &st) == 0 && ((size_t)st.st_size >= sizeof *map || ftruncate(fd, sizeof *map) == 0)) {
			void *p = mmap(NULL, sizeof *map, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (p != MAP_FAILED)
				map = p;
		}
		uint64_t none = 0;
		if (map == NULL) {
			complain("cannot share state in %s: %s; other processes do not count", path, strerror(errno));
		} else if (!atomic_compare_exchange_strong(&map->magic, &none, MAGIC) && none != MAGIC) {
			complain("%s is not of this version: remove it; other processes do not count", path);
			munmap(map, sizeof *map);
			map = NULL;
		}
		if (fd >= 0)
			close(fd);
	}
	struct shared *m = map;
	pthread_mutex_unlock(&mu);
	return m;
}

_Atomic int64_t *shared_servers(const char *name, unsigned n, int *private)
{
	struct shared *m = shared();
	uint64_t h = 0xcbf29ce484222325u;
	for (const char *p = name; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3u;
	*private = 0;
	for (int i = 0; m && i < POOLS; i++) {
		uint64_t none = 0;
		if (atomic_compare_exchange_strong(&m->pools[i].name, &none, h) || none == h) {
			/* The clock starts anew with the machine: bookings far ahead are from before. */
			int64_t now = now_ns();
			for (unsigned j = 0; j < n; j++)
				if (atomic_load(&m->pools[i].free_at[j]) > now + 2 * 86400 * 1000000000LL)
					atomic_store(&m->pools[i].free_at[j], 0);
			return m->pools[i].free_at;
		}
	}
	*private = 1;
	return calloc(n, sizeof(_Atomic int64_t));
}

/* began is when a process began, 0 when there is none of that id. */
static uint64_t began(int64_t pid)
{
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	/* The name, in brackets, may hold anything; the fields after it are numbers. Number 3 is the state, 22 the time. */
	char *p = strrchr(text, ')'), *save = NULL;
	if (p == NULL || strchr("ZX", p[2])) /* a zombie has no sessions either */
		return 0;
	char *w = strtok_r(p + 2, " ", &save);
	for (int field = 3; w && field < 22; field++)
		w = strtok_r(NULL, " ", &save);
	return w ? strtoull(w, NULL, 10) : 0;
}

void shared_sessions(uint64_t n)
{
	if (settings.state == NULL)
		return;
	struct shared *m = shared();
	if (m == NULL)
		return;
	pthread_mutex_lock(&mu);
	for (int i = 0; mine < 0 && n > 0 && i < PROCESSES; i++) {
		int64_t none = 0;
		if (atomic_compare_exchange_strong(&m->processes[i].pid, &none, (int64_t)getpid())) {
			atomic_store(&m->processes[i].died, 0);
			atomic_store(&m->processes[i].sessions, 0);
			atomic_store(&m->processes[i].began, began(getpid()));
			mine = i;
		}
	}
	if (mine >= 0)
		atomic_store(&m->processes[mine].sessions, n);
	pthread_mutex_unlock(&mu);
}

uint64_t shared_others(int64_t linger)
{
	struct shared *m = settings.state ? shared() : NULL;
	uint64_t sum = 0;
	for (int i = 0; m && i < PROCESSES; i++) {
		int64_t pid = atomic_load(&m->processes[i].pid);
		if (pid == 0 || i == mine)
			continue;
		uint64_t b = atomic_load(&m->processes[i].began);
		if (b != 0 && began(pid) != b) {
			int64_t died = atomic_load(&m->processes[i].died), now = now_ns();
			if (died == 0 || died > now)
				atomic_store(&m->processes[i].died, died = now);
			if (now - died >= linger) {
				atomic_store(&m->processes[i].sessions, 0);
				atomic_compare_exchange_strong(&m->processes[i].pid, &pid, 0);
				continue;
			}
		}
		sum += atomic_load(&m->processes[i].sessions);
	}
	return sum;
}

void shared_forked(void)
{
	pthread_mutex_init(&mu, NULL);
	mine = -1;
}
