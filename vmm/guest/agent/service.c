/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/guest/agent/exec.h"
#include "vmm/guest/agent/kernel.h"

/* With more than this waiting for the socket, no further message is taken: a host that pings and
 * never reads gets no memory. */
#define OUT_MAX 131072

/* How much of a message it is worth to wait for; not more than a socket is sure to hold. */
#define LOW_MIN 8192
#define LOW_MAX 49152

/* ---- sending ---- */

/* Hand bytes to the socket. false: the connection is broken. */
static bool push(struct cs_conn *c, const void *data, size_t bytes, size_t *gone)
{
	ssize_t n = send(c->socket.fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

	*gone = n < 0 ? 0 : (size_t)n;
	return n >= 0 || errno == EAGAIN || errno == EINTR || errno == ENOBUFS;
}

static void gone(struct cs_agent *a, struct cs_conn *c)
{
	if (c->exec.pid && !c->exec.ended)
		cs_exec_abandon(a, c);
	else
		cs_conn_close(a, c);
}

static void send_bytes(struct cs_agent *a, struct cs_conn *c, const uint8_t *data, size_t bytes)
{
	size_t sent = 0;

	if (c->socket.fd < 0)
		return;
	if (!cs_queue_bytes(&c->out) && !push(c, data, bytes, &sent)) {
		gone(a, c);
		return;
	}

	if (cs_queue_put(&c->out, data + sent, bytes - sent) < 0)
		gone(a, c);
}

void cs_conn_send(struct cs_agent *a, struct cs_conn *c, enum cs_wire_type type,
		  const void *payload, uint32_t bytes)
{
	uint8_t message[CS_HEAD_BYTES + 512];

	if (bytes > sizeof(message) - CS_HEAD_BYTES)
		bytes = sizeof(message) - CS_HEAD_BYTES;

	cs_head_put(message, type, bytes);
	if (bytes)
		memcpy(message + CS_HEAD_BYTES, payload, bytes);
	send_bytes(a, c, message, CS_HEAD_BYTES + bytes);
}

void cs_conn_send_scratch(struct cs_agent *a, struct cs_conn *c, enum cs_wire_type type,
			  uint32_t bytes)
{
	cs_head_put(a->scratch, type, bytes);
	send_bytes(a, c, a->scratch, CS_HEAD_BYTES + bytes);
}

void cs_conn_fail(struct cs_agent *a, struct cs_conn *c, int error, const char *words)
{
	uint8_t payload[4 + 256];
	uint32_t code = (uint32_t)error;
	size_t n = strnlen(words, sizeof(payload) - 5);

	memcpy(payload, &code, 4);
	memcpy(payload + 4, words, n);
	payload[4 + n] = 0;
	cs_conn_send(a, c, CS_WIRE_FAIL, payload, (uint32_t)(5 + n));
	c->closing = true;
}

/* ---- taking messages ---- */

static bool on_ping(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r)
{
	cs_conn_send(a, c, CS_WIRE_PONG, r->at, (uint32_t)r->left);
	return true;
}

static bool on_exec(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r)
{
	if (c->exec.pid)
		return false;

	return cs_exec_start(a, c, r);
}

static bool on_signal(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r)
{
	return cs_exec_signal(c, cs_reader_u32(r));
}

static bool on_resize(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r)
{
	struct cs_wire_size size;

	cs_reader_bytes(r, &size, sizeof(size));
	cs_exec_resize(c, size);
	return true;
}

/* What the host may send. false from a handler: cut it off. STDIN does not wait to be whole and is
 * taken in parse(). */
static const struct {
	uint32_t type, least, most;
	bool (*handle)(struct cs_agent *a, struct cs_conn *c, struct cs_reader *r);
} messages[] = {
	{ CS_WIRE_PING, 0, 64, on_ping },
	{ CS_WIRE_EXEC, sizeof(struct cs_wire_exec), CS_WIRE_MAX, on_exec },
	{ CS_WIRE_SIGNAL, 4, 4, on_signal },
	{ CS_WIRE_RESIZE, sizeof(struct cs_wire_size), sizeof(struct cs_wire_size), on_resize },
};

static bool dispatch(struct cs_agent *a, struct cs_conn *c, struct cs_wire_head head,
		     const uint8_t *payload)
{
	struct cs_reader r = cs_reader_over(payload, head.bytes);

	for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); i++) {
		if (messages[i].type == head.type)
			return head.bytes >= messages[i].least && head.bytes <= messages[i].most &&
			       messages[i].handle(a, c, &r);
	}

	return false;
}

static bool begin_stdin(struct cs_agent *a, struct cs_conn *c, uint32_t bytes)
{
	struct cs_exec *e = &c->exec;

	if (!e->pid || e->input_end || bytes > e->credit)
		return false;

	e->credit -= bytes;
	c->stdin_left = bytes;
	if (!bytes)
		cs_exec_input_end(a, c);
	return true;
}

/* The next step through (n) bytes at (at): how many it used; 0: more are needed; -1: cut it off. */
static ssize_t parse_one(struct cs_agent *a, struct cs_conn *c, const uint8_t *at, size_t n)
{
	struct cs_wire_head head;

	if (c->stdin_left) {
		uint32_t part = n < c->stdin_left ? (uint32_t)n : c->stdin_left;

		c->stdin_left -= part;
		cs_exec_input(a, c, at, part);
		return part;
	}

	if (n < CS_HEAD_BYTES)
		return 0;
	head = cs_head_get(at);
	if (head.bytes > CS_WIRE_MAX)
		return -1;
	if (head.type == CS_WIRE_STDIN)
		return begin_stdin(a, c, head.bytes) ? (ssize_t)CS_HEAD_BYTES : -1;
	if (n < CS_HEAD_BYTES + head.bytes)
		return 0;
	c->waiting = head.type == CS_WIRE_EXEC && a->freezer.state != CS_FREEZER_OFF;
	if (c->waiting)
		return 0;

	return dispatch(a, c, head, at + CS_HEAD_BYTES) ? (ssize_t)(CS_HEAD_BYTES + head.bytes)
							: -1;
}

static void parse(struct cs_agent *a, struct cs_conn *c, const uint8_t *at, size_t n)
{
	while (n && c->socket.fd >= 0 && !c->closing) {
		ssize_t used = parse_one(a, c, at, n);

		if (used < 0) {
			gone(a, c);
			return;
		}
		if (!used)
			break;
		at += used;
		n -= (size_t)used;
	}

	if (n && c->socket.fd >= 0 && !c->closing && cs_queue_put(&c->held, at, n) < 0)
		gone(a, c);
}

/* What was held, and (n) bytes behind it in the scratch. */
static void parse_held(struct cs_agent *a, struct cs_conn *c, size_t n)
{
	size_t held = cs_queue_bytes(&c->held);

	if (held) {
		memcpy(a->scratch, cs_queue_at(&c->held), held);
		cs_queue_clear(&c->held);
	}
	parse(a, c, a->scratch, held + n);
}

static void take(struct cs_agent *a, struct cs_conn *c)
{
	size_t held = cs_queue_bytes(&c->held);
	ssize_t n = recv(c->socket.fd, a->scratch + held, sizeof(a->scratch) - held, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* It may have said all it wanted to and still wait for the answer. */
		if (n == 0 && cs_queue_bytes(&c->out) && !c->exec.pid)
			c->closing = true;
		else
			gone(a, c);
		return;
	}

	parse_held(a, c, (size_t)n);
}

/* In the middle of a large STDIN message: sleep until most of the rest is here, instead of waking
 * up for each packet of 4 KiB. It is certain to come, or the connection to break, which wakes us
 * too.
 */
static void set_low(struct cs_conn *c)
{
	uint32_t left = c->stdin_left < LOW_MAX ? c->stdin_left : LOW_MAX;
	int low = left >= LOW_MIN ? (int)left : 0;
	int value = low ? low : 1;

	if (c->socket.fd < 0 || low == c->low)
		return;
	if (!setsockopt(c->socket.fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value)))
		c->low = low;
}

static void ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	struct cs_conn *c = w->owner;

	if (events & EPOLLOUT) {
		size_t sent;

		if (!push(c, cs_queue_at(&c->out), cs_queue_bytes(&c->out), &sent))
			gone(a, c);
		else
			cs_queue_drop(&c->out, sent);
	}

	if (c->socket.fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		if (c->closing)
			gone(a, c);
		else
			take(a, c);
		set_low(c);
	}

	cs_conn_arm(a, c);
}

/* ---- connections ---- */

void cs_conn_arm(struct cs_agent *a, struct cs_conn *c)
{
	size_t waiting = cs_queue_bytes(&c->out);
	uint32_t want = 0;

	if (c->socket.fd < 0)
		return;
	if (c->closing && !waiting) {
		gone(a, c);
		return;
	}

	if (!c->closing && !c->waiting && waiting < OUT_MAX)
		want |= EPOLLIN;
	if (waiting)
		want |= EPOLLOUT;
	if (cs_watch_set(a, &c->socket, want) < 0) {
		gone(a, c);
		return;
	}

	cs_exec_arm(a, c);
}

void cs_conn_close(struct cs_agent *a, struct cs_conn *c)
{
	cs_exec_free(a, c);
	cs_watch_close(a, &c->socket);
	cs_queue_clear(&c->held);
	cs_queue_clear(&c->out);
	cs_deadline_set(a, &c->deadline, 0);

	if (c->before)
		c->before->next = c->next;
	else
		a->conns = c->next;
	if (c->next)
		c->next->before = c->before;

	/* Events of this round may still name it. */
	c->next = a->dead;
	a->dead = c;
	a->n_conns--;
	cs_watch_set(a, &a->listener, EPOLLIN);
}

void cs_conn_free(struct cs_conn *c)
{
	free(c);
}

/* The next connection, of the host: on a kernel with vsock's loopback any program of the guest
 * could come by here, and an exec is root's. -1: none now; -2: none before another ends. */
static int accept_host(int listener)
{
	struct cs_sockaddr_vm from = { 0 };
	socklen_t bytes = sizeof(from);
	int fd = accept4(listener, (struct sockaddr *)&from, &bytes, SOCK_CLOEXEC);

	if (fd < 0)
		return errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS
			       ? -2
			       : -1;
	if (from.family == AF_VSOCK && from.cid != CS_WIRE_HOST_CID) {
		close(fd);
		return -1;
	}

	return fd;
}

static void accepted(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	int fd = accept_host(w->fd);
	struct cs_conn *c = fd < 0 ? NULL : calloc(1, sizeof(*c));

	if (!c) {
		if (fd >= 0)
			close(fd);
		/* Asking again and again would burn the CPU until a connection ends. */
		if (a->n_conns && fd != -1)
			cs_watch_set(a, w, 0);
		return;
	}

	c->socket = (struct cs_watch){ .fd = fd, .ready = ready, .owner = c };
	c->exec.in.fd = c->exec.out.fd = c->exec.err.fd = c->exec.keep = -1;
	c->next = a->conns;
	if (c->next)
		c->next->before = c;
	a->conns = c;
	if (++a->n_conns >= CS_CONNS_MAX)
		cs_watch_set(a, w, 0);
	cs_conn_arm(a, c);
}

static int listen_on(struct cs_agent *a, int fd, const void *address, socklen_t bytes)
{
	if (fd < 0 || bind(fd, address, bytes) < 0 || listen(fd, 128) < 0) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return r;
	}

	a->listener = (struct cs_watch){ .fd = fd, .ready = accepted };
	return cs_watch_set(a, &a->listener, EPOLLIN);
}

int cs_service_listen(struct cs_agent *a)
{
	const struct cs_sockaddr_vm address = { .family = AF_VSOCK,
						.port = CS_WIRE_AGENT_PORT,
						.cid = CS_CID_ANY };

	return listen_on(a, socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), &address,
			 sizeof(address));
}

int cs_service_listen_unix(struct cs_agent *a, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;

	memcpy(address.sun_path, path, strlen(path) + 1);
	return listen_on(a, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), &address,
			 sizeof(address));
}

void cs_service_close_all(struct cs_agent *a)
{
	while (a->conns) {
		cs_exec_kill(a->conns);
		cs_conn_close(a, a->conns);
	}
}

/* ---- what the loop asks ---- */

bool cs_service_ended(struct cs_agent *a, pid_t pid, uint32_t status)
{
	for (struct cs_conn *c = a->conns; c; c = c->next) {
		if (c->exec.pid == pid && !c->exec.ended) {
			cs_exec_ended(a, c, status);
			return true;
		}
	}

	return false;
}

/* Whoever asked may be gone: in a clone of the guest that was asked, nobody is to see his command
 * run a second time. */
static bool is_gone(const struct cs_conn *c)
{
	char byte;
	ssize_t n = recv(c->socket.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

void cs_service_resume(struct cs_agent *a)
{
	struct cs_conn *next;

	for (struct cs_conn *c = a->conns; c; c = next) {
		next = c->next;
		if (!c->waiting)
			continue;
		c->waiting = false;
		if (is_gone(c))
			gone(a, c);
		else
			parse_held(a, c, 0);
		cs_conn_arm(a, c);
	}
}

void cs_service_expire(struct cs_agent *a, uint64_t now)
{
	struct cs_conn *next;

	for (struct cs_conn *c = a->conns; c; c = next) {
		next = c->next;
		if (cs_deadline_over(&c->deadline, now))
			cs_exec_expire(a, c, now);
	}
}

uint64_t cs_service_next(const struct cs_agent *a)
{
	uint64_t next = UINT64_MAX;

	for (const struct cs_conn *c = a->conns; c; c = c->next) {
		if (c->deadline.at_ms && c->deadline.at_ms < next)
			next = c->deadline.at_ms;
	}

	return next;
}
