/* The socket of a process and its clients. All but opening and closing it is done by the thread of control.c. */
#include "faulthsm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_fd = -1, dir_fd = -1;
static char socket_name[64], socket_path[4096];

int socket_fd(void) { return listen_fd; }
const char *socket_where(void) { return socket_path; }

/* answer returns 0 when the client is gone, or does not read: the others shall not wait for it more than once. */
static int answer(struct client *cl, char *line)
{
	char *text = NULL;
	size_t len = 0, done = 0;
	FILE *out = open_memstream(&text, &len);
	if (out == NULL)
		return 0;
	verb(cl, line, out);
	fclose(out);
	while (done < len) {
		ssize_t n = send(cl->fd, text + done, len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	free(text);
	return done == len;
}

void client_hang_up(struct client *cl)
{
	close(cl->fd);
	free(cl->batch);
	*cl = (struct client){.fd = -1};
}

void client_hear(struct client *cl)
{
	char buffer[4096];
	ssize_t n = recv(cl->fd, buffer, sizeof buffer, MSG_DONTWAIT);
	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			client_hang_up(cl);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (buffer[i] != '\n') {
			if (cl->used < LINE_MAX_LEN)
				cl->line[cl->used++] = buffer[i];
			else
				cl->too_long = 1;
			continue;
		}
		cl->line[cl->used] = 0;
		/* A NUL would hide the rest of the line. */
		for (size_t j = 0; j < cl->used; j++)
			if (cl->line[j] == 0)
				cl->line[j] = 1;
		if (!answer(cl, cl->line)) {
			client_hang_up(cl);
			return;
		}
		cl->used = 0;
		cl->too_long = 0;
	}
}

void client_welcome(struct client *clients)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	struct timeval limit = {.tv_sec = 1};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	for (int i = 0; i < CLIENTS; i++)
		if (clients[i].fd < 0) {
			clients[i] = (struct client){.fd = fd};
			return;
		}
	static const char full[] = "error: there are 16 clients already: close one\n";
	(void)!send(fd, full, sizeof full - 1, MSG_NOSIGNAL);
	close(fd);
}

/* alive reports whether somebody listens on a socket of the directory. */
static int alive(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int yes = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) == 0;
	if (fd >= 0)
		close(fd);
	return yes;
}

/*
 * socket_open listens on PID.sock in the directory. The path goes through /proc/self/fd, since a socket's path may have
 * only 107 characters. A second instance in this process takes PID-2.sock.
 */
int socket_open(void)
{
	dir_fd = open(settings.sockets, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return 0;
	for (int i = 1; i <= 9; i++) {
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		if (i == 1)
			snprintf(socket_name, sizeof socket_name, "%ld.sock", (long)getpid());
		else
			snprintf(socket_name, sizeof socket_name, "%ld-%d.sock", (long)getpid(), i);
		snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", dir_fd, socket_name);
		if (alive(&a))
			continue;
		(void)unlinkat(dir_fd, socket_name, 0); /* left behind by an earlier process of this number */
		listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (listen_fd < 0)
			return 0;
		(void)fchmod(listen_fd, 0600); /* before it has a name */
		if (bind(listen_fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(listen_fd, CLIENTS) == 0) {
			snprintf(socket_path, sizeof socket_path, "%s/%s", settings.sockets, socket_name);
			return 1;
		}
		int e = errno;
		close(listen_fd);
		listen_fd = -1;
		errno = e;
		return 0;
	}
	errno = EADDRINUSE;
	return 0;
}

void socket_close(int also_name)
{
	if (listen_fd >= 0 && also_name)
		(void)unlinkat(dir_fd, socket_name, 0);
	if (listen_fd >= 0)
		close(listen_fd);
	if (dir_fd >= 0)
		close(dir_fd);
	listen_fd = dir_fd = -1;
	socket_path[0] = 0;
}
