/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/control.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "store/base/num.h"
#include "store/base/text.h"

#define CLIENTS      32u
#define ACCEPT_BATCH 8
#define NAP_MS       1000u /* before accept() is tried again when descriptors ran out */

struct cs_control_client {
	TAILQ_ENTRY(cs_control_client) link; /* the one that was silent for longest is first */
	struct cs_control *control;
	int fd;
	struct cs_watch *watch;
	char line[CS_CONTROL_LINE];
	size_t used;
	int fd_sent[CS_CONTROL_FDS]; /* came with the line that is being read */
	unsigned fds;
	bool waits; /* for a late answer: nothing is read from it until then */
	bool holds; /* the machine, which stands still for it */
};

TAILQ_HEAD(clients, cs_control_client);

struct cs_control {
	struct cs_control_spec spec;
	struct cs_loop *loop;
	uid_t uid; /* of who started us */
	struct cs_watch *listening;
	struct cs_timer *nap; /* armed while accept() is not tried */
	struct clients clients;
	unsigned count;
};

static void close_sent(struct cs_control_client *client)
{
	while (client->fds)
		cs_fd_closep(&client->fd_sent[--client->fds]);
}

static void drop(struct cs_control_client *client)
{
	const struct cs_control_spec *spec = &client->control->spec;

	if ((client->waits || client->holds) && spec->ops->save_gone)
		spec->ops->save_gone(spec->arg, client);
	close_sent(client);
	TAILQ_REMOVE(&client->control->clients, client, link);
	client->control->count--;
	cs_watch_free(client->watch);
	cs_fd_closep(&client->fd);
	free(client);
}

/* One line to the client. It asked, so it reads: an answer that does not fit its socket is its own
 * fault. False: it did not go out. */
static bool answer(struct cs_control_client *client, const char *word, const char *text)
{
	char line[CS_CONTROL_LINE];
	int n = snprintf(line, sizeof(line), "%s%s%s", word, *text ? " " : "", text);
	size_t bytes;

	if (n < 0)
		return false;
	bytes = (size_t)n < sizeof(line) - 1 ? (size_t)n : sizeof(line) - 2;
	/* An error's words may hold what a guest or a file said. */
	line[bytes] = '\0';
	cs_text_clean(line, false);
	line[bytes++] = '\n';
	return send(client->fd, line, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* ---- requests. Each returns false when the client is gone or has to go. */

static bool finish(struct cs_control_client *client, int r, const struct cs_err *err)
{
	return r < 0 ? answer(client, "error", err->text) : answer(client, "ok", "");
}

static bool on_status(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	char text[CS_CONTROL_LINE - sizeof("ok \n")] = "";
	struct cs_err err = { 0 };
	int r = spec->ops->status(spec->arg, text, sizeof(text), &err);

	return r < 0 ? finish(client, r, &err) : answer(client, "ok", text);
}

static bool on_stop(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	uint64_t grace_ms = CS_CONTROL_GRACE_MS;
	struct cs_err err = { 0 };

	if (*rest && cs_parse_u64(rest, CS_CONTROL_GRACE_MAX_MS, &grace_ms) < 0)
		return answer(client, "error",
			      "stop: the time is no number of milliseconds up to "
			      "an hour");
	return finish(client, spec->ops->stop(spec->arg, (uint32_t)grace_ms, &err), &err);
}

static bool on_reboot(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	struct cs_err err = { 0 };

	return finish(client, spec->ops->reboot(spec->arg, &err), &err);
}

static bool on_pause(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	struct cs_err err = { 0 };

	return finish(client, spec->ops->pause(spec->arg, &err), &err);
}

static bool on_resume(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	struct cs_err err = { 0 };

	return finish(client, spec->ops->resume(spec->arg, &err), &err);
}

static bool on_enroll(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	const bool on = strcmp(rest, "on") == 0;
	struct cs_err err = { 0 };
	uint64_t bytes = 0;
	char text[40];
	int r;

	if (!on && strcmp(rest, "off") != 0)
		return answer(client, "error", "enroll: 'on' or 'off' goes behind it");
	if (client->fds > (on ? 1U : 0U))
		return answer(client, "error", "enroll: one descriptor goes with 'on', at most");
	r = spec->ops->enroll(spec->arg, on, client->fds ? client->fd_sent[0] : -1, &bytes, &err);
	if (r < 0)
		return finish(client, r, &err);
	snprintf(text, sizeof(text), "bytes=%" PRIu64, bytes);
	return answer(client, "ok", text);
}

/* (word): (fn) writes something to the descriptor that came along, and so many of (what). */
static bool fill(struct cs_control_client *client, const char *word,
		 int (*fn)(void *arg, int fd, uint64_t *ret, struct cs_err *err), const char *what)
{
	struct cs_err err = { 0 };
	uint64_t n = 0;
	char text[64];
	int r;

	snprintf(text, sizeof(text), "%s: one descriptor goes with it", word);
	if (client->fds != 1)
		return answer(client, "error", text);
	r = fn(client->control->spec.arg, client->fd_sent[0], &n, &err);
	if (r < 0)
		return finish(client, r, &err);
	snprintf(text, sizeof(text), "%s=%" PRIu64, what, n);
	return answer(client, "ok", text);
}

static bool on_sketch(struct cs_control_client *client, const char *rest)
{
	return fill(client, "sketch", client->control->spec.ops->sketch, "pages");
}

static bool on_own(struct cs_control_client *client, const char *rest)
{
	return fill(client, "own", client->control->spec.ops->own, "ranges");
}

static bool on_seen(struct cs_control_client *client, const char *rest)
{
	return fill(client, "seen", client->control->spec.ops->seen, "ranges");
}

static bool on_balloon(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	struct cs_err err = { 0 };
	uint64_t bytes;

	if (cs_parse_u64(rest, UINT64_MAX, &bytes) < 0)
		return answer(client, "error", "balloon: not a number of bytes");
	return finish(client, spec->ops->balloon(spec->arg, bytes, &err), &err);
}

static bool on_quit(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	struct cs_err err = { 0 };
	bool good = answer(client, "ok", "");

	spec->ops->quit(spec->arg, &err);
	return good;
}

/* The socket changes hands, and nothing of the client is left here. What it has sent behind the
 * line is input for the console, so no byte of that may have been read (see read_line()). */
static bool on_console(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	cs_auto(cs_fd_closep) int fd = -1;
	struct cs_err err = { 0 };

	/* The "ok" comes before the first byte of the console; when that then refuses, the client
	 * sees its end. */
	if (!answer(client, "ok", ""))
		return false;
	client->watch = cs_watch_free(client->watch);
	fd = cs_steal_fd(&client->fd);
	if (spec->ops->console(spec->arg, fd, &err) == 0)
		cs_steal_fd(&fd);
	return false;
}

static bool on_save(struct cs_control_client *client, const char *rest)
{
	const struct cs_control_spec *spec = &client->control->spec;
	struct cs_err err = { 0 };
	int r;

	if (cs_watch_set(client->watch, 0) < 0)
		return false;
	client->waits = true;
	r = spec->ops->save(spec->arg, client, client->fd_sent, client->fds, rest, &err);
	if (r == 0) {
		client->fds = 0;
		return true;
	}
	client->waits = false;
	return cs_watch_set(client->watch, EPOLLIN) == 0 && finish(client, r, &err);
}

/* A request whose answer comes later. */
static bool later(struct cs_control_client *client,
		  int (*begin)(void *arg, struct cs_control_client *client, struct cs_err *err))
{
	struct cs_err err = { 0 };
	int r;

	if (cs_watch_set(client->watch, 0) < 0)
		return false;
	client->waits = true;
	r = begin(client->control->spec.arg, client, &err);
	if (r == 0)
		return true;
	client->waits = false;
	return cs_watch_set(client->watch, EPOLLIN) == 0 && finish(client, r, &err);
}

static bool on_fold(struct cs_control_client *client, const char *rest)
{
	return later(client, client->control->spec.ops->fold);
}

static bool on_ping(struct cs_control_client *client, const char *rest)
{
	return later(client, client->control->spec.ops->ping);
}

void cs_control_answer(struct cs_control_client *client, const char *text, const struct cs_err *why)
{
	client->waits = false;
	if (!answer(client, why ? "error" : "ok", why ? why->text : text) ||
	    cs_watch_set(client->watch, EPOLLIN) < 0)
		drop(client);
}

void cs_control_answer_held(struct cs_control_client *client, const char *text)
{
	client->holds = true;
	cs_control_answer(client, text, NULL);
}

static bool handle(struct cs_control_client *client)
{
	const struct cs_control_ops *ops = client->control->spec.ops;
	const struct {
		const char *word;
		bool served, takes_more;
		bool (*fn)(struct cs_control_client *client, const char *rest);
	} requests[] = {
		{ "status", ops->status != NULL, false, on_status },
		{ "stop", ops->stop != NULL, true, on_stop },
		{ "reboot", ops->reboot != NULL, false, on_reboot },
		{ "pause", ops->pause != NULL, false, on_pause },
		{ "resume", ops->resume != NULL, false, on_resume },
		{ "enroll", ops->enroll != NULL, true, on_enroll },
		{ "sketch", ops->sketch != NULL, false, on_sketch },
		{ "own", ops->own != NULL, false, on_own },
		{ "seen", ops->seen != NULL, false, on_seen },
		{ "balloon", ops->balloon != NULL, true, on_balloon },
		{ "quit", ops->quit != NULL, false, on_quit },
		{ "console", ops->console != NULL, false, on_console },
		{ "fold", ops->fold != NULL, false, on_fold },
		{ "ping", ops->ping != NULL, false, on_ping },
		{ "save", ops->save != NULL, true, on_save },
	};
	char *rest = strchr(client->line, ' ');

	if (rest)
		*rest++ = '\0';
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (strcmp(requests[i].word, client->line) != 0)
			continue;
		if (!requests[i].served)
			return answer(client, "error", "this machine can't do that");
		if (rest && !requests[i].takes_more)
			return answer(client, "error", "nothing goes behind this word");
		return requests[i].fn(client, rest ? rest : "");
	}
	return answer(client, "error",
		      "not a request (status, stop [MS], reboot, pause, resume, enroll, "
		      "sketch, own, seen, balloon BYTES, fold, ping, quit, console, save)");
}

/* ---- clients */

/* Receive (bytes), and the descriptors that come with them. */
static ssize_t take(struct cs_control_client *client, char *to, size_t bytes)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(CS_CONTROL_FDS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = to, .iov_len = bytes };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	const ssize_t n = recvmsg(client->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (client->fds < CS_CONTROL_FDS)
				client->fd_sent[client->fds++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

/* What the socket has up to the end of a line, and no byte further. 1: the line is complete and
 * without its newline; 0: not yet; -1: the client has to go. */
static int read_line(struct cs_control_client *client)
{
	char *to = client->line + client->used;
	size_t room = sizeof(client->line) - 1 - client->used;
	ssize_t n = recv(client->fd, to, room, MSG_DONTWAIT | MSG_PEEK);
	const char *end;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (n == 0)
		return -1;
	end = memchr(to, '\n', (size_t)n);
	if (end)
		n = end - to + 1;
	if (take(client, to, (size_t)n) != n)
		return -1;
	client->used += (size_t)n;
	if (!end && client->used == sizeof(client->line) - 1) {
		answer(client, "error", "the line is too long");
		return -1;
	}
	if (!end)
		return 0;
	client->line[client->used - 1] = '\0';
	client->used = 0;
	return 1;
}

static void on_client(void *arg, uint32_t events)
{
	struct cs_control_client *client = arg;
	struct cs_control *control = client->control;
	int r;

	/* A line a turn: a client that sends thousands waits behind the others. One that waits and
	 * is woken all the same has hung up. */
	r = client->waits ? -1 : read_line(client);
	if (r < 0 || (r > 0 && !handle(client))) {
		drop(client);
		return;
	}
	if (r > 0)
		close_sent(client);
	TAILQ_REMOVE(&control->clients, client, link);
	TAILQ_INSERT_TAIL(&control->clients, client, link);
}

static bool is_allowed(const struct cs_control *control, int fd)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
	       (peer.uid == 0 || peer.uid == control->uid);
}

/* One that waits for its answer, or holds the machine, has a right to be silent. */
static struct cs_control_client *longest_silent(struct cs_control *control)
{
	struct cs_control_client *client;

	TAILQ_FOREACH(client, &control->clients, link)
	if (!client->waits && !client->holds)
		return client;
	return TAILQ_FIRST(&control->clients);
}

/* (fd) becomes the client's, or is closed. */
static void add_client(struct cs_control *control, int fd)
{
	cs_auto(cs_fd_closep) int owned = fd;
	cs_auto(cs_mem_freep) struct cs_control_client *client = NULL;

	if (!is_allowed(control, fd))
		return;
	client = calloc(1, sizeof(*client));
	if (!client)
		return;
	client->control = control;
	if (cs_loop_add(control->loop, fd, EPOLLIN, on_client, client, &client->watch) < 0)
		return;
	client->fd = cs_steal_fd(&owned);
	if (control->count == CLIENTS)
		drop(longest_silent(control));
	TAILQ_INSERT_TAIL(&control->clients, client, link);
	control->count++;
	client = NULL;
}

static void on_listen(void *arg, uint32_t events)
{
	struct cs_control *control = arg;

	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(control->spec.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			add_client(control, fd);
			continue;
		}
		/* Out of descriptors or memory: the client stays in the backlog, which would wake
		 * the loop again at once. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED &&
		    cs_watch_set(control->listening, 0) == 0)
			cs_timer_set(control->nap, NAP_MS);
		return;
	}
}

static void on_nap_end(void *arg, uint32_t events)
{
	struct cs_control *control = arg;

	if (cs_watch_set(control->listening, EPOLLIN) < 0)
		cs_timer_set(control->nap, NAP_MS);
}

int cs_control_create(const struct cs_control_spec *spec, struct cs_loop *loop,
		      struct cs_control **ret, struct cs_err *err)
{
	cs_auto(cs_control_freep) struct cs_control *control = calloc(1, sizeof(*control));
	int r;

	if (!control)
		return cs_fail_errno(err, ENOMEM, "cannot serve the control socket");
	control->spec = *spec;
	control->loop = loop;
	control->uid = getuid();
	TAILQ_INIT(&control->clients);
	r = fcntl(spec->listen_fd, F_GETFL);
	if (r < 0 || fcntl(spec->listen_fd, F_SETFL, r | O_NONBLOCK) < 0)
		return cs_fail_errno(err, errno, "cannot serve the control socket");
	r = cs_timer_create(loop, on_nap_end, control, &control->nap);
	if (r == 0)
		r = cs_loop_add(loop, spec->listen_fd, EPOLLIN, on_listen, control,
				&control->listening);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot serve the control socket");
	*ret = cs_steal(control);
	return 0;
}

struct cs_control *cs_control_free(struct cs_control *control)
{
	if (!control)
		return NULL;
	while (!TAILQ_EMPTY(&control->clients))
		drop(TAILQ_FIRST(&control->clients));
	cs_watch_free(control->listening);
	cs_timer_free(control->nap);
	free(control);
	return NULL;
}
