/*
 * One thread that follows the control file and answers on the socket. It is woken by inotify, which
 * tells of a file that has been written or moved into place, and looks three times a second in any
 * case, for file systems that tell nothing.
 */
#include "faulthsm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX_SIZE (1 << 20)

/* Under mu: what is known of the control file, and the thread. */
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct control_status status = {.file = "none"};
static struct stat last; /* the file as it was when last looked at */
static int running, stop_fd = -1, notify_fd = -1;
static pid_t owner;
static pthread_t thread;

void control_status_get(struct control_status *s)
{
	pthread_mutex_lock(&mu);
	*s = status;
	pthread_mutex_unlock(&mu);
}

/* read_file reads a whole file; it returns NULL and errno when it cannot. */
static char *read_file(const char *path, size_t *len, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	char *text = NULL;
	*len = 0;
	if (fstat(fd, st) == 0 && S_ISREG(st->st_mode)) {
		text = malloc(FILE_MAX_SIZE + 1);
		while (text && *len <= FILE_MAX_SIZE) {
			ssize_t n = read(fd, text + *len, FILE_MAX_SIZE + 1 - *len);
			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0) {
				free(text);
				text = NULL;
			}
			if (n <= 0)
				break;
			*len += (size_t)n;
		}
	} else {
		errno = EINVAL;
	}
	int e = errno;
	close(fd);
	errno = e;
	return text;
}

static uint64_t hash(const char *text, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
	return h;
}

static int apply(struct lang_error *e)
{
	struct stat st;
	size_t len = 0;
	char *text = read_file(settings.control, &len, &st);
	const char *what = "ok";
	char text_of_error[512];
	int good = 0;
	*e = (struct lang_error){0};
	if (text == NULL && errno == ENOENT) {
		what = "absent";
		good = plan_file("", 0, e);
		memset(&st, 0, sizeof st);
	} else if (text == NULL) {
		snprintf(e->text, sizeof e->text, "cannot be read: %s", strerror(errno));
	} else if (len > FILE_MAX_SIZE) {
		snprintf(e->text, sizeof e->text, "has more than %d bytes", FILE_MAX_SIZE);
	} else {
		good = plan_file(text, len, e);
	}
	pthread_mutex_lock(&mu);
	status.error = *e;
	status.hash = text ? hash(text, len) : 0;
	status.loads++;
	strcpy(status.file, good ? what : "error");
	last = st;
	pthread_mutex_unlock(&mu);
	free(text);
	if (!good)
		complain("control file %s, %s; what was in force stays", settings.control, lang_error_text(e, text_of_error, sizeof text_of_error));
	else
		log_note("control file %s: %s", settings.control, what);
	return good;
}

int control_reload(struct lang_error *e)
{
	if (settings.control == NULL) {
		*e = (struct lang_error){0};
		snprintf(e->text, sizeof e->text, "no control file is configured: set FAULTHSM_CONTROL");
		return 0;
	}
	return apply(e);
}

/* looks_different compares what stat says: contents change with it. */
static int looks_different(const struct stat *a, const struct stat *b)
{
	return a->st_ino != b->st_ino || a->st_size != b->st_size || a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec;
}

static void file_stat(struct stat *st)
{
	if (stat(settings.control, st) != 0)
		memset(st, 0, sizeof *st);
}

void control_load(void)
{
	struct lang_error e;
	struct stat st;
	if (settings.control == NULL)
		return;
	file_stat(&st);
	pthread_mutex_lock(&mu);
	int look = status.loads == 0 || looks_different(&st, &last);
	pthread_mutex_unlock(&mu);
	if (look)
		(void)apply(&e);
}

/* file_event reads what inotify says; it returns whether it may be about the control file. */
static int file_event(void)
{
	union { struct inotify_event e; char bytes[16384]; } u;
	const char *name = strrchr(settings.control, '/');
	int ours = 0;
	name = name ? name + 1 : settings.control;
	ssize_t n = read(notify_fd, u.bytes, sizeof u.bytes);
	for (ssize_t i = 0; n > 0 && i < n;) {
		struct inotify_event *e = (struct inotify_event *)(u.bytes + i);
		if (e->mask & IN_Q_OVERFLOW || (e->len > 0 && strcmp(e->name, name) == 0))
			ours = 1;
		i += (ssize_t)(sizeof *e + e->len);
	}
	return ours;
}

/*
 * look decides when the file is read: at once when inotify told that somebody has finished writing it, else only
 * when it has been the same twice, so that nothing half written is read. A file that is gone must stay so for a
 * while too: editors take it away and put another one there.
 */
static void look(int told)
{
	static struct stat before;
	struct stat now;
	struct lang_error e;
	file_stat(&now);
	pthread_mutex_lock(&mu);
	int differs = looks_different(&now, &last);
	pthread_mutex_unlock(&mu);
	if ((told && now.st_ino != 0) || (differs && !looks_different(&now, &before)))
		(void)apply(&e);
	before = now;
}

static void *follow(void *unused)
{
	struct client *clients = calloc(CLIENTS, sizeof *clients);
	struct pollfd *p = calloc(CLIENTS + 3, sizeof *p);
	int64_t next_look = 0;
	for (int i = 0; clients && i < CLIENTS; i++)
		clients[i].fd = -1;
	while (clients && p) {
		int64_t now = now_ns();
		if (settings.control && now >= next_look) {
			look(0);
			next_look = now + 300000000;
		}
		p[0] = (struct pollfd){stop_fd, POLLIN, 0};
		p[1] = (struct pollfd){socket_fd(), POLLIN, 0};
		p[2] = (struct pollfd){notify_fd, POLLIN, 0};
		for (int i = 0; i < CLIENTS; i++)
			p[3 + i] = (struct pollfd){clients[i].fd, POLLIN, 0};
		if (poll(p, CLIENTS + 3, settings.control ? 300 : -1) < 0 && errno != EINTR)
			break;
		if (p[0].revents)
			break;
		if (p[2].revents && file_event())
			look(1);
		for (int i = 0; i < CLIENTS; i++)
			if (clients[i].fd >= 0 && p[3 + i].revents)
				client_hear(&clients[i]);
		if (p[1].revents)
			client_welcome(clients);
	}
	for (int i = 0; clients && i < CLIENTS; i++)
		if (clients[i].fd >= 0)
			client_hang_up(&clients[i]);
	free(clients);
	free(p);
	return unused;
}

static void watch_file(void)
{
	char dir[4096];
	const char *slash = strrchr(settings.control, '/');
	size_t n = slash ? (size_t)(slash - settings.control) : 0;
	if (slash == NULL)
		strcpy(dir, ".");
	else if (n == 0)
		strcpy(dir, "/");
	else if (n < sizeof dir)
		memcpy(dir, settings.control, n), dir[n] = 0;
	else
		return;
	notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (notify_fd >= 0)
		(void)inotify_add_watch(notify_fd, dir, IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE);
}

void control_start(void)
{
	pthread_mutex_lock(&mu);
	if (running || (settings.control == NULL && settings.sockets == NULL)) {
		pthread_mutex_unlock(&mu);
		return;
	}
	owner = getpid();
	stop_fd = eventfd(0, EFD_CLOEXEC);
	if (settings.sockets && !socket_open())
		complain("cannot listen in %s: %s", settings.sockets, strerror(errno));
	if (settings.control)
		watch_file();
	/* No signal shall be handled here: the program's handlers do not know this thread. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	running = stop_fd >= 0 && pthread_create(&thread, NULL, follow, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!running)
		complain("cannot start the thread that follows the control file");
	pthread_mutex_unlock(&mu);
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* At exit, where the program has one: a program that is killed, or ends as Go's do, leaves its socket behind. */
__attribute__((destructor)) static void control_stop(void)
{
	if (!running || owner != getpid())
		return;
	uint64_t one = 1;
	(void)!write(stop_fd, &one, sizeof one);
	pthread_join(thread, NULL);
	socket_close(1);
	running = 0;
	close_one(&stop_fd);
	close_one(&notify_fd);
}

void control_forked(void)
{
	pthread_mutex_init(&mu, NULL);
	running = 0;
	socket_close(0); /* the parent's */
	close_one(&stop_fd);
	close_one(&notify_fd);
}
