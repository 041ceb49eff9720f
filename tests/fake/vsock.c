/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/settle.h"
#include "vmm/virtio-devices.h"

/* The fakes below stand for libc and the loop, which know no object of the test's. */
static struct {
	uint64_t passed_ms;
	uint64_t due_ms; /* of the device's timer; 0: disarmed */
	cs_loop_fn fn;
	void *arg;
	bool no_accept, small;
} world;

int __real_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
	ret->tv_sec = (time_t)(1000 + world.passed_ms / 1000);
	ret->tv_nsec = (long)(world.passed_ms % 1000) * 1000000;
	return 0;
}

int __real_accept4(int fd, struct sockaddr *addr, socklen_t *bytes, int flags);
int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *bytes, int flags);
int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *bytes, int flags)
{
	int end;

	if (world.no_accept) {
		errno = EMFILE;
		return -1;
	}
	end = __real_accept4(fd, addr, bytes, flags);
	if (end >= 0 && world.small)
		vs_shrink(end);
	return end;
}

int __wrap_cs_timer_create(struct cs_loop *loop, cs_loop_fn fn, void *arg, struct cs_timer **ret);
int __wrap_cs_timer_create(struct cs_loop *loop, cs_loop_fn fn, void *arg, struct cs_timer **ret)
{
	world.fn = fn;
	world.arg = arg;
	world.due_ms = 0;
	*ret = (struct cs_timer *)&world;
	return 0;
}

void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms);
void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms)
{
	assert_ptr_equal(timer, &world);
	world.due_ms = ms ? world.passed_ms + ms : 0;
}

struct cs_timer *__wrap_cs_timer_free(struct cs_timer *timer);
struct cs_timer *__wrap_cs_timer_free(struct cs_timer *timer)
{
	world.fn = NULL;
	return NULL;
}

void vs_pass(struct vs *vs, uint64_t ms)
{
	world.passed_ms += ms;
	if (world.fn && world.due_ms && world.due_ms <= world.passed_ms) {
		world.due_ms = 0;
		world.fn(world.arg, EPOLLIN);
	}
	vs_settle(vs);
}

bool vs_timer_armed(void)
{
	return world.due_ms;
}

void vs_fail_accept(bool fail)
{
	world.no_accept = fail;
}

void vs_shrink(int fd)
{
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){ 1 }, sizeof(int)), 0);
}

void vs_shrink_clients(bool shrink)
{
	world.small = shrink;
}

/* ---- the device and its guest */

static int serve(void *arg, uint32_t port)
{
	struct vs *vs = arg;
	int fd = vs->served;

	vs->served = -1;
	return port == 1 ? fd : -1;
}

static int resume(void *arg, uint32_t port)
{
	struct vs *vs = arg;
	int fd = vs->resumed;

	vs->resumed = -1;
	return port == 1 ? fd : -1;
}

static int listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 128), 0);
	return fd;
}

void vs_open(struct vs *vs)
{
	struct cs_virtio_vsock_spec spec = { .guest_cid = VS_CID,
					     .serve = serve,
					     .resume = resume,
					     .serve_arg = vs,
					     .path = vs->path };
	struct cs_virtio *dev;
	struct cs_err err = { 0 };

	*vs = (struct vs){ .folder = "/tmp/cs-vsock-XXXXXX", .served = -1, .resumed = -1 };
	assert_non_null(mkdtemp(vs->folder));
	snprintf(vs->path, sizeof(vs->path), "%s/vsock.sock", vs->folder);
	vs->listen_fd = listen_at(vs->path);
	spec.listen_fd = vs->listen_fd;
	fake_open(&vs->guest);
	world.passed_ms = 0;
	assert_int_equal(cs_virtio_vsock_create(&spec, vs->guest.loop, &dev, &err), 0);
	fake_plug(&vs->guest, dev);
}

void vs_close(struct vs *vs)
{
	fake_close(&vs->guest);
	close(vs->listen_fd);
	unlink(vs->path);
	assert_int_equal(rmdir(vs->folder), 0);
}

/* ---- rings */

/* As a driver that keeps to 2.7.10 does. */
static void kick(struct vs *vs, struct fake_queue *q)
{
	const struct vring_used *used = fake_at(&vs->guest, q->device);
	const uint16_t *avail_event = (const uint16_t *)&used->ring[q->size];

	if (vs->guest.dev->features >> VIRTIO_RING_F_EVENT_IDX & 1) {
		if ((uint16_t)(q->avail - 1) != *avail_event)
			return;
	} else if (used->flags & VRING_USED_F_NO_NOTIFY) {
		return;
	}
	vs->kicks++;
	fake_kick(q);
}

static void give_rx(struct vs *vs, unsigned i)
{
	const struct fake_buf buf = { vs->rx_gpa[i], VS_RX_BYTES, true };

	fake_send(&vs->rx, &buf, 1);
	kick(vs, &vs->rx);
}

void vs_start(struct vs *vs, uint64_t features)
{
	const struct fake_buf event = { .len = 4, .write = true };

	vs->guest.next_gpa = 0x1000;
	vs->rx_next = vs->rx_held = vs->tx_used = vs->tx_next = 0;
	fake_features(&vs->guest, features);
	fake_queue(&vs->guest, 0, 64, &vs->rx);
	fake_queue(&vs->guest, 1, 64, &vs->tx);
	fake_queue(&vs->guest, 2, 8, &vs->event);
	for (unsigned i = 0; i < VS_RX; i++)
		vs->rx_gpa[i] = fake_alloc(&vs->guest, VS_RX_BYTES);
	for (unsigned i = 0; i < VS_TX; i++)
		vs->tx_gpa[i] = fake_alloc(&vs->guest, 64 + VS_TX_BYTES);
	fake_driver_ok(&vs->guest);
	for (unsigned i = 0; i < VS_RX && !vs->hold; i++)
		give_rx(vs, i);
	fake_send(&vs->event, &event, 1);
	kick(vs, &vs->event);
	vs_settle(vs);
}

void vs_settle(struct vs *vs)
{
	settle(vs->guest.loop);
}

bool vs_next(struct vs *vs, struct virtio_vsock_hdr *hdr, const char **ret_payload)
{
	const unsigned i = vs->rx_next;
	const char *at;
	uint32_t id, len;

	if (!fake_take(&vs->rx, &id, &len))
		return false;
	assert_int_equal(id, (vs->rx.used - 1) % VS_RX);
	at = fake_at(&vs->guest, vs->rx_gpa[i]);
	memcpy(hdr, at, sizeof(*hdr));
	assert_int_equal(len, sizeof(*hdr) + hdr->len);
	assert_int_equal(hdr->dst_cid, VS_CID);
	if (ret_payload)
		*ret_payload = at + sizeof(*hdr);
	vs->rx_next = (i + 1) % VS_RX;
	if (vs->hold)
		vs->rx_held++;
	else
		give_rx(vs, i);
	return true;
}

void vs_release(struct vs *vs, unsigned n)
{
	for (; n && vs->rx_held; n--, vs->rx_held--)
		give_rx(vs, (vs->rx_next + VS_RX - vs->rx_held) % VS_RX);
}

struct virtio_vsock_hdr vs_expect(struct vs *vs, uint16_t op, uint32_t host_port,
				  uint32_t guest_port)
{
	struct virtio_vsock_hdr hdr = { 0 };

	assert_true(vs_next(vs, &hdr, NULL));
	assert_int_equal(hdr.op, op);
	if (host_port)
		assert_int_equal(hdr.src_port, host_port);
	if (guest_port)
		assert_int_equal(hdr.dst_port, guest_port);
	vs_settle(vs);
	return hdr;
}

void vs_expect_none(struct vs *vs)
{
	struct virtio_vsock_hdr hdr;

	assert_false(vs_next(vs, &hdr, NULL));
}

bool vs_send(struct vs *vs, const struct vs_packet *packet, const void *data, uint32_t bytes)
{
	const uint64_t gpa = vs->tx_gpa[vs->tx_next];
	const struct virtio_vsock_hdr hdr = {
		.src_cid = packet->src_cid ?: VS_CID,
		.dst_cid = packet->dst_cid ?: 2,
		.src_port = packet->guest_port,
		.dst_port = packet->host_port,
		.len = packet->len ?: bytes,
		.type = packet->type ?: VIRTIO_VSOCK_TYPE_STREAM,
		.op = packet->op,
		.flags = packet->flags,
		.buf_alloc = packet->buf_alloc ?: VS_ALLOC,
		.fwd_cnt = packet->fwd_cnt,
	};
	const struct fake_buf buf[2] = { { gpa, sizeof(hdr), false }, { gpa + 64, bytes, false } };
	uint32_t id, len;

	while (fake_take(&vs->tx, &id, &len)) {
		assert_int_equal(len, 0);
		vs->tx_used--;
	}
	if (vs->tx_used == VS_TX)
		return false;
	vs->tx_used++;
	vs->tx_next = (vs->tx_next + 1) % VS_TX;
	memcpy(fake_at(&vs->guest, gpa), &hdr, sizeof(hdr));
	if (bytes)
		memcpy(fake_at(&vs->guest, gpa + 64), data, bytes);
	fake_send(&vs->tx, buf, bytes ? 2 : 1);
	kick(vs, &vs->tx);
	return true;
}

void vs_say(struct vs *vs, const struct vs_packet *packet, const void *data, uint32_t bytes)
{
	assert_true(vs_send(vs, packet, data, bytes));
	vs_settle(vs);
}

void vs_op(struct vs *vs, uint16_t op, uint32_t host_port, uint32_t guest_port, uint32_t flags)
{
	const struct vs_packet packet = {
		.op = op, .host_port = host_port, .guest_port = guest_port, .flags = flags
	};

	vs_say(vs, &packet, NULL, 0);
}

void vs_say_text(struct vs *vs, uint32_t host_port, uint32_t guest_port, const char *text)
{
	const struct vs_packet packet = { .op = VIRTIO_VSOCK_OP_RW,
					  .host_port = host_port,
					  .guest_port = guest_port };

	vs_say(vs, &packet, text, (uint32_t)strlen(text));
}

/* ---- the host */

int vs_client(struct vs *vs)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", vs->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

int vs_connect(struct vs *vs, uint32_t guest_port, uint32_t *ret_host_port)
{
	int fd = vs_client(vs);
	struct virtio_vsock_hdr hdr;
	struct vs_packet response = { .guest_port = guest_port, .op = VIRTIO_VSOCK_OP_RESPONSE };
	char line[32];

	snprintf(line, sizeof(line), "CONNECT %u\n", guest_port);
	assert_int_equal(send(fd, line, strlen(line), 0), strlen(line));
	vs_settle(vs);
	hdr = vs_expect(vs, VIRTIO_VSOCK_OP_REQUEST, 0, guest_port);
	response.host_port = hdr.src_port;
	vs_say(vs, &response, NULL, 0);
	snprintf(line, sizeof(line), "OK %u\n", hdr.src_port);
	vs_assert_reads(fd, line);
	*ret_host_port = hdr.src_port;
	return fd;
}

int vs_call(struct vs *vs, uint32_t guest_port)
{
	const struct vs_packet request = { .host_port = 1,
					   .guest_port = guest_port,
					   .op = VIRTIO_VSOCK_OP_REQUEST };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	vs->served = pair[1];
	vs_say(vs, &request, NULL, 0);
	vs_expect(vs, VIRTIO_VSOCK_OP_RESPONSE, 1, guest_port);
	return pair[0];
}

void vs_put(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

void vs_assert_eof(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

void vs_assert_nothing(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

void vs_assert_reads(int fd, const char *text)
{
	char buf[256] = "";

	assert_int_equal(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT), strlen(text));
	assert_string_equal(buf, text);
}
