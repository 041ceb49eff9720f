/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/codec.h"
#include "vmm/guest/agent/kernel.h"

/* How long the device may take to appear and the monitor to answer. */
#define CONNECT_TRIES  100
#define CONNECT_NAP_MS 50
#define ANSWER_SECONDS 120
/* When it has been lost: as often, and then at longest so rarely. */
#define AGAIN_TRIES      4
#define AGAIN_NAP_MAX_MS 10000

/* ---- sending ---- */

void cs_control_send(struct cs_agent *a, enum cs_wire_type type, const void *payload, size_t n)
{
	uint8_t message[CS_HEAD_BYTES + 512];

	if (a->control.fd < 0)
		return;
	if (n > sizeof(message) - CS_HEAD_BYTES)
		n = sizeof(message) - CS_HEAD_BYTES;

	cs_head_put(message, type, (uint32_t)n);
	if (n)
		memcpy(message + CS_HEAD_BYTES, payload, n);
	/* A few bytes: it blocks only when the monitor has stopped reading,
	 * and then there is nobody to serve. */
	if (send(a->control.fd, message, CS_HEAD_BYTES + n, MSG_NOSIGNAL) < 0)
		a->control_broken = true;
}

void cs_control_u32(struct cs_agent *a, enum cs_wire_type type, uint32_t value)
{
	value = htole32(value);
	cs_control_send(a, type, &value, sizeof(value));
}

/* ---- CONFIG ---- */

/* With a copy of the payload, in which argv and env stay. */
static int own_config(struct cs_config *ret, const uint8_t *payload, size_t bytes)
{
	uint8_t *message = malloc(bytes + 1);
	int r;

	if (!message)
		return -ENOMEM;
	memcpy(message, payload, bytes);
	r = cs_config_parse(ret, message, bytes);
	if (r < 0)
		free(message);
	else
		ret->message = message;
	return r;
}

static int receive_config(struct cs_agent *a)
{
	uint8_t *buffer = a->scratch;
	struct cs_wire_head head = { 0 };
	size_t n = 0, want = CS_HEAD_BYTES;
	struct cs_config config;
	int r;

	while (n < want) {
		ssize_t got = recv(a->control.fd, buffer + n, CS_HEAD_BYTES + CS_WIRE_MAX - n, 0);

		if (got <= 0)
			return got < 0 ? -errno : -ECONNRESET;
		n += (size_t)got;
		if (n < CS_HEAD_BYTES)
			continue;

		head = cs_head_get(buffer);
		if (head.type != CS_WIRE_CONFIG || head.bytes > CS_WIRE_MAX)
			return -EPROTO;
		want = CS_HEAD_BYTES + head.bytes;
	}

	r = own_config(&config, buffer + CS_HEAD_BYTES, head.bytes);
	/* A STOP may have come right behind it. */
	if (r == 0 && cs_queue_put(&a->control_held, buffer + want, n - want) < 0) {
		cs_config_forget_command(&config);
		r = -ENOMEM;
	}
	explicit_bzero(buffer, n);
	if (r < 0)
		return r;

	cs_config_forget_command(&a->config);
	a->config = config;
	cs_identity_heard(a, config.clock_ns);
	return 0;
}

/* ---- the connection ---- */

static int make_socket(const struct cs_agent *a)
{
	const struct timeval patience = { .tv_sec = ANSWER_SECONDS };
	int fd = socket(a->monitor ? AF_UNIX : AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static int connect_to(const struct cs_agent *a, int fd)
{
	const struct cs_sockaddr_vm monitor = { .family = AF_VSOCK,
						.port = CS_WIRE_CONTROL_PORT,
						.cid = CS_WIRE_HOST_CID };
	struct sockaddr_un test = { .sun_family = AF_UNIX };

	if (!a->monitor)
		return connect(fd, (const struct sockaddr *)&monitor, sizeof(monitor));
	snprintf(test.sun_path, sizeof(test.sun_path), "%s", a->monitor);
	return connect(fd, (const struct sockaddr *)&test, sizeof(test));
}

/* One try, by the socket that is ready if there is one. */
static int connect_monitor(struct cs_agent *a)
{
	struct cs_wake *w = &a->wake;
	int fd = w->socket >= 0 ? w->socket : make_socket(a), r;

	w->socket = -1;
	if (fd < 0)
		return fd;
	if (connect_to(a, fd) < 0) {
		r = -errno;
		close(fd);
		return r;
	}

	a->control = (struct cs_watch){ .fd = fd };
	a->control_broken = false;
	return 0;
}

static int say_hello(struct cs_agent *a)
{
	int r;

	cs_identity_asks(a);
	cs_control_u32(a, CS_WIRE_HELLO, CS_WIRE_VERSION);
	r = receive_config(a);
	if (r < 0)
		cs_watch_close(a, &a->control);
	return r;
}

int cs_control_open(struct cs_agent *a)
{
	const struct timespec nap = { .tv_nsec = CONNECT_NAP_MS * 1000000L };
	int r = -ENODEV;

	for (int i = 0; i < CONNECT_TRIES; i++) {
		r = connect_monitor(a);
		/* No such address family: there is no vsock in this kernel, and none will come. */
		if (r == 0 || r == -EAFNOSUPPORT)
			break;
		nanosleep(&nap, NULL);
	}

	return r < 0 ? r : say_hello(a);
}

int cs_control_again(struct cs_agent *a, bool must)
{
	uint64_t nap_ms = CONNECT_NAP_MS;
	int r = -ENOTCONN;

	a->control = (struct cs_watch){ .fd = -1 };
	/* Another machine may go on from the same memory. What has to differ between the two must
	 * not be used before it does: better a guest that stands still. */
	for (int i = 0; must || i < AGAIN_TRIES; i++) {
		const struct timespec nap = { .tv_sec = (time_t)(nap_ms / 1000),
					      .tv_nsec = (long)(nap_ms % 1000) * 1000000 };

		r = connect_monitor(a);
		if (r == 0)
			r = say_hello(a);
		if (r == 0)
			break;
		if (i == AGAIN_TRIES)
			cs_agent_say(a, "no monitor answers on vsock (%s): waiting", strerror(-r));
		nanosleep(&nap, NULL);
		nap_ms = 2 * nap_ms < AGAIN_NAP_MAX_MS ? 2 * nap_ms : AGAIN_NAP_MAX_MS;
	}
	return r;
}

void cs_control_prepare(struct cs_agent *a)
{
	a->wake.socket = make_socket(a);
}

/* ---- messages while serving ---- */

static void on_stop(struct cs_agent *a, struct cs_reader *r)
{
	uint32_t kind = cs_reader_u32(r);

	cs_stop_begin(a, kind, cs_reader_u32(r));
}

static void on_freeze(struct cs_agent *a, struct cs_reader *r)
{
	struct cs_wire_freeze freeze;

	memcpy(&freeze, r->at, sizeof(freeze));
	cs_identity_heard_idle(a, le64toh(freeze.clock_ns));
	cs_freezer_begin(a, le32toh(freeze.flags));
}

static void on_thaw(struct cs_agent *a, struct cs_reader *r)
{
	cs_freezer_thaw(a);
}

/* The guest has been restored, and this connection with it. */
static void on_config(struct cs_agent *a, struct cs_reader *r)
{
	struct cs_config config;
	int error = own_config(&config, r->at, r->left);

	if (error < 0)
		cs_agent_trouble(a, "cannot wake up: CONFIG: %s", strerror(-error));
	else {
		cs_identity_heard(a, config.clock_ns);
		cs_wake_config(a, &config);
	}
}

static void on_ping(struct cs_agent *a, struct cs_reader *r)
{
	cs_control_send(a, CS_WIRE_PONG, r->at, r->left);
}

/* What the monitor may send while we serve. */
static const struct {
	uint32_t type, least, most;
	void (*handle)(struct cs_agent *a, struct cs_reader *r);
} messages[] = {
	{ CS_WIRE_STOP, 8, 8, on_stop },
	{ CS_WIRE_FREEZE, sizeof(struct cs_wire_freeze), sizeof(struct cs_wire_freeze), on_freeze },
	{ CS_WIRE_THAW, 0, 0, on_thaw },
	{ CS_WIRE_CONFIG, sizeof(struct cs_wire_config), CS_WIRE_MAX, on_config },
	{ CS_WIRE_PING, 0, 64, on_ping },
};

static bool dispatch(struct cs_agent *a, struct cs_wire_head head, const uint8_t *payload)
{
	struct cs_reader r = cs_reader_over(payload, head.bytes);

	for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); i++) {
		if (messages[i].type == head.type) {
			if (head.bytes < messages[i].least || head.bytes > messages[i].most)
				break;
			messages[i].handle(a, &r);
			return true;
		}
	}

	return false;
}

/* Whole messages in (n) bytes at (at): how many they were. */
static size_t take(struct cs_agent *a, const uint8_t *at, size_t n)
{
	size_t used = 0;

	while (n - used >= CS_HEAD_BYTES && a->control.fd >= 0) {
		struct cs_wire_head head = cs_head_get(at + used);

		if (head.bytes <= CS_WIRE_MAX && n - used < CS_HEAD_BYTES + head.bytes)
			break;
		/* It has lost its mind: serve on without it, nobody else can end us. */
		if (head.bytes > CS_WIRE_MAX || !dispatch(a, head, at + used + CS_HEAD_BYTES)) {
			cs_watch_close(a, &a->control);
			return n;
		}
		used += CS_HEAD_BYTES + head.bytes;
	}
	return used;
}

static void take_held(struct cs_agent *a)
{
	struct cs_queue *held = &a->control_held;

	cs_queue_drop(held, take(a, cs_queue_at(held), cs_queue_bytes(held)));
}

static void ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	/* On the stack: the scratch is needed by what a message leads to. */
	uint8_t part[2048];
	size_t used = 0;
	ssize_t n;

	/* What it has still said is for who we were. */
	if (events & (EPOLLERR | EPOLLHUP)) {
		cs_wake(a, events & EPOLLERR);
		return;
	}
	n = recv(w->fd, part, sizeof(part), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		cs_wake(a, n < 0);
		return;
	}

	/* Usually whole, and taken without a copy. */
	if (!cs_queue_bytes(&a->control_held))
		used = take(a, part, (size_t)n);
	if (cs_queue_put(&a->control_held, part + used, (size_t)n - used) < 0)
		cs_watch_close(a, w);
	take_held(a);
	explicit_bzero(part, sizeof(part));
}

void cs_control_check(struct cs_agent *a)
{
	a->control_broken = false;
	if (a->control.fd >= 0)
		cs_wake(a, true);
}

int cs_control_serve(struct cs_agent *a)
{
	int r;

	if (a->control.fd < 0)
		return 0;

	a->control.ready = ready;
	r = cs_watch_set(a, &a->control, EPOLLIN);
	take_held(a);
	return r;
}
