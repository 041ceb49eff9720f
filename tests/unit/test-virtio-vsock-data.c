/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Data through connections of a guest that keeps to the rules: all of it, in order, within credit.
 */
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/vsock.h"

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
	vs_shrink_clients(false);
	vs_fail_accept(false);
	vs_close(*state);
	test_free(*state);
	return 0;
}

/* ---- data */

static uint32_t next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void fill(char *at, size_t bytes, uint32_t *seed)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = (char)next_random(seed);
}

struct flow { /* a stream of pseudo-random bytes, checked where it comes out */
	uint32_t in_seed, out_seed;
	size_t left_in, left_out;
};

static void flow_check(struct flow *flow, const char *at, size_t bytes)
{
	assert_true(bytes <= flow->left_out);
	for (size_t i = 0; i < bytes; i++)
		assert_int_equal(at[i], (char)next_random(&flow->out_seed));
	flow->left_out -= bytes;
}

/* What a guest's socket knows. */
struct guest_end {
	uint32_t host_port, guest_port;
	uint32_t sent, received, forwarded, peer_alloc, peer_forwarded;
};

static void guest_turn(struct vs *vs, struct guest_end *end, struct flow *out, struct flow *in,
		       uint32_t *seed)
{
	static char data[VS_TX_BYTES];
	struct virtio_vsock_hdr hdr;
	const char *payload;

	for (unsigned n = next_random(seed) % 80; n && vs_next(vs, &hdr, &payload); n--) {
		assert_int_not_equal(hdr.op, VIRTIO_VSOCK_OP_RST);
		end->peer_alloc = hdr.buf_alloc;
		end->peer_forwarded = hdr.fwd_cnt;
		if (hdr.op != VIRTIO_VSOCK_OP_RW)
			continue;
		end->received += hdr.len;
		assert_true(end->received - end->forwarded <= VS_ALLOC);
		flow_check(out, payload, hdr.len);
	}
	/* The reader takes some, and only sometimes the host is told. */
	end->forwarded += (end->received - end->forwarded) / (1 + next_random(seed) % 3);
	if (next_random(seed) % 4 == 0)
		end->forwarded = end->received;
	for (unsigned n = next_random(seed) % VS_TX; n; n--) {
		struct vs_packet packet = { .host_port = end->host_port,
					    .guest_port = end->guest_port,
					    .fwd_cnt = end->forwarded,
					    .op = VIRTIO_VSOCK_OP_RW };
		uint32_t credit = end->peer_alloc - (end->sent - end->peer_forwarded);
		uint32_t bytes = next_random(seed) % (VS_TX_BYTES + 1);
		uint32_t before = in->in_seed;

		bytes = bytes < credit ? bytes : credit;
		bytes = bytes < in->left_in ? bytes : (uint32_t)in->left_in;
		if (!bytes)
			packet.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE;
		fill(data, bytes, &in->in_seed);
		if (!vs_send(vs, &packet, data, bytes)) {
			in->in_seed = before;
			break;
		}
		end->sent += bytes;
		in->left_in -= bytes;
	}
}

static void host_turn(int fd, struct flow *out, struct flow *in, uint32_t *seed)
{
	static char data[100000];
	size_t want = next_random(seed) % sizeof(data);
	ssize_t n = recv(fd, data, want, MSG_DONTWAIT);

	if (n > 0)
		flow_check(in, data, (size_t)n);
	want = next_random(seed) % sizeof(data);
	want = want < out->left_in ? want : out->left_in;
	while (want) {
		uint32_t before = out->in_seed;
		size_t piece = want < 1000 ? want : 1000;

		fill(data, piece, &out->in_seed);
		n = send(fd, data, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n != (ssize_t)piece) {
			assert_int_equal(n, -1);
			out->in_seed = before;
			break;
		}
		out->left_in -= piece;
		want -= piece;
	}
}

static void stream(struct vs *vs, uint64_t features, size_t bytes)
{
	struct guest_end end = { .guest_port = 5, .peer_alloc = 256 << 10 };
	struct flow out = { 1, 1, bytes, bytes }, in = { 2, 2, bytes, bytes };
	uint32_t seed = 3, rounds = 0;
	int fd;

	vs_start(vs, features);
	fd = vs_connect(vs, 5, &end.host_port);
	while (out.left_out || in.left_out) {
		guest_turn(vs, &end, &out, &in, &seed);
		if (next_random(&seed) % 2)
			vs_settle(vs);
		host_turn(fd, &out, &in, &seed);
		vs_settle(vs);
		assert_true(++rounds < 100000);
	}
	assert_int_equal(end.sent, bytes);
	assert_int_equal(end.received, bytes);
	close(fd);
}

static void test_stream(void **state)
{
	stream(*state, 0, 4 << 20);
}

static void test_stream_event_idx(void **state)
{
	stream(*state, EVENT_IDX, 4 << 20);
}

/* Most of it waits in our buffer before the host takes it. */
static void test_stream_small_sockets(void **state)
{
	vs_shrink_clients(true);
	stream(*state, EVENT_IDX, 4 << 20);
}

/* The device asks to be notified of rx buffers only when it has run out of them. */
static void test_few_notifications(void **state)
{
	struct vs *vs = *state;
	static char data[60000];
	struct virtio_vsock_hdr hdr;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	unsigned before;

	vs->kicks = 0;
	for (int i = 0; i < 4; i++) {
		assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
		vs_settle(vs);
		before = vs->guest.irqs;
		while (vs_next(vs, &hdr, NULL))
			continue;
		vs_settle(vs);
		assert_int_equal(vs->guest.irqs, before);
	}
	assert_int_equal(vs->kicks, 0);
	close(fd);
}

static void test_guest_credit(void **state)
{
	struct vs *vs = *state;
	struct vs_packet update = { .guest_port = 5,
				    .op = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
				    .buf_alloc = 1000 };
	struct virtio_vsock_hdr hdr;
	static char data[5000];
	int fd;

	fd = vs_connect(vs, 5, &update.host_port);
	vs_say(vs, &update, NULL, 0);
	assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
	vs_settle(vs); /* is quiet though the socket is readable */
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0);
	assert_int_equal(hdr.len, 1000);
	vs_expect_none(vs);
	update.fwd_cnt = 300;
	vs_say(vs, &update, NULL, 0);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0);
	assert_int_equal(hdr.len, 300);
	/* It takes back what it gave. */
	update.buf_alloc = 10;
	vs_say(vs, &update, NULL, 0);
	vs_expect_none(vs);
	/* It claims to have had more than was sent. */
	update.buf_alloc = 1000;
	update.fwd_cnt = 100000;
	vs_say(vs, &update, NULL, 0);
	vs_expect_none(vs);
	/* And more than any socket can hold. */
	update.buf_alloc = UINT32_MAX;
	update.fwd_cnt = 1300;
	vs_say(vs, &update, NULL, 0);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0).len, 3700);
	close(fd);
}

/* Data for a guest that has just taken its credit back. */
static void test_data_without_credit(void **state)
{
	struct vs *vs = *state;
	struct vs_packet update = { .guest_port = 5,
				    .op = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
				    .buf_alloc = 3 };
	int fd = vs_connect(vs, 5, &update.host_port);

	vs_put(fd, "abc");
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0);
	vs_say(vs, &update, NULL, 0);
	vs_put(fd, "d");
	vs_settle(vs); /* is quiet */
	vs_expect_none(vs);
	update.fwd_cnt = 3;
	vs_say(vs, &update, NULL, 0);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0).len, 1);
	close(fd);
}

/* Reads that end where the data do: the buffer taken for more goes back to its place. */
static void test_exact_reads(void **state)
{
	struct vs *vs = *state;
	static char data[VS_RX_BYTES - sizeof(struct virtio_vsock_hdr)];
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);

	for (int i = 0; i < 200; i++) {
		assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
		vs_settle(vs);
		assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_RW, 0, 0).len, sizeof(data));
		vs_expect_none(vs);
		if (i % 10 == 0) {
			const struct vs_packet update = { .host_port = port,
							  .guest_port = 5,
							  .op = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
							  .fwd_cnt = (uint32_t)(i + 1) *
								     sizeof(data) };

			vs_say(vs, &update, NULL, 0);
		}
	}
	close(fd);
}

static void test_credit_request(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;

	vs_op(vs, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, 5, 0);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, 5);
	assert_int_equal(hdr.buf_alloc, 256 << 10);
	assert_int_equal(hdr.fwd_cnt, 0);
	close(fd);
}

/* Send (bytes) of the guest's stream from (sent) on, each byte its position. */
static void guest_sends(struct vs *vs, uint32_t port, uint32_t sent, uint32_t bytes)
{
	const struct vs_packet packet = { .host_port = port,
					  .guest_port = 5,
					  .op = VIRTIO_VSOCK_OP_RW };
	char data[VS_TX_BYTES];

	while (bytes) {
		uint32_t part = bytes < sizeof(data) ? bytes : sizeof(data);

		for (uint32_t i = 0; i < part; i++)
			data[i] = (char)((sent + i) * 31u >> 3);
		vs_say(vs, &packet, data, part);
		sent += part;
		bytes -= part;
	}
}

/* Read (bytes) of it. */
static void host_reads(struct vs *vs, int fd, uint32_t from, uint32_t bytes)
{
	static char data[1 << 20];

	for (uint32_t got = 0; got < bytes;) {
		ssize_t n = recv(fd, data, bytes - got, MSG_DONTWAIT);

		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(data[i], (char)((from + got + (uint32_t)i) * 31u >> 3));
		got += (uint32_t)n;
		vs_settle(vs);
	}
}

/* A host client that does not read: what its socket does not take stays with us, up to the credit
 * that the guest has, and the guest hears of room when there is some. */
static void test_slow_host(void **state)
{
	struct vs *vs = *state;
	uint32_t port, sent = 0;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr = { .buf_alloc = 256 << 10 };

	for (;;) {
		uint32_t credit = hdr.buf_alloc - (sent - hdr.fwd_cnt);

		if (!credit)
			break;
		guest_sends(vs, port, sent, credit < 10000 ? credit : 10000);
		sent += credit < 10000 ? credit : 10000;
		while (vs_next(vs, &hdr, NULL))
			assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		vs_settle(vs);
	}
	assert_true(sent > 256 << 10); /* the socket's own buffer came on top */
	vs_expect_none(vs);
	host_reads(vs, fd, 0, sent);
	assert_true(vs_next(vs, &hdr, NULL));
	while (vs_next(vs, &hdr, NULL))
		;
	/* A quarter may be in the air, untold. */
	assert_true(sent - hdr.fwd_cnt <= 64 << 10);
	guest_sends(vs, port, sent, 5);
	host_reads(vs, fd, sent, 5);
	close(fd);
}

/* Room is told of before the guest has none left, in steps of a quarter; and when there is none,
 * nothing is said. */
static void test_credit_steps(void **state)
{
	struct vs *vs = *state;
	uint32_t port, sent = 0, fwd_cnt = 0;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;

	/* What the host reads at once. */
	for (unsigned told = 0; sent < 1 << 20; sent += 16384) {
		guest_sends(vs, port, sent, 16384);
		host_reads(vs, fd, sent, 16384);
		if (vs_next(vs, &hdr, NULL)) {
			assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
			assert_int_equal(hdr.fwd_cnt, sent + 16384);
			assert_int_equal(hdr.fwd_cnt - fwd_cnt, 192 << 10);
			fwd_cnt = hdr.fwd_cnt;
			told++;
		}
		vs_expect_none(vs);
		assert_int_equal(told, (sent + 16384) / (192 << 10));
	}
	/* What it does not: once its socket is full, the guest can send, and hears nothing. */
	while (sent - fwd_cnt <= (256u << 10) - 16384) {
		guest_sends(vs, port, sent, 16384);
		sent += 16384;
		while (vs_next(vs, &hdr, NULL)) {
			assert_int_not_equal(hdr.fwd_cnt, fwd_cnt);
			fwd_cnt = hdr.fwd_cnt;
		}
		vs_settle(vs);
	}
	close(fd);
}

/* The end of the guest's data is behind all of it, and the other direction goes on. */
static void test_half_close_behind_held_data(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;

	guest_sends(vs, port, 0, 400000);
	while (vs_next(vs, &hdr, NULL))
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, VIRTIO_VSOCK_SHUTDOWN_SEND);
	vs_put(fd, "go on");
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RW, port, 5);
	host_reads(vs, fd, 0, 400000);
	vs_assert_eof(fd);
	vs_put(fd, "answer");
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RW, port, 5);
	close(fd);
}

/* The guest has closed, and a slow client still gets all of it. */
static void drain(struct vs *vs, bool reset)
{
	uint32_t port, sent = 0;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;

	while (sent < 400000) { /* more than a socket holds, less than it and our buffer do */
		guest_sends(vs, port, sent, 10000);
		sent += 10000;
	}
	while (vs_next(vs, &hdr, NULL))
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	if (reset) {
		vs_op(vs, VIRTIO_VSOCK_OP_RST, port, 5, 0);
	} else {
		vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, 3);
		vs_expect(vs, VIRTIO_VSOCK_OP_RST, port, 5);
	}
	/* For the guest it is over. */
	vs_say_text(vs, port, 5, "late");
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, port, 5);
	host_reads(vs, fd, 0, sent);
	vs_assert_eof(fd);
	vs_expect_none(vs);
	close(fd);
}

static void test_drain(void **state)
{
	drain(*state, false);
	drain(*state, true);
}

static void test_drain_client_gone(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;

	guest_sends(vs, port, 0, 400000);
	while (vs_next(vs, &hdr, NULL))
		;
	vs_op(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5, 3);
	close(fd);
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RST, port, 5);
	vs_expect_none(vs);
}

static void test_host_stops_receiving(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr;

	assert_int_equal(shutdown(fd, SHUT_RD), 0);
	vs_say_text(vs, port, 5, "to nobody");
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5).flags,
			 VIRTIO_VSOCK_SHUTDOWN_RCV);
	/* It had more under way: no reset, the bytes count as taken. */
	guest_sends(vs, port, 0, 250000);
	while (vs_next(vs, &hdr, NULL))
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	vs_put(fd, "but here");
	vs_settle(vs);
	vs_expect(vs, VIRTIO_VSOCK_OP_RW, port, 5);
	close(fd);
	vs_settle(vs);
	assert_int_equal(vs_expect(vs, VIRTIO_VSOCK_OP_SHUTDOWN, port, 5).flags, 3);
}

/* What we held for a client that takes nothing any more counts as taken: the guest can go on. */
static void test_host_stops_receiving_held(void **state)
{
	struct vs *vs = *state;
	uint32_t port;
	int fd = vs_connect(vs, 5, &port);
	struct virtio_vsock_hdr hdr, last = { 0 };
	static char data[10000];

	guest_sends(vs, port, 0, 400000);
	while (vs_next(vs, &hdr, NULL))
		assert_int_equal(hdr.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(shutdown(fd, SHUT_RD), 0);
	while (recv(fd, data, sizeof(data), MSG_DONTWAIT) > 0) /* what its socket had */
		vs_settle(vs);
	while (vs_next(vs, &hdr, NULL))
		last = hdr;
	assert_int_equal(last.op, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(last.flags, VIRTIO_VSOCK_SHUTDOWN_RCV);
	assert_int_equal(last.fwd_cnt, 400000);
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, open_vs, close_vs)
	const struct CMUnitTest tests[] = {
		TEST(stream),
		TEST(stream_event_idx),
		TEST(stream_small_sockets),
		TEST(data_without_credit),
		TEST(exact_reads),
		TEST(host_stops_receiving_held),
		TEST(few_notifications),
		TEST(guest_credit),
		TEST(credit_request),
		TEST(slow_host),
		TEST(credit_steps),
		TEST(half_close_behind_held_data),
		TEST(host_stops_receiving),
		TEST(drain),
		TEST(drain_client_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
