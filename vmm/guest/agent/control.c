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
	/* A few bytes in a guest's lifetime: it blocks only when the monitor has stopped reading,
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

static int receive_config(struct cs_agent *a)
{
	uint8_t *buffer = a->scratch, *message;
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

	/* argv and env stay in the message, and the scratch is needed. */
	message = malloc(head.bytes + 1);
	if (!message)
		return -ENOMEM;
	memcpy(message, buffer + CS_HEAD_BYTES, head.bytes);
	r = cs_config_parse(&config, message, head.bytes);
	/* A STOP may have come right behind it. */
	if (r == 0)
		r = cs_queue_put(&a->control_held, buffer + want, n - want);
	explicit_bzero(buffer, n);
	if (r < 0) {
		free(message);
		return r;
	}

	cs_config_forget_command(&a->config);
	config.message = message;
	a->config = config;
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
	cs_freezer_begin(a, cs_reader_u32(r));
}

static void on_thaw(struct cs_agent *a, struct cs_reader *r)
{
	cs_freezer_thaw(a);
}

/* What the monitor may send while we serve. */
static const struct {
	uint32_t type, bytes;
	void (*handle)(struct cs_agent *a, struct cs_reader *r);
} messages[] = {
	{ CS_WIRE_STOP, 8, on_stop },
	{ CS_WIRE_FREEZE, 4, on_freeze },
	{ CS_WIRE_THAW, 0, on_thaw },
};

static bool dispatch(struct cs_agent *a, struct cs_wire_head head, const uint8_t *payload)
{
	struct cs_reader r = cs_reader_over(payload, head.bytes);

	for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); i++) {
		if (messages[i].type == head.type && messages[i].bytes == head.bytes) {
			messages[i].handle(a, &r);
			return true;
		}
	}

	return false;
}

static void take_held(struct cs_agent *a)
{
	struct cs_queue *held = &a->control_held;
	struct cs_watch *w = &a->control;

	while (cs_queue_bytes(held) >= CS_HEAD_BYTES && w->fd >= 0) {
		struct cs_wire_head head = cs_head_get(cs_queue_at(held));

		/* It has lost its mind: serve on without it, nobody else can end us. */
		if (head.bytes > CS_WIRE_MAX) {
			cs_watch_close(a, w);
			return;
		}
		if (cs_queue_bytes(held) < CS_HEAD_BYTES + head.bytes)
			break;
		if (!dispatch(a, head, cs_queue_at(held) + CS_HEAD_BYTES))
			cs_watch_close(a, w);
		cs_queue_drop(held, CS_HEAD_BYTES + head.bytes);
	}
}

static void ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	uint8_t part[256];
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
	if (cs_queue_put(&a->control_held, part, (size_t)n) < 0) {
		cs_watch_close(a, w);
		return;
	}
	take_held(a);
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
