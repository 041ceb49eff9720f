/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections of a guest that is saved: the agent's goes on in a clone when it is alone and quiet;
 * otherwise the clone's guest hears that all are reset, and nobody comes to it before. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/vsock.h"
#include "vmm/stream.h"

#define AGENT 1025u /* its port */

static void touch(void *arg, const void *host, size_t bytes)
{
}

/* The bytes of a state, the caller's to free(). */
static void *save(struct vs *vs, size_t *ret_bytes)
{
	struct cs_stream *stream = cs_stream_create();
	struct cs_err err = { 0 };
	const void *data;
	void *copy;

	cs_virtio_mmio_settle(vs->guest.mmio);
	cs_virtio_mmio_part(vs->guest.mmio, touch, NULL);
	cs_virtio_mmio_state(vs->guest.mmio, stream);
	assert_int_equal(cs_stream_end(stream, &err), 0);
	data = cs_stream_data(stream, ret_bytes);
	copy = malloc(*ret_bytes);
	memcpy(copy, data, *ret_bytes);
	cs_stream_free(stream);
	return copy;
}

static int load(struct vs *vs, const void *data, size_t bytes)
{
	struct cs_stream *stream = cs_stream_open(data, bytes);
	struct cs_err err = { 0 };
	int r;

	cs_virtio_mmio_state(vs->guest.mmio, stream);
	r = cs_stream_end(stream, &err);
	cs_stream_free(stream);
	return r;
}

/* The guest's memory and driver, as they are now. */
static void copy_guest(struct vs *to, const struct vs *from)
{
	for (unsigned i = 0; i < 2; i++)
		memcpy(to->guest.mem.ram.seg[i].host, from->guest.mem.ram.seg[i].host,
		       FAKE_SEG_BYTES);
	to->rx = from->rx;
	to->tx = from->tx;
	to->event = from->event;
	to->rx.guest = to->tx.guest = to->event.guest = &to->guest;
	memcpy(to->rx_gpa, from->rx_gpa, sizeof(to->rx_gpa));
	memcpy(to->tx_gpa, from->tx_gpa, sizeof(to->tx_gpa));
	to->rx_next = from->rx_next;
	to->tx_used = from->tx_used;
	to->tx_next = from->tx_next;
	to->guest.next_gpa = from->guest.next_gpa;
}

/* Save (vs), whose guest never learns of it, and go on in (clone), which has vs_open() behind it.
 */
static void become(struct vs *clone, struct vs *vs)
{
	size_t bytes;
	void *data = save(vs, &bytes);

	copy_guest(clone, vs);
	assert_int_equal(load(clone, data, bytes), 0);
	free(data);
}

/* The other end of what the clone's agent is to get. */
static int make_resumed(struct vs *clone)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	clone->resumed = pair[0];
	return pair[1];
}

static bool hears_reset(struct vs *vs)
{
	uint32_t id, len;

	return fake_take(&vs->event, &id, &len);
}

/* ---- the agent's connection goes on */

static void test_kept(void **state)
{
	struct vs vs, clone;
	struct virtio_vsock_hdr hdr;
	const char *payload;
	int agent, resumed;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	vs_say_text(&vs, 1, AGENT, "hello");
	vs_assert_reads(agent, "hello");
	vs_put(agent, "config");
	vs_settle(&vs);
	vs_expect(&vs, VIRTIO_VSOCK_OP_RW, 1, AGENT);

	vs_open(&clone);
	resumed = make_resumed(&clone);
	become(&clone, &vs);
	assert_false(hears_reset(&clone));
	assert_int_equal(clone.resumed, -1);
	vs_settle(&clone);
	vs_expect_none(&clone);
	/* The first word is the host's; the counts go on where they were. */
	vs_put(resumed, "who you are");
	vs_settle(&clone);
	assert_true(vs_next(&clone, &hdr, &payload));
	assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(hdr.src_port, 1);
	assert_int_equal(hdr.dst_port, AGENT);
	assert_int_equal(hdr.fwd_cnt, 5);
	assert_memory_equal(payload, "who you are", 11);
	vs_say_text(&clone, 1, AGENT, "ready");
	vs_assert_reads(resumed, "ready");
	vs_assert_nothing(agent);

	/* The guest that was saved goes on as well, and both hear of an end. */
	vs_say_text(&vs, 1, AGENT, "still here");
	vs_assert_reads(agent, "still here");
	close(resumed);
	vs_settle(&clone);
	vs_expect(&clone, VIRTIO_VSOCK_OP_SHUTDOWN, 1, AGENT);
	vs_op(&vs, VIRTIO_VSOCK_OP_RST, 1, AGENT, 0);
	vs_assert_eof(agent);
	close(agent);
	vs_close(&clone);
	vs_close(&vs);
}

/* What it may still send is counted in the clone too. */
static void test_credit_goes_on(void **state)
{
	const struct vs_packet tight = { .op = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
					 .host_port = 1,
					 .guest_port = AGENT,
					 .buf_alloc = 10 };
	struct vs_packet room = tight;
	struct vs vs, clone;
	struct virtio_vsock_hdr hdr;
	int agent, resumed;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	vs_say(&vs, &tight, NULL, 0);
	vs_put(agent, "123456");
	vs_settle(&vs);
	vs_expect(&vs, VIRTIO_VSOCK_OP_RW, 1, AGENT);
	vs_open(&clone);
	resumed = make_resumed(&clone);
	become(&clone, &vs);
	vs_put(resumed, "7890abcdef");
	vs_settle(&clone);
	assert_true(vs_next(&clone, &hdr, NULL));
	assert_int_equal(hdr.len, 4);
	vs_expect_none(&clone);
	room.fwd_cnt = 10;
	vs_say(&clone, &room, NULL, 0);
	assert_true(vs_next(&clone, &hdr, NULL));
	assert_int_equal(hdr.len, 6);
	close(resumed);
	close(agent);
	vs_close(&clone);
	vs_close(&vs);
}

/* A client of the clone gets a port that its guest has not seen. */
static void test_ports_go_on(void **state)
{
	struct vs vs, clone;
	uint32_t port, next;
	int agent, fd, resumed;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	fd = vs_connect(&vs, 1, &port);
	close(fd);
	vs_settle(&vs);
	vs_expect(&vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 1);
	vs_open(&clone);
	resumed = make_resumed(&clone);
	become(&clone, &vs);
	assert_false(hears_reset(&clone));
	fd = vs_connect(&clone, 1, &next);
	assert_true(next > port);
	close(fd);
	close(resumed);
	close(agent);
	vs_close(&clone);
	vs_close(&vs);
}

/* ---- it does not */

static void assert_reset(struct vs *vs)
{
	struct vs clone;
	int resumed;

	vs_open(&clone);
	resumed = make_resumed(&clone);
	become(&clone, vs);
	assert_true(hears_reset(&clone));
	assert_int_not_equal(clone.resumed, -1);
	close(clone.resumed);
	close(resumed);
	vs_close(&clone);
}

static void test_not_alone(void **state)
{
	struct vs vs;
	uint32_t port;
	int agent, fd;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	assert_reset(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	fd = vs_connect(&vs, 1, &port);
	assert_reset(&vs);
	close(fd);
	close(agent);
	vs_close(&vs);
}

/* A client that the guest has not heard of is no reason. */
static void test_a_client_who_greets(void **state)
{
	struct vs vs, clone;
	int agent, client, resumed;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	client = vs_client(&vs);
	vs_put(client, "CONN");
	vs_settle(&vs);
	vs_open(&clone);
	resumed = make_resumed(&clone);
	become(&clone, &vs);
	assert_false(hears_reset(&clone));
	close(client);
	close(resumed);
	close(agent);
	vs_close(&clone);
	vs_close(&vs);
}

static void test_not_quiet(void **state)
{
	struct vs vs;
	int agent;

	for (int i = 0; i < 3; i++) {
		vs_open(&vs);
		vs_start(&vs, UINT64_MAX);
		agent = vs_call(&vs, AGENT);
		if (i == 0) /* half closed by the guest */
			vs_op(&vs, VIRTIO_VSOCK_OP_SHUTDOWN, 1, AGENT, VIRTIO_VSOCK_SHUTDOWN_SEND);
		if (i == 1) /* closed by the host, and the guest has not answered */
			close(agent);
		vs_settle(&vs);
		if (i == 2) { /* it takes nothing: something is held for it */
			static char much[VS_TX_BYTES];
			const struct vs_packet rw = { .op = VIRTIO_VSOCK_OP_RW,
						      .host_port = 1,
						      .guest_port = AGENT };

			vs_shrink(agent);
			for (int j = 0; j < 15; j++)
				vs_say(&vs, &rw, much, sizeof(much));
		}
		assert_reset(&vs);
		if (i != 1)
			close(agent);
		vs_close(&vs);
	}
}

/* Until the agent has called again, who connects waits: the guest would reset him with all others.
 */
static void test_daze(void **state)
{
	struct vs vs, clone;
	uint32_t port;
	int fd, agent, client;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	fd = vs_connect(&vs, 1, &port);
	vs_open(&clone);
	become(&clone, &vs);
	assert_true(hears_reset(&clone));
	client = vs_client(&clone);
	vs_put(client, "CONNECT 1\n");
	vs_settle(&clone);
	vs_expect_none(&clone);
	vs_pass(&clone, 1000);
	vs_expect_none(&clone);
	agent = vs_call(&clone, AGENT);
	vs_settle(&clone);
	vs_expect(&clone, VIRTIO_VSOCK_OP_REQUEST, 0, 1);
	close(client);
	close(agent);
	vs_close(&clone);

	/* Nor for ever, when no agent comes. */
	vs_open(&clone);
	become(&clone, &vs);
	client = vs_client(&clone);
	vs_put(client, "CONNECT 1\n");
	vs_settle(&clone);
	vs_expect_none(&clone);
	assert_true(vs_timer_armed());
	vs_pass(&clone, 5001);
	vs_expect(&clone, VIRTIO_VSOCK_OP_REQUEST, 0, 1);
	close(client);
	close(fd);
	vs_close(&clone);
	vs_close(&vs);
}

/* ---- states that are none */

static void test_bits(void **state)
{
	struct vs vs, clone;
	unsigned refused = 0, kept = 0;
	size_t bytes;
	unsigned char *data;
	int agent;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	data = save(&vs, &bytes);
	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		int resumed, r;

		vs_open(&clone);
		clone.guest.settle = 4;
		resumed = make_resumed(&clone);
		copy_guest(&clone, &vs);
		data[bit / 8] ^= (unsigned char)(1u << bit % 8);
		r = load(&clone, data, bytes);
		data[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_true(r == 0 || r == -EBADMSG || r == -ESTALE);
		refused += r < 0;
		if (r == 0) {
			vs_put(resumed, "x");
			fake_settle(&clone.guest);
			kept++;
		}
		if (clone.resumed >= 0)
			close(clone.resumed);
		close(resumed);
		vs_close(&clone);
	}
	assert_true(refused && kept);
	free(data);
	close(agent);
	vs_close(&vs);
}

/* Where nobody can go on with it. */
static void test_nobody_resumes(void **state)
{
	struct vs vs, clone;
	size_t bytes;
	void *data;
	int agent;

	vs_open(&vs);
	vs_start(&vs, UINT64_MAX);
	agent = vs_call(&vs, AGENT);
	data = save(&vs, &bytes);
	vs_open(&clone);
	copy_guest(&clone, &vs);
	assert_int_equal(load(&clone, data, bytes), -EBADMSG);
	free(data);
	close(agent);
	vs_close(&clone);
	vs_close(&vs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kept),
		cmocka_unit_test(test_credit_goes_on),
		cmocka_unit_test(test_ports_go_on),
		cmocka_unit_test(test_not_alone),
		cmocka_unit_test(test_a_client_who_greets),
		cmocka_unit_test(test_not_quiet),
		cmocka_unit_test(test_daze),
		cmocka_unit_test(test_bits),
		cmocka_unit_test(test_nobody_resumes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
