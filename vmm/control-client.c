/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/control.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "store/base/text.h"
#include "vmm/client-private.h"

#define RETRY_MS   10
#define CONSOLE_MS 5000u

uint64_t cs_client_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int cs_client_wait(int fd, short events, const struct cs_patience *patience)
{
	struct pollfd item[2] = { { .fd = fd, .events = events },
				  { .fd = patience->interrupt_fd, .events = POLLIN } };

	for (;;) {
		const uint64_t now = cs_client_now_ms(), deadline = patience->deadline_ms;
		const uint64_t left = now < deadline ? deadline - now : 0;
		int n = poll(item, 2, left > INT32_MAX ? INT32_MAX : (int)left);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			return item[1].revents ? -EINTR : 0;
		if (!left)
			return -ETIMEDOUT;
	}
}

static int dial_failed(int code, struct cs_err *err)
{
	switch (code) {
	case ENOENT:
	case ECONNREFUSED:
		return cs_fail(err, code, "not running");
	case EACCES:
	case EPERM:
		return cs_fail(err, EACCES,
			       "no permission to talk to its monitor (be root, or the user that "
			       "started it)");
	case ETIMEDOUT:
		return cs_fail(err, code, "its monitor is too busy to answer");
	case EINTR:
		return cs_fail(err, code, "interrupted");
	default:
		return cs_fail_errno(err, code, "cannot talk to its monitor");
	}
}

int cs_client_dial(int dirfd, const char *name, const struct cs_patience *patience, int *ret_fd,
		   struct cs_err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	cs_auto(cs_fd_closep) int fd = -1;
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", dirfd, name);

	if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
		return dial_failed(ENAMETOOLONG, err);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return dial_failed(errno, err);
	while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		const uint64_t next = cs_client_now_ms() + RETRY_MS;
		const struct cs_patience nap = { next, patience->interrupt_fd };

		if (errno != EAGAIN && errno != EINTR)
			return dial_failed(errno, err);
		/* A full backlog can't be waited for with poll(). */
		if (next > patience->deadline_ms)
			return dial_failed(ETIMEDOUT, err);
		if (cs_client_wait(-1, 0, &nap) == -EINTR)
			return dial_failed(EINTR, err);
	}
	*ret_fd = cs_steal_fd(&fd);
	return 0;
}

int cs_client_send(int fd, const void *data, size_t bytes, const struct cs_patience *patience)
{
	const char *at = data;

	while (bytes) {
		ssize_t n = send(fd, at, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		int r;

		if (n >= 0) {
			at += n;
			bytes -= (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		r = cs_client_wait(fd, POLLOUT, patience);
		if (r < 0)
			return r;
	}
	return 0;
}

int cs_client_read_line(int fd, char *line, size_t size, const struct cs_patience *patience)
{
	size_t used = 0;

	while (used < size) {
		ssize_t n = recv(fd, line + used, size - used, MSG_DONTWAIT | MSG_PEEK);
		const char *end = n > 0 ? memchr(line + used, '\n', (size_t)n) : NULL;
		int r = 0;

		if (n == 0)
			return -ENODATA;
		if (end)
			n = end - (line + used) + 1;
		if (n > 0) {
			if (recv(fd, line + used, (size_t)n, MSG_DONTWAIT) != n)
				return -EIO;
			used += (size_t)n;
		} else if (errno == EAGAIN) {
			r = cs_client_wait(fd, POLLIN, patience);
		} else if (errno != EINTR) {
			r = -errno;
		}
		if (r < 0)
			return r;
		if (end) {
			line[used - 1] = '\0';
			return 0;
		}
	}
	return -EMSGSIZE;
}

/* ---- the control socket */

static int talk_failed(int r, struct cs_err *err)
{
	switch (-r) {
	case ETIMEDOUT:
		return cs_fail(err, ETIMEDOUT, "its monitor does not answer");
	case ENODATA:
	case EPIPE:
	case ECONNRESET:
		return cs_fail(
			err, ECONNRESET,
			"its monitor hung up (it has just ended, or you are neither root nor "
			"the user that started it)");
	default:
		return cs_fail_errno(err, -r, "cannot talk to its monitor");
	}
}

/* What goes out: a line, and descriptors with its first byte. */
struct request {
	const char *line;
	const int *fds;
	size_t n;
};

static int send_request(int fd, const struct request *request, const struct cs_patience *patience)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(CS_CONTROL_FDS * sizeof(int))];
	} control = { 0 };
	char text[CS_CONTROL_LINE];
	struct iovec iov = { .iov_base = text, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	const int n = snprintf(text, sizeof(text), "%s\n", request->line);
	int r;

	if (n < 0 || (size_t)n >= sizeof(text) || strchr(request->line, '\n') ||
	    request->n > CS_CONTROL_FDS)
		return -EINVAL;
	if (request->n) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(request->n * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(request->n * sizeof(int));
		memcpy(CMSG_DATA(&control.head), request->fds, request->n * sizeof(int));
	}
	while (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		r = cs_client_wait(fd, POLLOUT, patience);
		if (r < 0)
			return r;
	}
	return cs_client_send(fd, text + 1, (size_t)n - 1, patience);
}

/* Ask; the answer in (reply) of CS_CONTROL_LINE, what stands behind its "ok" from its fourth byte
 * on. The connection in *ret_fd. */
static int ask(int dirfd, const struct request *request, const struct cs_patience *patience,
	       char *reply, int *ret_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	r = cs_client_dial(dirfd, "control.sock", patience, &fd, err);
	if (r < 0)
		return r;
	r = send_request(fd, request, patience);
	if (r == -EINVAL)
		return cs_fail(err, EINVAL, "not a request of one line");
	if (r == 0)
		r = cs_client_read_line(fd, reply, CS_CONTROL_LINE, patience);
	if (r < 0)
		return talk_failed(r, err);

	cs_text_clean(reply, false);
	if (strncmp(reply, "error ", 6) == 0)
		return cs_fail(err, EREMOTEIO, "%s", reply + 6);
	if (strcmp(reply, "ok") != 0 && strncmp(reply, "ok ", 3) != 0)
		return cs_fail(err, EPROTO, "its monitor gave an answer that is none");
	*ret_fd = cs_steal_fd(&fd);
	return 0;
}

/* The connection in *ret_fd; NULL: it is closed. */
static int call(int dirfd, const struct request *request, unsigned timeout_ms, char **ret,
		int *ret_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	const struct cs_patience patience = { cs_client_now_ms() + timeout_ms, -1 };
	char reply[CS_CONTROL_LINE];
	char *text;
	int r;

	r = ask(dirfd, request, &patience, reply, &fd, err);
	if (r < 0 || !ret)
		return r;
	text = strdup(reply[2] ? reply + 3 : "");
	if (!text)
		return cs_fail_errno(err, ENOMEM, "cannot keep the answer");
	*ret = text;
	if (ret_fd)
		*ret_fd = cs_steal_fd(&fd);
	return 0;
}

int cs_control_call(int dirfd, const char *line, unsigned timeout_ms, char **ret,
		    struct cs_err *err)
{
	const struct request request = { .line = line };

	return call(dirfd, &request, timeout_ms, ret, NULL, err);
}

int cs_control_call_with(int dirfd, const char *line, int fd, unsigned timeout_ms, char **ret,
			 struct cs_err *err)
{
	const struct request request = { .line = line, .fds = &fd, .n = 1 };

	return call(dirfd, &request, timeout_ms, ret, NULL, err);
}

int cs_control_save(int dirfd, const int fds[], size_t n, const char *words, unsigned timeout_ms,
		    char **ret, struct cs_err *err)
{
	char line[CS_CONTROL_LINE];
	const struct request request = { .line = line, .fds = fds, .n = n };

	snprintf(line, sizeof(line), "save%s%s", words && *words ? " " : "", words ? words : "");
	return call(dirfd, &request, timeout_ms, ret, NULL, err);
}

int cs_control_console(int dirfd, int *ret_fd, struct cs_err *err)
{
	const struct cs_patience patience = { cs_client_now_ms() + CONSOLE_MS, -1 };
	const struct request request = { .line = "console" };
	char reply[CS_CONTROL_LINE];

	return ask(dirfd, &request, &patience, reply, ret_fd, err);
}

int cs_control_park(int dirfd, const int fds[3], unsigned timeout_ms, char **ret, int *ret_fd,
		    struct cs_err *err)
{
	const struct request request = { .line = "save park sync", .fds = fds, .n = 3 };

	return call(dirfd, &request, timeout_ms, ret, ret_fd, err);
}

int cs_control_quit(int fd, unsigned timeout_ms, struct cs_err *err)
{
	const struct cs_patience patience = { cs_client_now_ms() + timeout_ms, -1 };
	char reply[CS_CONTROL_LINE];
	int r;

	r = cs_client_send(fd, "quit\n", 5, &patience);
	if (r == 0)
		r = cs_client_read_line(fd, reply, sizeof(reply), &patience);
	return r < 0 ? talk_failed(r, err) : 0;
}
