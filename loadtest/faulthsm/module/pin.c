/*
 * Wrong PINs, counted per token in a file that outlives the process. Whoever tries a PIN holds the
 * file's lock meanwhile, so that tries of several processes cannot pass each other by.
 */
#include "faulthsm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define TOKENS 256

/* Without a state file the count lives in this process. */
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct count { char key[40]; unsigned wrong; } counts[TOKENS];

static void key_of(const CK_UTF8CHAR serial[16], char out[40])
{
	size_t n = 16;
	while (n > 0 && (serial[n - 1] == ' ' || serial[n - 1] == 0))
		n--;
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", serial[i]);
	if (n == 0)
		strcpy(out, "-");
}

static void path_of(char *out, size_t size, const char *suffix) { snprintf(out, size, "%s%s", settings.state, suffix); }

/* lock returns the descriptor that holds the lock, -1 when there is none to hold. */
static int lock(void)
{
	pthread_mutex_lock(&mu);
	if (settings.state == NULL)
		return -1;
	char path[4096];
	path_of(path, sizeof path, ".lock");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		complain("cannot count PINs in %s: %s", path, strerror(errno));
		return -1;
	}
	while (flock(fd, LOCK_EX) != 0 && errno == EINTR)
		;
	return fd;
}

static void unlock(int fd)
{
	if (fd >= 0)
		close(fd); /* which gives up the lock */
	pthread_mutex_unlock(&mu);
}

/* read_counts fills counts from the file. Lines it does not know are somebody else's and are dropped. */
static void read_counts(void)
{
	if (settings.state == NULL)
		return;
	FILE *f = fopen(settings.state, "re");
	if (f == NULL)
		return;
	memset(counts, 0, sizeof counts);
	char line[128];
	for (size_t n = 0; n < TOKENS && fgets(line, sizeof line, f);)
		if (sscanf(line, "wrong-pins %39s %u", counts[n].key, &counts[n].wrong) == 2)
			n++;
		else
			counts[n].key[0] = 0;
	fclose(f);
}

static void write_counts(void)
{
	if (settings.state == NULL)
		return;
	char path[4096];
	path_of(path, sizeof path, ".new");
	FILE *f = fopen(path, "we");
	if (f == NULL) {
		complain("cannot write %s: %s", path, strerror(errno));
		return;
	}
	fprintf(f, "# Wrong PINs since the last right one, by the token's serial number in hexadecimal.\n");
	for (size_t i = 0; i < TOKENS && counts[i].key[0]; i++)
		fprintf(f, "wrong-pins %s %u\n", counts[i].key, counts[i].wrong);
	int bad = fflush(f) != 0 || fsync(fileno(f)) != 0;
	bad |= fclose(f) != 0;
	if (bad || rename(path, settings.state) != 0)
		complain("cannot write %s: %s", settings.state, strerror(errno));
}

/* count_of is the entry of a token, NULL when there are too many. */
static struct count *count_of(const char *key)
{
	for (size_t i = 0; i < TOKENS; i++) {
		if (counts[i].key[0] == 0)
			strcpy(counts[i].key, key);
		if (strcmp(counts[i].key, key) == 0)
			return &counts[i];
	}
	return NULL;
}

static int serial_of(CK_SLOT_ID slot, char key[40])
{
	CK_TOKEN_INFO info;
	if (real->C_GetTokenInfo(slot, &info) != CKR_OK)
		return 0;
	key_of(info.serial, key);
	return 1;
}

int pin_begin(struct pin_count *p, CK_SLOT_ID slot, unsigned tries)
{
	if (!serial_of(slot, p->key))
		snprintf(p->key, sizeof p->key, "slot-%lu", slot);
	p->fd = lock();
	read_counts();
	struct count *c = count_of(p->key);
	p->wrong = c ? c->wrong : 0;
	return p->wrong >= tries;
}

void pin_end(struct pin_count *p, CK_RV rv)
{
	struct count *c = count_of(p->key);
	unsigned wrong = rv == CKR_PIN_INCORRECT ? p->wrong + 1 : rv == CKR_OK ? 0 : p->wrong;
	if (c && c->wrong != wrong) {
		c->wrong = wrong;
		write_counts();
	}
	unlock(p->fd);
}

unsigned pin_wrong(const CK_UTF8CHAR serial[16])
{
	char key[40];
	key_of(serial, key);
	int fd = lock();
	read_counts();
	struct count *c = count_of(key);
	unsigned n = c ? c->wrong : 0;
	unlock(fd);
	return n;
}

void pin_reset(CK_SLOT_ID slot)
{
	char key[40];
	if (!serial_of(slot, key))
		return;
	int fd = lock();
	read_counts();
	struct count *c = count_of(key);
	if (c && c->wrong) {
		c->wrong = 0;
		write_counts();
	}
	unlock(fd);
}

void pin_reset_all(void)
{
	int fd = lock();
	memset(counts, 0, sizeof counts);
	write_counts();
	unlock(fd);
}

void pin_forked(void) { pthread_mutex_init(&mu, NULL); }
