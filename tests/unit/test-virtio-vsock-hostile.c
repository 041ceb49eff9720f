/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests that keep to no rule, and too much of everything: they hurt themselves only. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/vsock.h"

#define STATUS 0x070

static int open_vs(void **state)
{
	struct vs *vs = test_calloc(1, sizeof(*vs));

	vs_open(vs);
	vs_start(vs, 0);
	*state = vs;
	return 0;
}

static int close_vs(void **state)
{
	vs_close(*state);
	test_free(*state);
	return 0;
}

/* The device still does its work. */
static void assert_sane(struct vs *vs)
{
	int fd = vs_call(vs, 4242);

	assert_int_equal(send(fd, "x", 1, 0), 1);
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RW, 1, 4242);
	vs_op(vs, VIRTIO_VSOCK_OP_RST, 1, 4242, 0);
	vs_assert_eof(fd);
	vs_expect_none(vs);
	close(fd);
}

static void assert_ended(int fd)
{
	char byte;

	errno = 0;
	assert_true(recv(fd, &byte, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
	close(fd);
}

/* ---- heads */

static void test_unknown_connection(void **state)
{
	struct vs *vs = *state;

	for (uint16_t op = 0; op < 300; op++) {
		vs_op(vs, op, 5, 6, 0);
		if (op == VIRTIO_VSOCK_OP_RST)
			vs_expect_none(vs);
		else
			vs_expect(vs, VIRTIO_VSOCK_OP_RST, 5, 6);
	}
	assert_sane(vs);
}

static void test_bad_addresses(void **state)
{
	struct vs *vs = *state;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_REQUEST,
				    .host_port = 1,
				    .guest_port = 6 };
	struct virtio_vsock_hdr hdr;

	packet.src_cid = VS_CID + 1;
	vs_say(vs, &packet, NULL, 0);
	packet.src_cid = VS_CID | UINT64_C(1) << 32;
	vs_say(vs, &packet, NULL, 0);
	packet.src_cid = 0;
	packet.dst_cid = UINT64_C(2) | UINT64_C(1) << 32;
	vs_say(vs, &packet, NULL, 0);
	vs_expect_none(vs);

	/* Nobody lives there; its programs should hear so. */
	packet.dst_cid = 99;
	vs_say(vs, &packet, NULL, 0);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 6);
	assert_int_equal(hdr.src_cid, 99);
	assert_sane(vs);
}

static void test_other_types(void **state)
{
	struct vs *vs = *state;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_REQUEST,
				    .host_port = 1,
				    .guest_port = 6 };
	static const uint16_t types[] = { VIRTIO_VSOCK_TYPE_SEQPACKET, 3, 0xffff };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		packet.type = types[i];
		vs_say(vs, &packet, NULL, 0);
		assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 6).type, types[i]);
	}
	assert_sane(vs);
}

/* What each unfit packet does to the connection it names: it ends. */
static void test_bad_ops_on_connection(void **state)
{
	static const uint16_t ops[] = { 0, VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, 8,
					0xffff };
	struct vs *vs = *state;

	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		int fd = vs_call(vs, 7);

		vs_op(vs, ops[i], 1, 7, 0);
		vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 7);
		vs_expect_none(vs);
		assert_ended(fd);
	}
	assert_sane(vs);
}

static void test_ops_before_response(void **state)
{
	static const uint16_t ops[] = { VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_REQUEST, 99 };
	static const char line[] = "CONNECT 7\n";
	struct vs *vs = *state;
	struct virtio_vsock_hdr hdr;

	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		int fd = vs_client(vs);
		struct vs_packet packet = { .op = ops[i], .guest_port = 7 };

		assert_int_equal(send(fd, line, sizeof(line) - 1, 0), sizeof(line) - 1);
		vs_settle(vs);
		hdr = vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, 7);
		packet.host_port = hdr.src_port;
		vs_say(vs, &packet, "abc", 3);
		vs_expect(vs, VIRTIO_VSOCK_OP_RST, hdr.src_port, 7);
		vs_assert_eof(fd);
		close(fd);
	}
	/* These do nothing. */
	vs_op(vs, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 1, 9, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 9);
	assert_sane(vs);
}

/* RESPONSE to a REQUEST that has not been sent: the guest guesses ports. */
static void test_early_response(void **state)
{
	static const char line[] = "CONNECT 7\n";
	struct vs *vs = *state;
	uint32_t port;
	int guide = vs_connect(vs, 6, &port), fd;

	vs->hold = true;
	fd = vs_client(vs);
	for (unsigned i = 0; i < VS_RX; i++)
		vs_op(vs, VIRTIO_VSOCK_OP_RW, 1, 1, 0); /* resets fill the rx buffers */
	assert_int_equal(send(fd, line, sizeof(line) - 1, 0), sizeof(line) - 1);
	vs_settle(vs);
	vs_op(vs, VIRTIO_VSOCK_OP_RESPONSE, port + 1, 7, 0);
	vs_assert_eof(fd);
	close(fd);
	close(guide);
}

static void test_bad_lengths(void **state)
{
	static const uint32_t lens[] = { 4, 65536, 1u << 31, UINT32_MAX };
	struct vs *vs = *state;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_RW, .host_port = 1, .guest_port = 7 };

	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		int fd = vs_call(vs, 7);

		packet.len = lens[i];
		vs_say(vs, &packet, "abc", 3);
		vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 7);
		vs_assert_eof(fd);
		close(fd);
	}
	assert_sane(vs);
}

/* A length below what the packet has is the length; none is none. */
static void test_short_lengths(void **state)
{
	struct vs *vs = *state;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_RW, .host_port = 1, .guest_port = 7 };
	int fd = vs_call(vs, 7);

	packet.len = 2;
	vs_say(vs, &packet, "abc", 3);
	vs_assert_reads(fd, "ab");
	packet.len = 0;
	vs_say(vs, &packet, NULL, 0);
	vs_assert_nothing(fd);
	packet.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE;
	packet.len = UINT32_MAX;
	vs_say(vs, &packet, NULL, 0);
	vs_assert_nothing(fd);
	close(fd);
}

static void test_credit_overrun(void **state)
{
	static char data[VS_TX_BYTES];
	struct vs *vs = *state;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_RW, .host_port = 1, .guest_port = 7 };
	struct virtio_vsock_hdr hdr = { 0 };
	int fd = vs_call(vs, 7);
	uint32_t sent = 0;

	/* The host does not read, the guest does not care: it ends before we hold a byte too many.
	 */
	while (hdr.op != VIRTIO_VSOCK_OP_RST) {
		assert_true(sent < 2u << 20);
		vs_say(vs, &packet, data, sizeof(data));
		sent += sizeof(data);
		while (vs_next(vs, &hdr, NULL) && hdr.op != VIRTIO_VSOCK_OP_RST)
			assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	}
	close(fd);
	assert_sane(vs);
}

static void test_data_after_end(void **state)
{
	struct vs *vs = *state;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_SHUTDOWN,
				    .host_port = 1,
				    .guest_port = 7,
				    .flags = VIRTIO_VSOCK_SHUTDOWN_SEND };
	int fd = vs_call(vs, 7);

	vs_say(vs, &packet, NULL, 0);
	vs_say(vs, &packet, NULL, 0);
	vs_assert_eof(fd);
	packet.op = VIRTIO_VSOCK_OP_RW;
	vs_say(vs, &packet, "abc", 3);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 7);
	assert_ended(fd);
	assert_sane(vs);
}

/* ---- rings */

static void test_odd_buffers(void **state)
{
	struct vs *vs = *state;
	const struct fake_buf writable = { vs->tx_gpa[0], 100, true };
	const struct fake_buf tiny = { vs->tx_gpa[0], 43, false };
	uint32_t id, len;

	/* On the tx queue: nothing to read, not even a head. */
	fake_send(&vs->tx, &writable, 1);
	fake_send(&vs->tx, &tiny, 1);
	fake_kick(&vs->tx);
	vs_settle(vs);
	assert_true(fake_take(&vs->tx, &id, &len));
	assert_true(fake_take(&vs->tx, &id, &len));
	assert_int_equal(len, 0);
	vs_expect_none(vs);
	assert_sane(vs);
}

/* Buffers without room, some for the head alone, then one for a byte. */
static void test_small_rx_buffers(void **state)
{
	struct vs *vs = *state;
	struct virtio_vsock_hdr hdr;
	uint32_t id, len;
	int fd;

	fake_write(&vs->guest, STATUS, 0);
	vs->hold = true;
	vs_start(vs, 0);
	for (uint32_t i = 0; i < 63; i++) {
		const struct fake_buf buf = { vs->rx_gpa[i], i < 45 ? i : 44, i % 2 || i < 30 };

		fake_send(&vs->rx, &buf, 1);
	}
	fake_kick(&vs->rx);
	fd = -1;
	{
		const struct fake_buf buf = { vs->rx_gpa[63], 45, true };
		const struct vs_packet request = { .op = VIRTIO_VSOCK_OP_REQUEST,
						   .host_port = 1,
						   .guest_port = 7 };

		fake_send(&vs->rx, &buf, 1);
		fake_kick(&vs->rx);
		vs_say(vs, &request, NULL, 0);
	}
	for (unsigned i = 0; i < 63; i++) {
		assert_true(fake_take(&vs->rx, &id, &len));
		assert_int_equal(id, i);
		assert_int_equal(len, 0);
	}
	assert_true(fake_take(&vs->rx, &id, &len));
	assert_int_equal(id, 63);
	assert_int_equal(len, sizeof(hdr));
	memcpy(&hdr, fake_at(&vs->guest, vs->rx_gpa[63]), sizeof(hdr));
	assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(fd, -1);
}

static void test_broken_rings(void **state)
{
	struct vs *vs = *state;

	for (int which = 0; which < 2; which++) {
		struct fake_queue *q = which ? &vs->tx : &vs->rx;
		const struct fake_buf nowhere = { UINT64_C(0x7fffffff0000), 4096, !which };
		uint32_t port;
		int fd = vs_connect(vs, 5, &port);
		struct virtio_vsock_hdr hdr;

		vs->hold = true;
		while (vs_next(vs, &hdr, NULL))
			;
		/* All rx buffers in front of the bad one are used up. */
		fake_send(q, &nowhere, 1);
		fake_kick(q);
		for (unsigned i = 0; i < 80; i++) {
			if (send(fd, "x", 1, MSG_NOSIGNAL) < 0)
				break;
			vs_settle(vs);
		}
		/* The client is told at once, not when the guest thinks of a reset. */
		assert_ended(fd);
		assert_true(fake_read(&vs->guest, STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
		fd = vs_client(vs);
		vs_settle(vs);
		vs_assert_eof(fd);
		close(fd);

		fake_write(&vs->guest, STATUS, 0);
		vs->hold = false;
		vs_start(vs, 0);
		assert_sane(vs);
	}
}

/* ---- floods */

/* Unknown packets without end, and no rx buffer for the answers: we stop to take them, and go on
 * when buffers come. Not one answer is lost. */
static void test_reset_flood(void **state)
{
	struct vs *vs = *state;
	unsigned sent = 0, answered = 0;
	struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_RW, .host_port = 9 };
	struct virtio_vsock_hdr hdr;

	vs->hold = true;
	for (;;) {
		packet.guest_port = sent;
		if (!vs_send(vs, &packet, NULL, 0))
			break;
		sent++;
		vs_settle(vs);
		assert_true(sent < 2000);
	}
	assert_true(sent >= 64 + 256);
	while (vs_next(vs, &hdr, NULL))
		assert_int_equal(hdr.dst_port, answered++);
	assert_int_equal(answered, 64);
	vs->hold = false;
	vs_release(vs, 64);
	vs_settle(vs);
	while (answered < sent) {
		assert_true(vs_next(vs, &hdr, NULL));
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RST);
		assert_int_equal(hdr.dst_port, answered++);
		vs_settle(vs);
	}
	vs_expect_none(vs);
	assert_sane(vs);
}

static void test_request_flood(void **state)
{
	struct vs *vs = *state;
	static int fds[768];
	unsigned accepted = 0;
	uint32_t port;
	int fd;

	for (unsigned i = 0; i < 800; i++) {
		struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_REQUEST,
					    .host_port = 1,
					    .guest_port = 5000 + i };
		struct virtio_vsock_hdr hdr;
		int pair[2];

		assert_int_equal(
			socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			0);
		vs->served = pair[1];
		vs_say(vs, &packet, NULL, 0);
		assert_true(vs_next(vs, &hdr, NULL));
		if (hdr.op == VIRTIO_VSOCK_OP_RESPONSE) {
			assert_true(hdr.buf_alloc >= 16384);
			fds[accepted++] = pair[0];
			continue;
		}
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RST);
		assert_int_equal(vs->served, pair[1]);
		close(pair[0]);
		close(pair[1]);
	}
	assert_int_equal(accepted, 768);
	/* The host can still get in. */
	vs->served = -1;
	fd = vs_connect(vs, 5, &port);
	close(fd);
	for (unsigned i = 0; i < accepted; i++)
		close(fds[i]);
	vs_settle(vs);
}

static void test_many_connections(void **state)
{
	struct vs *vs = *state;
	static int fds[1024];
	static uint32_t ports[1024];
	struct virtio_vsock_hdr hdr;
	const char *payload;
	int fd;

	for (unsigned i = 0; i < 1024; i++)
		fds[i] = vs_connect(vs, 100 + i, &ports[i]);
	fd = vs_client(vs);
	vs_settle(vs);
	vs_assert_eof(fd);
	close(fd);

	for (unsigned i = 0; i < 1024; i++) {
		struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_RW,
					    .host_port = ports[i],
					    .guest_port = 100 + i };

		vs_say(vs, &packet, &i, sizeof(i));
		assert_int_equal(send(fds[i], &i, sizeof(i), 0), sizeof(i));
	}
	vs_settle(vs);
	for (unsigned i = 0; i < 1024; i++) {
		unsigned got = 0, at;

		assert_int_equal(recv(fds[i], &got, sizeof(got), MSG_DONTWAIT), sizeof(got));
		assert_int_equal(got, i);
		assert_true(vs_next(vs, &hdr, &payload));
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RW);
		memcpy(&at, payload, sizeof(at));
		assert_int_equal(hdr.src_port, ports[at]);
		vs_settle(vs);
	}
	vs_expect_none(vs);
	for (unsigned i = 0; i < 1024; i++)
		close(fds[i]);
	fd = vs_client(vs);
	vs_settle(vs); /* the guest hears of each end, in its own time */
	while (vs_next(vs, &hdr, NULL))
		vs_settle(vs);
	close(fd);
	vs_settle(vs);
	assert_sane(vs);
}

/* One rx buffer at a time, three that want it: each gets its turn. */
static void test_fairness(void **state)
{
	struct vs *vs = *state;
	static char data[60000];
	uint32_t port[3];
	unsigned turns[3] = { 0 };
	int fd[3];

	for (int i = 0; i < 3; i++)
		fd[i] = vs_connect(vs, 50u + (unsigned)i, &port[i]);
	vs->hold = true;
	while (vs->rx_held < VS_RX) {
		struct virtio_vsock_hdr hdr;

		vs_op(vs, VIRTIO_VSOCK_OP_RW, 9, 9, 0);
		while (vs_next(vs, &hdr, NULL))
			;
	}
	for (int i = 0; i < 3; i++)
		assert_true(send(fd[i], data, sizeof(data), 0) > 0);
	vs_settle(vs);
	for (int i = 0; i < 30; i++) {
		struct virtio_vsock_hdr hdr;

		vs_release(vs, 1);
		vs_settle(vs);
		assert_true(vs_next(vs, &hdr, NULL));
		vs_expect_none(vs);
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RW);
		turns[hdr.dst_port - 50]++;
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(turns[i], 10);
		close(fd[i]);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, open_vs, close_vs)
	const struct CMUnitTest tests[] = {
		TEST(unknown_connection),
		TEST(bad_addresses),
		TEST(other_types),
		TEST(bad_ops_on_connection),
		TEST(ops_before_response),
		TEST(early_response),
		TEST(bad_lengths),
		TEST(short_lengths),
		TEST(credit_overrun),
		TEST(data_after_end),
		TEST(odd_buffers),
		TEST(small_rx_buffers),
		TEST(broken_rings),
		TEST(reset_flood),
		TEST(request_flood),
		TEST(many_connections),
		TEST(fairness),
	};
	struct rlimit files;

	/* Two ends of a thousand connections. */
	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_max < 2200) {
		puts("2200 descriptors are needed, ulimit -n says less");
		return 77;
	}
	files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
