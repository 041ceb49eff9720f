/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest and a host that both do anything at all, by chance but the same in each run: whatever
 * they do, the device is quiet afterwards, keeps its memory straight (under sanitizers), and works.
 */
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/vsock.h"

#define HOSTS 6
#define PORTS 8
#define STEPS 6000

struct mess {
	struct vs *vs;
	uint32_t seed;
	int host[HOSTS];       /* -1: none */
	uint32_t port[PORTS];  /* host ports seen lately */
	uint32_t guest[PORTS]; /* and who they talked to */
	char data[VS_TX_BYTES];
};

static uint32_t chance(struct mess *m, uint32_t of)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 17;
	m->seed ^= m->seed << 5;
	return m->seed % of;
}

static void guest_reads(struct mess *m)
{
	struct virtio_vsock_hdr hdr;

	for (uint32_t n = chance(m, 70); n && vs_next(m->vs, &hdr, NULL); n--) {
		uint32_t i = chance(m, PORTS);

		m->port[i] = hdr.src_port;
		m->guest[i] = hdr.dst_port;
	}
}

static void guest_sends(struct mess *m)
{
	static const uint32_t odd[] = { 0, 1, 4096, 65536, 1u << 31, UINT32_MAX };
	const uint32_t i = chance(m, PORTS);
	/* Mostly what fits, so that connections live for a while. */
	struct vs_packet packet = {
		.op = (uint16_t)(chance(m, 4) ? VIRTIO_VSOCK_OP_RW : chance(m, 9)),
		.host_port = m->port[i],
		.guest_port = m->guest[i],
		.flags = chance(m, 4),
		.len = chance(m, 20) ? 0 : odd[chance(m, 6)],
		.buf_alloc = chance(m, 3) ? 0 : odd[chance(m, 6)],
		.fwd_cnt = chance(m, 3) ? 0 : chance(m, 100000),
	};

	if (chance(m, 5) == 0)
		packet.op = VIRTIO_VSOCK_OP_RESPONSE;
	if (chance(m, 15) == 0) {
		packet.op = VIRTIO_VSOCK_OP_REQUEST;
		packet.host_port = chance(m, 3);
		packet.guest_port = chance(m, 20);
	}
	if (chance(m, 50) == 0)
		packet.type = (uint16_t)chance(m, 4);
	(void)vs_send(m->vs, &packet, m->data, chance(m, 3) ? chance(m, VS_TX_BYTES) : 0);
}

static void host_acts(struct mess *m)
{
	int *host = &m->host[chance(m, HOSTS)];
	char line[32];

	if (*host < 0) {
		*host = vs_client(m->vs);
		snprintf(line, sizeof(line), "CONNECT %u\n", chance(m, 20));
		(void)send(*host, line, strlen(line) - (chance(m, 8) == 0), MSG_NOSIGNAL);
		return;
	}
	switch (chance(m, 9)) {
	case 0:
		close(*host);
		*host = -1;
		break;
	case 1:
		(void)shutdown(*host, chance(m, 2) ? SHUT_WR : SHUT_RD);
		break;
	case 2:
	case 3:
	case 4:
		(void)send(*host, m->data, chance(m, VS_TX_BYTES), MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	default:
		(void)recv(*host, m->data, chance(m, VS_TX_BYTES), MSG_DONTWAIT);
	}
}

/* A server of the guest's calls, now and then. */
static void host_serves(struct mess *m)
{
	int *host = &m->host[chance(m, HOSTS)];
	int pair[2];

	if (*host >= 0 || m->vs->served >= 0)
		return;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	vs_shrink(pair[1]);
	*host = pair[0];
	m->vs->served = pair[1];
}

static void rarely(struct mess *m)
{
	switch (chance(m, 40)) {
	case 0:
		fake_write(&m->vs->guest, 0x070, 0); /* status: reset */
		m->vs->hold = false;
		vs_start(m->vs, chance(m, 2) ? UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX : 0);
		break;
	case 1:
		vs_pass(m->vs, 20000);
		break;
	case 2:
	case 3:
		m->vs->hold = true;
		break;
	default:
		m->vs->hold = false;
		vs_release(m->vs, VS_RX);
	}
}

static void step(struct mess *m)
{
	switch (chance(m, 16)) {
	case 0:
	case 1:
	case 2:
	case 3:
		guest_reads(m);
		break;
	case 4:
	case 5:
	case 6:
	case 7:
	case 8:
		guest_sends(m);
		break;
	case 9:
		host_serves(m);
		break;
	case 10:
		rarely(m);
		break;
	default:
		host_acts(m);
	}
	if (chance(m, 3))
		vs_settle(m->vs);
}

static int open_mess(void **state)
{
	struct mess *m = test_calloc(1, sizeof(*m));

	m->vs = test_calloc(1, sizeof(*m->vs));
	m->seed = *(const uint32_t *)*state;
	for (int i = 0; i < HOSTS; i++)
		m->host[i] = -1;
	vs_open(m->vs);
	vs_shrink_clients(true);
	*state = m;
	return 0;
}

static int close_mess(void **state)
{
	struct mess *m = *state;

	for (int i = 0; i < HOSTS; i++) {
		if (m->host[i] >= 0)
			close(m->host[i]);
	}
	if (m->vs->served >= 0)
		close(m->vs->served);
	vs_shrink_clients(false);
	vs_close(m->vs);
	test_free(m->vs);
	test_free(m);
	return 0;
}

static void test_chaos(void **state)
{
	struct mess *m = *state;
	struct vs *vs = m->vs;
	struct virtio_vsock_hdr hdr;
	uint32_t port;
	int fd;

	vs_start(vs, chance(m, 2) ? UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX : 0);
	for (unsigned i = 0; i < STEPS; i++)
		step(m);

	/* A guest that starts anew finds a device that works. */
	fake_write(&vs->guest, 0x070, 0);
	vs->hold = false;
	vs_start(vs, 0);
	while (vs_next(vs, &hdr, NULL))
		vs_settle(vs);
	fd = vs_connect(vs, 5, &port);
	vs_say_text(vs, port, 5, "after all");
	vs_assert_reads(fd, "after all");
	close(fd);
}

int main(void)
{
	static uint32_t seeds[] = { 1, 2, 3, 1972, 2654435761u, 3735928559u, 42, 19 };
#define TEST(i)                                                                                    \
	{                                                                                          \
		.name = "chaos-" #i, .test_func = test_chaos, .setup_func = open_mess,             \
		.teardown_func = close_mess, .initial_state = &seeds[i]                            \
	}
	const struct CMUnitTest tests[] = {
		TEST(0), TEST(1), TEST(2), TEST(3), TEST(4), TEST(5), TEST(6), TEST(7),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
