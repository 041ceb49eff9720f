/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections between a guest that keeps to the rules and a host that may not. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/vsock.h"
#include "vmm/virtio-devices.h"

#define EVENT_IDX (UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX)

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
	vs_fail_accept(false);
	vs_close(*state);
	test_free(*state);
	return 0;
}

/* ---- beginnings */

static void test_config(void **state)
{
	struct vs *vs = *state;

	assert_int_equal(fake_read(&vs->guest, 0x100), VS_CID);
	assert_int_equal(fake_read(&vs->guest, 0x104), 0);
	assert_int_equal(fake_read(&vs->guest, 0x108), 0);
	assert_int_equal(fake_read(&vs->guest, 0x008), 19);
	/* No SEQPACKET, no datagrams. */
	assert_int_equal(fake_offered(&vs->guest) & 0xff, 0);
}

static void test_bad_specs(void **state)
{
	struct vs *vs = *state;
	char path[120];
	struct cs_virtio_vsock_spec spec = { .guest_cid = 2, .listen_fd = -1 };
	struct cs_virtio *dev = NULL;
	struct cs_err err = { 0 };

	assert_int_equal(cs_virtio_vsock_create(&spec, vs->guest.loop, &dev, &err), -EINVAL);
	memset(path, 'a', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	spec.guest_cid = 3;
	spec.path = path;
	assert_int_equal(cs_virtio_vsock_create(&spec, vs->guest.loop, &dev, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "shorter"));
	assert_null(dev);
}

static void test_host_connects(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 52, &port);
	struct virtio_vsock_hdr hdr;
	const char *payload;

	assert_true(port >= 1u << 30);
	/* It has arrived: no limit of time any more. */
	assert_false(vs_timer_armed());
	vs_pass(vs, 3600000);
	vs_put(fd, "hello");
	vs_settle(vs);
	assert_true(vs_next(vs, &hdr, &payload));
	assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_RW);
	assert_int_equal(hdr.src_port, port);
	assert_int_equal(hdr.dst_port, 52);
	assert_int_equal(hdr.src_cid, 2);
	assert_int_equal(hdr.type, VIRTIO_VSOCK_TYPE_STREAM);
	assert_int_equal(hdr.buf_alloc, 256 << 10);
	assert_int_equal(hdr.len, 5);
	assert_memory_equal(payload, "hello", 5);
	vs_say_text(vs, port, 52, "world");
	vs_assert_reads(fd, "world");
	close(fd);
	vs_settle(vs);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 52);
	while (hdr.flags != (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND))
		hdr = vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 52);
	vs_op(vs, VIRTIO_VSOCK_OP_RST, port, 52, 0);
	vs_expect_none(vs);
	assert_false(vs_timer_armed());
}

static void test_guest_refuses(void **state)
{
	struct vs *vs = *state;
	int fd = vs_client(vs);
	struct virtio_vsock_hdr hdr;

	vs_put(fd, "CONNECT 9\n");
	vs_settle(vs);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, 9);
	assert_true(vs_timer_armed());
	vs_op(vs, VIRTIO_VSOCK_OP_RST, hdr.src_port, 9, 0);
	vs_assert_eof(fd);
	vs_expect_none(vs);
	assert_false(vs_timer_armed());
	close(fd);
}

static void test_guest_not_booted(void **state)
{
	struct vs *vs = *state;
	int fd;

	fake_write(&vs->guest, 0x070, 0); /* status: reset */
	fd = vs_client(vs);
	vs_settle(vs);
	vs_assert_eof(fd);
	close(fd);
}

static void test_guest_connects(void **state)
{
	struct vs *vs = *state;
	int fd = vs_call(vs, 1000);
	struct virtio_vsock_hdr hdr;
	const char *payload;

	vs_say_text(vs, 1, 1000, "to host");
	vs_assert_reads(fd, "to host");
	vs_put(fd, "to guest");
	vs_settle(vs);
	assert_true(vs_next(vs, &hdr, &payload));
	assert_memory_equal(payload, "to guest", 8);
	assert_int_equal(hdr.fwd_cnt, 7);

	/* Closed by the guest: an RST is its answer. */
	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, 1, 1000, 3);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 1000);
	vs_expect_none(vs);
	vs_assert_eof(fd);
	close(fd);
	/* The same port again. */
	close(vs_call(vs, 1000));
}

static void test_guest_connects_to_path(void **state)
{
	struct vs *vs = *state;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int fd;

	vs_op(vs, VIRTIO_VSOCK_OP_REQUEST, 77, 1001, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, 77, 1001);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_77", vs->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 0), 0);
	vs_op(vs, VIRTIO_VSOCK_OP_REQUEST, 77, 1001, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RESPONSE, 77, 1001);
	/* Its backlog is full now: no wait, a refusal. */
	vs_op(vs, VIRTIO_VSOCK_OP_REQUEST, 77, 1002, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, 77, 1002);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	vs_say_text(vs, 77, 1001, "x");
	vs_assert_reads(fd, "x");
	close(fd);
	close(listener);
	unlink(addr.sun_path);
}

static void test_port_in_use(void **state)
{
	struct vs *vs = *state;
	int fd = vs_call(vs, 1000);

	vs_op(vs, VIRTIO_VSOCK_OP_REQUEST, 1, 1000, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, 1, 1000);
	vs_assert_eof(fd);
	close(fd);
}

/* ---- CONNECT lines */

static void test_bad_lines(void **state)
{
	static const char *const lines[] = {
		"connect 5\n",          "CONNECT\n",          "CONNECT \n",
		"CONNECT -1\n",         "CONNECT 5 \n",       "\n",
		"CONNECT 4294967295\n", "GET / HTTP/1.1\r\n", "CONNECT 5\r\n",
		"CONNECT 0x5\n",
	};
	struct vs *vs = *state;

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int fd = vs_client(vs);

		vs_put(fd, lines[i]);
		vs_settle(vs);
		vs_assert_eof(fd);
		close(fd);
	}
	for (int zero = 0; zero < 10; zero++) {
		char line[] = "CONNECT 55\n";
		int fd = vs_client(vs);

		line[zero] = '\0';
		assert_int_equal(send(fd, line, sizeof(line) - 1, 0), sizeof(line) - 1);
		vs_settle(vs);
		vs_assert_eof(fd);
		close(fd);
	}
	vs_expect_none(vs);
	assert_false(vs_timer_armed());
}

static void test_long_line(void **state)
{
	struct vs *vs = *state;
	static const char line[] = "CONNECT 00000000000000000000000000000000005\n";
	int fd = vs_client(vs);
	char byte;

	vs_put(fd, line);
	vs_settle(vs);
	/* It is cut off with some of it unread. */
	errno = 0;
	assert_true(recv(fd, &byte, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
	close(fd);
	fd = vs_client(vs);
	for (unsigned i = 0; i < 32; i++) {
		assert_int_equal(send(fd, "C", 1, MSG_NOSIGNAL), 1);
		vs_settle(vs);
	}
	vs_assert_eof(fd);
	close(fd);
	vs_expect_none(vs);
}

static void test_line_in_pieces(void **state)
{
	static const char line[] = "CONNECT 5\nearly data";
	struct vs *vs = *state;
	struct virtio_vsock_hdr hdr;
	const char *payload;
	int fd = vs_client(vs);

	vs_settle(vs);
	for (const char *at = line; at < line + 9; at++) {
		assert_int_equal(send(fd, at, 1, 0), 1);
		vs_settle(vs);
		vs_expect_none(vs);
	}
	vs_put(fd, line + 9);
	vs_settle(vs);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, 5);
	vs_expect_none(vs);
	vs_op(vs, VIRTIO_VSOCK_OP_RESPONSE, hdr.src_port, 5, 0);
	assert_true(vs_next(vs, &hdr, &payload));
	assert_int_equal(hdr.len, 10);
	assert_memory_equal(payload, "early data", 10);
	close(fd);
}

static void test_line_never_ends(void **state)
{
	struct vs *vs = *state;
	int silent = vs_client(vs), partial = vs_client(vs), asked = vs_client(vs);
	struct virtio_vsock_hdr hdr;

	vs_put(partial, "CONNECT 1");
	vs_settle(vs);
	assert_true(vs_timer_armed());
	vs_pass(vs, 20000);
	vs_put(asked, "CONNECT 6\n");
	vs_settle(vs);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, 6);
	vs_assert_nothing(silent);
	vs_assert_nothing(partial);
	vs_pass(vs, 10000);
	vs_assert_eof(silent);
	vs_assert_eof(partial);
	/* Its wait began anew with the request. */
	vs_assert_nothing(asked);
	assert_true(vs_timer_armed());
	vs_pass(vs, 20000);
	vs_assert_eof(asked);
	assert_false(vs_timer_armed());
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, hdr.src_port, 6);
	close(silent);
	close(partial);
	close(asked);
}

static void test_client_gives_up(void **state)
{
	struct vs *vs = *state;
	struct virtio_vsock_hdr hdr;
	int fd = vs_client(vs);

	close(fd);
	vs_settle(vs);
	assert_false(vs_timer_armed());

	fd = vs_client(vs);
	vs_put(fd, "CONNECT 6\n");
	vs_settle(vs);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, 6);
	close(fd);
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, hdr.src_port, 6);
	/* The guest's answer was on its way. */
	vs_op(vs, VIRTIO_VSOCK_OP_RESPONSE, hdr.src_port, 6, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, hdr.src_port, 6);
	vs_expect_none(vs);
}

static void test_no_descriptors(void **state)
{
	struct vs *vs = *state;
	int fd = vs_client(vs);

	vs_fail_accept(true);
	vs_put(fd, "CONNECT 6\n");
	vs_settle(vs); /* and it is quiet */
	assert_true(vs_timer_armed());
	vs_pass(vs, 1000);
	assert_true(vs_timer_armed());
	vs_fail_accept(false);
	vs_pass(vs, 1000);
	vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, 6);
	close(fd);
}

/* ---- ends */

static void test_host_half_close(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);

	vs_put(fd, "last");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RW, port, 5);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5).flags,
			 VIRTIO_VSOCK_SHUTDOWN_SEND);
	/* The other direction lives. */
	vs_say_text(vs, port, 5, "answer");
	vs_assert_reads(fd, "answer");
	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, 3);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, port, 5);
	vs_assert_eof(fd);
	vs_expect_none(vs);
	close(fd);
}

static void test_guest_half_close(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;
	const char *payload;

	vs_say_text(vs, port, 5, "last");
	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, VIRTIO_VSOCK_SHUTDOWN_SEND);
	vs_assert_reads(fd, "last");
	vs_assert_eof(fd);
	vs_put(fd, "answer");
	vs_settle(vs);
	assert_true(vs_next(vs, &hdr, &payload));
	assert_memory_equal(payload, "answer", 6);
	/* Both have said all they had to say. */
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	vs_settle(vs);
	do
		hdr = vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5);
	while (hdr.flags != 3);
	close(fd);
	vs_settle(vs);
	vs_expect_none(vs);
}

static void test_guest_stops_receiving(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);

	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, VIRTIO_VSOCK_SHUTDOWN_RCV);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	vs_say_text(vs, port, 5, "still");
	vs_assert_reads(fd, "still");
	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, VIRTIO_VSOCK_SHUTDOWN_SEND);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, port, 5);
	vs_assert_eof(fd);
	close(fd);
}

/* The client has gone while the guest has no room: what it left is delivered, and nothing spins
 * meanwhile. */
static void test_host_gone_guest_slow(void **state)
{
	struct vs *vs = *state;
	struct vs_packet update = { .guest_port = 5,
				    .op = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
				    .buf_alloc = 4 };
	int fd = vs_connect(vs, 5, &update.host_port);

	vs_say(vs, &update, NULL, 0);
	vs_put(fd, "testament");
	close(fd);
	vs_settle(vs);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0).len, 4);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, 0, 0).flags,
			 VIRTIO_VSOCK_SHUTDOWN_RCV);
	vs_expect_none(vs);
	update.buf_alloc = 100;
	vs_say(vs, &update, NULL, 0);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0).len, 5);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, 0, 0).flags, 3);
	vs_expect_none(vs);
}

static void test_reset_mid_stream(void **state)
{
	struct vs *vs = *state;
	static char data[100000];
	uint32_t port;
	int fd = vs_connect(vs, 5, &port), waiting = vs_client(vs), call = vs_call(vs, 2000);

	vs_put(waiting, "CONNECT 3");
	assert_true(send(fd, data, sizeof(data), 0) > 0);
	vs_settle(vs);
	fake_write(&vs->guest, 0x070, 0);
	vs_settle(vs);
	vs_assert_eof(call);
	vs_assert_eof(waiting);
	assert_true(recv(fd, data, 1, MSG_DONTWAIT) <= 0);
	assert_false(vs_timer_armed());
	close(fd);
	close(waiting);
	close(call);

	vs_start(vs, EVENT_IDX);
	fd = vs_connect(vs, 5, &port);
	vs_say_text(vs, port, 5, "again");
	vs_assert_reads(fd, "again");
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, open_vs, close_vs)
	const struct CMUnitTest tests[] = {
		TEST(config),
		TEST(bad_specs),
		TEST(host_connects),
		TEST(guest_refuses),
		TEST(guest_not_booted),
		TEST(guest_connects),
		TEST(guest_connects_to_path),
		TEST(port_in_use),
		TEST(bad_lines),
		TEST(long_line),
		TEST(line_in_pieces),
		TEST(line_never_ends),
		TEST(client_gives_up),
		TEST(no_descriptors),
		TEST(host_half_close),
		TEST(guest_half_close),
		TEST(guest_stops_receiving),
		TEST(host_gone_guest_slow),
		TEST(reset_mid_stream),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
