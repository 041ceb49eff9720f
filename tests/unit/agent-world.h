/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The monitor's end of the control connection and a test that plays the guest's: for test-agent-*.c
 * of the host. Everything fails the running test by itself. */
#pragma once

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/settle.h"
#include "vmm/agent.h"

struct world {
	pthread_mutex_t lock;
	struct cs_loop *loop;
	struct cs_agent *agent;
	unsigned ready, exited, byes, troubles, lost, frozen, pongs;
	unsigned status;
	int error; /* of frozen() */
	enum cs_wire_stop reason;
	char trouble[CS_AGENT_TROUBLE];
};

static inline void on_ready(void *arg)
{
	((struct world *)arg)->ready++;
}

static inline void on_exited(void *arg, unsigned status)
{
	struct world *w = arg;

	w->exited++;
	w->status = status;
}

static inline void on_bye(void *arg, enum cs_wire_stop reason)
{
	struct world *w = arg;

	w->byes++;
	w->reason = reason;
}

static inline void on_trouble(void *arg, const char *text)
{
	struct world *w = arg;

	w->troubles++;
	assert_true(strlen(text) < sizeof(w->trouble));
	memcpy(w->trouble, text, strlen(text) + 1);
}

static inline void on_lost(void *arg)
{
	((struct world *)arg)->lost++;
}

static inline void on_frozen(void *arg, int error)
{
	struct world *w = arg;

	w->frozen++;
	w->error = error;
}

static inline void on_pong(void *arg)
{
	((struct world *)arg)->pongs++;
}

static inline uint64_t on_clock(void *arg)
{
	return UINT64_C(12345678901);
}

static const struct cs_agent_events events = { .ready = on_ready,
					       .exited = on_exited,
					       .bye = on_bye,
					       .trouble = on_trouble,
					       .lost = on_lost,
					       .frozen = on_frozen,
					       .pong = on_pong,
					       .clock = on_clock };
static char words[][8] = { "sh", "-c", "exit 7", "A=1" };
static char *const command[] = { words[0], words[1], words[2], NULL };
static char *const env[] = { words[3], NULL };
static const struct cs_machine_agent config = {
	.hostname = "web", .command = command, .env = env, .persist = true
};

static inline int open_world(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	const struct cs_agent_spec spec = { .config = &config, .events = &events, .arg = w };
	struct cs_err err = { 0 };

	pthread_mutex_init(&w->lock, NULL);
	assert_int_equal(cs_loop_create(&w->lock, &w->loop, &err), 0);
	assert_int_equal(cs_agent_create(&spec, w->loop, &w->agent, &err), 0);
	*state = w;
	return 0;
}

static inline int close_world(void **state)
{
	struct world *w = *state;

	cs_agent_free(w->agent);
	cs_loop_free(w->loop);
	pthread_mutex_destroy(&w->lock);
	test_free(w);
	return 0;
}

/* ---- the guest's end */

static inline void put(int fd, uint32_t type, const void *payload, uint32_t bytes)
{
	const struct cs_wire_head head = { htole32(type), htole32(bytes) };

	assert_int_equal(send(fd, &head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
	if (bytes)
		assert_int_equal(send(fd, payload, bytes, MSG_NOSIGNAL), bytes);
}

static inline void put_u32(int fd, uint32_t type, uint32_t value)
{
	value = htole32(value);
	put(fd, type, &value, sizeof(value));
}

/* The next message of the host; its payload's bytes. */
static inline uint32_t get(int fd, uint32_t type, char *payload, size_t size)
{
	struct cs_wire_head head;

	assert_int_equal(recv(fd, &head, sizeof(head), MSG_DONTWAIT), sizeof(head));
	assert_int_equal(le32toh(head.type), type);
	assert_true(le32toh(head.bytes) <= size);
	if (head.bytes)
		assert_int_equal(recv(fd, payload, le32toh(head.bytes), MSG_DONTWAIT | MSG_WAITALL),
				 le32toh(head.bytes));
	return le32toh(head.bytes);
}

static inline void assert_cut_off(int fd)
{
	char byte;
	ssize_t n;

	while ((n = recv(fd, &byte, 1, MSG_DONTWAIT)) > 0)
		continue;
	assert_true(n == 0 || errno == ECONNRESET);
	close(fd);
}

static inline void assert_silent(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static inline int hello_version(struct world *w, uint32_t version)
{
	char payload[CS_WIRE_MAX];
	int fd = cs_agent_serve(w->agent, CS_WIRE_CONTROL_PORT);

	assert_true(fd >= 0);
	put_u32(fd, CS_WIRE_HELLO, version);
	settle(w->loop);
	get(fd, CS_WIRE_CONFIG, payload, sizeof(payload));
	return fd;
}

static inline int hello(struct world *w)
{
	return hello_version(w, CS_WIRE_VERSION);
}

static inline int hello_ready(struct world *w)
{
	int fd = hello(w);

	put(fd, CS_WIRE_READY, NULL, 0);
	settle(w->loop);
	return fd;
}
