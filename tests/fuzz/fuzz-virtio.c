/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each device behind the real transport and loop, against a guest that writes registers and memory
 * as it likes. The input says which device; it can have it booted properly, so that what follows
 * meets a running one. What must hold: no crash, no endless loop, and a reset that always mends. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fake/driver.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/virtio-devices.h"

#define OPS        120
#define RAM        (2 * FAKE_SEG_BYTES)
#define RING_BYTES 0x4000u /* of each queue, from gpa 0 on: table, then available, then used */
#define DRIVER_OFF 0x2000u
#define DEVICE_OFF 0x3000u
#define SIZE       16u
#define DISK_BYTES 65536u
#define DATA_GPA   0x20000u
#define TURNS      6 /* of the loop, at a time */

enum kind { CONSOLE, PMEM, RNG, DISK, READ_ONLY_DISK, VSOCK, BALLOON, KINDS };

struct world {
	struct fake_guest guest;
	struct fuzz_input in;
	enum kind kind;
	int fd;     /* log or disk */
	int client; /* the other end of what was attached or served; -1: none */
	uint16_t avail[CS_VIRTIO_QUEUES];
};

/* ---- devices */

/* Our end is kept, the other is returned. */
static int new_client(struct world *w)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -1;
	if (w->client >= 0)
		close(w->client);
	w->client = pair[0];
	return pair[1];
}

static int serve_port(void *arg, uint32_t port)
{
	return port & 1 ? new_client(arg) : -1;
}

static int make_disk(struct world *w, bool read_only, struct cs_virtio **ret)
{
	const struct cs_disk disk = {
		.fd = w->fd, .under_fd = -1, .bytes = DISK_BYTES, .read_only = read_only
	};

	fuzz_require(ftruncate(w->fd, DISK_BYTES) == 0);
	return cs_virtio_blk_create(&disk, w->guest.loop, ret, NULL);
}

static struct cs_virtio *make_device(struct world *w)
{
	const struct cs_virtio_console_spec console = { .log_fd = w->fd, .log_max = 16384 };
	const struct cs_virtio_vsock_spec vsock = {
		.guest_cid = 3, .listen_fd = -1, .serve = serve_port, .serve_arg = w
	};
	struct cs_virtio *dev = NULL;
	int r = -EINVAL;

	switch (w->kind) {
	case CONSOLE:
		r = cs_virtio_console_create(&console, &dev, NULL);
		break;
	case PMEM:
		r = cs_virtio_pmem_create(FAKE_SHARED_GPA, UINT64_C(2) << 20, &dev, NULL);
		break;
	case RNG:
		r = cs_virtio_rng_create(&dev, NULL);
		break;
	case DISK:
	case READ_ONLY_DISK:
		r = make_disk(w, w->kind == READ_ONLY_DISK, &dev);
		break;
	case VSOCK:
		r = cs_virtio_vsock_create(&vsock, w->guest.loop, &dev, NULL);
		break;
	case BALLOON:
		r = cs_virtio_balloon_create(&dev, NULL);
		break;
	case KINDS:
		break;
	}
	fuzz_require(r == 0);
	return dev;
}

/* ---- what a guest does */

static uint64_t ring(unsigned queue)
{
	return (uint64_t)queue * RING_BYTES;
}

/* The sequence of a good driver; after whatever came before it must lead to a running device. */
static void boot(struct world *w)
{
	const uint64_t features = fuzz_byte(&w->in) & 1 ? UINT64_MAX : 0;
	const unsigned queues = cs_virtio_mmio_queues(w->guest.mmio);

	fake_features(&w->guest, features);
	for (unsigned i = 0; i < queues; i++) {
		const uint64_t at = ring(i);

		memset(fake_at(&w->guest, at), 0, RING_BYTES);
		w->avail[i] = 0;
		fake_write(&w->guest, VIRTIO_MMIO_QUEUE_SEL, i);
		fake_write(&w->guest, VIRTIO_MMIO_QUEUE_NUM, w->kind == RNG ? 8 : SIZE);
		fake_write(&w->guest, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)at);
		fake_write(&w->guest, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)at + DRIVER_OFF);
		fake_write(&w->guest, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)at + DEVICE_OFF);
		fake_write(&w->guest, VIRTIO_MMIO_QUEUE_READY, 1);
		fuzz_require(fake_read(&w->guest, VIRTIO_MMIO_QUEUE_READY) == 1);
	}
	fake_write(&w->guest, VIRTIO_MMIO_STATUS,
		   fake_read(&w->guest, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	fuzz_require(w->guest.dev->running);
}

static uint64_t address(struct fuzz_input *in)
{
	static const uint64_t border[] = { 0,          FAKE_SEG_BYTES,
					   RAM,        FAKE_SHARED_GPA,
					   0,          FAKE_SHARED_GPA + FAKE_SEG_BYTES,
					   UINT64_MAX, UINT64_C(1) << 63 };
	const uint8_t kind = fuzz_byte(in);

	if (kind >= 64) /* where the heads of requests are */
		return DATA_GPA + fuzz_byte(in) % 16 * 512u;
	if (kind >= 16)
		return DATA_GPA + fuzz_u16(in);
	return border[kind % 8] + (uint64_t)(int64_t)(int8_t)fuzz_byte(in);
}

static uint32_t length(struct fuzz_input *in)
{
	static const uint32_t special[] = { 0, 1, 16, 44, 512, 1024, 4096, UINT32_MAX };
	const uint8_t kind = fuzz_byte(in);

	return kind >= 0xe0 ? fuzz_u32(in) : special[kind % 8];
}

static struct vring_desc *entry(struct world *w, unsigned queue, unsigned i)
{
	const uint16_t size = w->guest.dev->queue[queue].size ?: SIZE;

	return (struct vring_desc *)fake_at(&w->guest, ring(queue)) + i % size;
}

static void publish(struct world *w, unsigned queue, uint16_t head)
{
	struct vring_avail *avail = fake_at(&w->guest, ring(queue) + DRIVER_OFF);
	const uint16_t size = w->guest.dev->queue[queue].size ?: SIZE;

	avail->ring[w->avail[queue] % size] = head % size;
	avail->idx = w->avail[queue] = (uint16_t)(w->avail[queue] + 1);
	fake_write(&w->guest, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

/* A chain of up to four pieces, perhaps spoilt. */
static void request(struct world *w)
{
	const unsigned queue = fuzz_byte(&w->in) % cs_virtio_mmio_queues(w->guest.mmio);
	const uint8_t shape = fuzz_byte(&w->in), head = fuzz_byte(&w->in) % 8;
	const unsigned pieces = 1 + shape % 4;

	for (unsigned i = 0; i < pieces; i++) {
		struct vring_desc *desc = entry(w, queue, head + i);

		*desc = (struct vring_desc){ .addr = address(&w->in),
					     .len = length(&w->in),
					     .next = (uint16_t)((head + i + 1) % 8) };
		if (i + 1 < pieces)
			desc->flags |= VRING_DESC_F_NEXT;
		if (i >= (shape >> 2) % 4u)
			desc->flags |= VRING_DESC_F_WRITE;
	}
	if (shape >= 0xf0) /* a cycle, a table, or both */
		entry(w, queue, head)->flags ^= fuzz_byte(&w->in) % 8;
	publish(w, queue, head);
}

/* What a driver of the device would send, more or less: to get behind the first checks. */
static void disk_request(struct world *w)
{
	static const uint8_t type[] = { 0, 1, 0, 1, 4, 8, 11, 13 };
	const uint64_t at = DATA_GPA + fuzz_byte(&w->in) % 16 * 512u;
	const struct virtio_blk_outhdr out = { .type = type[fuzz_byte(&w->in) % 8],
					       .sector = fuzz_byte(&w->in) % 140 };
	const struct virtio_blk_discard_write_zeroes range = { .sector = fuzz_byte(&w->in) % 140,
							       .num_sectors = fuzz_byte(&w->in),
							       .flags = fuzz_byte(&w->in) % 3 };
	const bool in = out.type == VIRTIO_BLK_T_IN || out.type == VIRTIO_BLK_T_GET_ID;
	const uint32_t bytes = out.type > 8 ? sizeof(range) : fuzz_byte(&w->in) % 64 * 512u;

	memcpy(fake_at(&w->guest, at), &out, sizeof(out));
	memcpy(fake_at(&w->guest, at + 16), &range, sizeof(range));
	*entry(w, 0, 0) =
		(struct vring_desc){ .addr = at, .len = 16, .flags = VRING_DESC_F_NEXT, .next = 1 };
	*entry(w, 0, 1) =
		(struct vring_desc){ .addr = at + 16,
				     .len = bytes,
				     .flags = VRING_DESC_F_NEXT | (in ? VRING_DESC_F_WRITE : 0),
				     .next = 2 };
	*entry(w, 0, 2) = (struct vring_desc){ .addr = address(&w->in),
					       .len = 1,
					       .flags = VRING_DESC_F_WRITE };
	publish(w, 0, 0);
}

static void vsock_request(struct world *w)
{
	unsigned char *at = fake_at(&w->guest, DATA_GPA);
	const uint64_t cid[] = { 3, 2 };
	const uint32_t port[] = { fuzz_byte(&w->in) % 2u, fuzz_byte(&w->in) % 4u };
	const uint32_t bytes = fuzz_byte(&w->in) & 1 ? length(&w->in) % 4096 : 0;
	const uint16_t kind[] = { fuzz_byte(&w->in) < 0xf8, fuzz_byte(&w->in) % 9u };
	const uint32_t rest[] = { fuzz_byte(&w->in) % 4u, length(&w->in), fuzz_byte(&w->in) };

	memcpy(at, cid, 16);
	memcpy(at + 16, port, 8);
	memcpy(at + 24, &bytes, 4);
	memcpy(at + 28, kind, 4);
	memcpy(at + 32, rest, 12);
	*entry(w, 1, 0) = (struct vring_desc){ .addr = DATA_GPA, .len = 44 + bytes };
	publish(w, 1, 0);
	*entry(w, 0, 0) = (struct vring_desc){ .addr = DATA_GPA + 0x8000,
					       .len = 4096,
					       .flags = VRING_DESC_F_WRITE };
	publish(w, 0, 0); /* room for the answer */
}

/* Output, or room for input. */
static void console_request(struct world *w)
{
	const unsigned queue = fuzz_byte(&w->in) % 4 != 0;

	*entry(w, queue, 0) = (struct vring_desc){ .addr = DATA_GPA,
						   .len = fuzz_u32(&w->in) % 0x20000,
						   .flags = queue ? 0 : VRING_DESC_F_WRITE };
	publish(w, queue, 0);
}

/* Page numbers in and around RAM, or a stretch of it. */
static void balloon_request(struct world *w)
{
	const unsigned queue = fuzz_byte(&w->in) % 3;
	uint32_t *page = fake_at(&w->guest, DATA_GPA);
	const uint32_t n = fuzz_byte(&w->in) % 64;

	for (uint32_t i = 0; i < n; i++)
		page[i] = 64 + fuzz_byte(&w->in) % 96; /* behind the rings and the data */
	*entry(w, queue, 0) = (struct vring_desc){ .addr = DATA_GPA, .len = n * 4 };
	if (queue == 2)
		*entry(w, queue, 0) = (struct vring_desc){ .addr = FAKE_SEG_BYTES + n * 512,
							   .len = length(&w->in),
							   .flags = VRING_DESC_F_WRITE };
	publish(w, queue, 0);
}

static void good_request(struct world *w)
{
	switch (w->kind) {
	case CONSOLE:
		console_request(w);
		break;
	case DISK:
	case READ_ONLY_DISK:
		disk_request(w);
		break;
	case VSOCK:
		vsock_request(w);
		break;
	case BALLOON:
		balloon_request(w);
		break;
	default:
		request(w);
	}
}

static void write_register(struct world *w)
{
	const uint64_t at = fuzz_byte(&w->in) % 0x40 * 4;
	const uint8_t small = fuzz_byte(&w->in);

	fake_write(&w->guest, at, small < 0xc0 ? small % 20 : fuzz_u32(&w->in));
}

static void access_anything(struct world *w)
{
	const uint8_t how = fuzz_byte(&w->in);
	uint64_t value = fuzz_u32(&w->in) * UINT64_C(0x100000001);

	cs_virtio_mmio_access(w->guest.mmio, fuzz_u16(&w->in) % 0x1000, &value, 1u << how % 4,
			      how & 4);
}

/* Bytes anywhere in RAM, or the head of something where requests have their data. */
static void write_memory(struct world *w)
{
	unsigned char *at = cs_mem_at(&w->guest.mem, fuzz_u32(&w->in) % RAM, 64, true);
	const uint8_t kind = fuzz_byte(&w->in);

	if (!at || (kind & 1)) /* also where it would leave a segment */
		at = fake_at(&w->guest, DATA_GPA + kind % 16 * 512u);
	if (kind & 2) {
		const struct virtio_blk_outhdr head = { .type = kind >> 4,
							.sector = fuzz_byte(&w->in) };

		memcpy(at, &head, sizeof(head));
		return;
	}
	for (unsigned i = 0; i < kind % 48u; i++)
		at[i] = fuzz_byte(&w->in);
}

static void host_side(struct world *w)
{
	unsigned char bytes[4096] = { 0 };
	const uint8_t how = fuzz_byte(&w->in);
	ssize_t n = 0;

	if (w->kind == BALLOON) {
		cs_virtio_balloon_set(w->guest.dev, fuzz_u32(&w->in));
	} else if (w->kind == CONSOLE && how % 8 == 0) {
		int fd = new_client(w);

		if (fd >= 0 && cs_virtio_console_attach(w->guest.dev, fd) < 0)
			close(fd);
	} else if (w->client >= 0 && how % 8 == 1) {
		close(w->client);
		w->client = -1;
	} else if (w->client >= 0 && how & 1) {
		n = send(w->client, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
	} else if (w->client >= 0) {
		n = recv(w->client, bytes, sizeof(bytes), MSG_DONTWAIT);
	}
	(void)n;
}

const uint64_t fuzz_inputs = 1000;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static void (*const op[])(struct world *
				  w) = { request,         request,      request,   write_register,
					 access_anything, write_memory, host_side, good_request };
	struct world w = { .in = { data, bytes }, .client = -1 };

	w.kind = fuzz_byte(&w.in) % KINDS;
	w.fd = memfd_create("fuzz", MFD_CLOEXEC);
	fuzz_require(w.fd >= 0);
	fake_open(&w.guest);
	w.guest.settle = TURNS;
	fake_plug(&w.guest, make_device(&w));
	for (unsigned i = 0; i < OPS && w.in.left; i++) {
		const uint8_t what = fuzz_byte(&w.in);

		if (what < 0x20)
			boot(&w);
		else if (what < 0x60)
			fake_settle(&w.guest);
		else
			op[what % 8](&w);
	}
	boot(&w);
	fake_settle(&w.guest);
	fake_close(&w.guest);
	close(w.fd);
	if (w.client >= 0)
		close(w.client);
	return 0;
}
