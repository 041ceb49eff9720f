/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/codec.h"
#include "vmm/guest/agent/kernel.h"

/* How long the device may take to appear and the monitor to answer. */
#define CONNECT_TRIES  100
#define CONNECT_NAP_MS 50
#define ANSWER_SECONDS 120

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
		cs_watch_close(a, &a->control);
}

void cs_control_u32(struct cs_agent *a, enum cs_wire_type type, uint32_t value)
{
	value = htole32(value);
	cs_control_send(a, type, &value, sizeof(value));
}

/* ---- CONFIG ---- */

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
	if (n != want)
		return -EPROTO;

	/* argv and env stay in the message, and the scratch is needed. */
	a->config.message = malloc(head.bytes + 1);
	if (!a->config.message)
		return -ENOMEM;
	memcpy(a->config.message, buffer + CS_HEAD_BYTES, head.bytes);
	explicit_bzero(buffer, n);

	r = cs_config_parse(&config, a->config.message, head.bytes);
	if (r < 0)
		return r;
	config.message = a->config.message;
	a->config = config;
	return 0;
}

/* ---- the connection ---- */

static int connect_monitor(void)
{
	const struct cs_sockaddr_vm monitor = { .family = AF_VSOCK,
						.port = CS_WIRE_CONTROL_PORT,
						.cid = CS_WIRE_HOST_CID };
	const struct timespec nap = { .tv_nsec = CONNECT_NAP_MS * 1000000L };
	int r = -ENODEV;

	for (int i = 0; i < CONNECT_TRIES; i++) {
		int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

		/* No such address family: there is no vsock in this kernel, and none will come. */
		if (fd < 0)
			return -errno;
		if (!connect(fd, (const struct sockaddr *)&monitor, sizeof(monitor)))
			return fd;
		r = -errno;
		close(fd);
		nanosleep(&nap, NULL);
	}

	return r;
}

int cs_control_open(struct cs_agent *a)
{
	const struct timeval patience = { .tv_sec = ANSWER_SECONDS };
	int fd = connect_monitor(), r;

	if (fd < 0)
		return fd;

	a->control = (struct cs_watch){ .fd = fd };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	cs_control_u32(a, CS_WIRE_HELLO, CS_WIRE_VERSION);
	r = receive_config(a);
	if (r < 0)
		cs_watch_close(a, &a->control);
	return r;
}

/* ---- messages while serving ---- */

static void on_stop(struct cs_agent *a, struct cs_reader *r)
{
	uint32_t kind = cs_reader_u32(r);

	cs_stop_begin(a, kind, cs_reader_u32(r));
}

static void on_freeze(struct cs_agent *a, struct cs_reader *r)
{
	cs_control_u32(a, CS_WIRE_FROZEN, EOPNOTSUPP);
}

static void on_thaw(struct cs_agent *a, struct cs_reader *r)
{
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

static void ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	struct cs_queue *held = &a->control_held;
	uint8_t part[256];
	ssize_t n = recv(w->fd, part, sizeof(part), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || cs_queue_put(held, part, (size_t)n) < 0) {
		/* The monitor has gone or lost its mind: serve on, nobody else can end us. */
		cs_watch_close(a, w);
		return;
	}

	while (cs_queue_bytes(held) >= CS_HEAD_BYTES && w->fd >= 0) {
		struct cs_wire_head head = cs_head_get(cs_queue_at(held));

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

int cs_control_serve(struct cs_agent *a)
{
	if (a->control.fd < 0)
		return 0;

	a->control.ready = ready;
	return cs_watch_set(a, &a->control, EPOLLIN);
}
