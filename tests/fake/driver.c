/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/driver.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define TURNS 64

/* ---- memory */

/* A mapping with a page on each side that nobody may touch. */
static void *map_guarded(void **ret_map, uint64_t bytes)
{
	char *map = mmap(NULL, bytes + 2 * CS_PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	assert_true(map != MAP_FAILED);
	assert_int_equal(mprotect(map + CS_PAGE_BYTES, bytes, PROT_READ | PROT_WRITE), 0);
	*ret_map = map;
	return map + CS_PAGE_BYTES;
}

static void on_irq(void *arg, uint32_t events)
{
	struct fake_guest *guest = arg;
	uint64_t count;

	if (read(guest->irq_fd, &count, sizeof(count)) < 0)
		return;
	guest->irqs++;
	if (guest->waiting)
		cs_loop_stop(guest->loop);
}

static void on_turn(void *arg, uint32_t events)
{
	struct fake_guest *guest = arg;
	uint64_t one = 1;

	assert_int_equal(read(guest->turn_fd, &one, sizeof(one)), sizeof(one));
	if (guest->turns-- == 0) {
		cs_loop_stop(guest->loop);
		return;
	}
	one = 1;
	assert_int_equal(write(guest->turn_fd, &one, sizeof(one)), sizeof(one));
}

void fake_open(struct fake_guest *guest)
{
	static const uint64_t gpa[] = { 0, FAKE_SEG_BYTES, FAKE_SHARED_GPA };
	struct cs_err err = { 0 };

	*guest = (struct fake_guest){ .lock = PTHREAD_MUTEX_INITIALIZER,
				      .next_gpa = 0x1000,
				      .settle = TURNS };
	guest->mem.ram.n = 3;
	for (unsigned i = 0; i < 3; i++) {
		void *host = map_guarded(&guest->map[i], FAKE_SEG_BYTES);

		guest->mem.ram.seg[i] = (struct cs_seg){ .gpa = gpa[i],
							 .bytes = FAKE_SEG_BYTES,
							 .host = host,
							 .backing = CS_BACKING_ANON };
	}
	guest->mem.ram.seg[2].backing = CS_BACKING_SHARED;
	memset(guest->mem.ram.seg[2].host, FAKE_SHARED_BYTE, FAKE_SEG_BYTES);
	assert_int_equal(mprotect(guest->mem.ram.seg[2].host, FAKE_SEG_BYTES, PROT_READ), 0);

	assert_int_equal(cs_loop_create(&guest->lock, &guest->loop, &err), 0);
	guest->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	guest->turn_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(guest->irq_fd >= 0 && guest->turn_fd >= 0);
	assert_int_equal(
		cs_loop_add(guest->loop, guest->irq_fd, EPOLLIN, on_irq, guest, &guest->irq_watch),
		0);
	assert_int_equal(cs_loop_add(guest->loop, guest->turn_fd, EPOLLIN, on_turn, guest,
				     &guest->turn_watch),
			 0);
	alarm(FAKE_HANG_S);
}

void fake_close(struct fake_guest *guest)
{
	alarm(0);
	guest->mmio = cs_virtio_mmio_free(guest->mmio);
	cs_watch_free(guest->irq_watch);
	cs_watch_free(guest->turn_watch);
	cs_loop_free(guest->loop);
	close(guest->irq_fd);
	close(guest->turn_fd);
	for (unsigned i = 0; i < 3; i++)
		munmap(guest->map[i], FAKE_SEG_BYTES + 2 * CS_PAGE_BYTES);
}

uint64_t fake_alloc(struct fake_guest *guest, uint64_t bytes)
{
	uint64_t gpa = guest->next_gpa;

	guest->next_gpa += (bytes + 15) / 16 * 16;
	assert_true(guest->next_gpa <= 2 * FAKE_SEG_BYTES);
	if (gpa < FAKE_SEG_BYTES && guest->next_gpa > FAKE_SEG_BYTES) {
		gpa = FAKE_SEG_BYTES; /* not over the seam: tests that want that say so */
		guest->next_gpa = gpa + (bytes + 15) / 16 * 16;
	}
	memset(fake_at(guest, gpa), 0, bytes);
	return gpa;
}

void *fake_at(struct fake_guest *guest, uint64_t gpa)
{
	for (unsigned i = 0; i < 3; i++) {
		const struct cs_seg *seg = &guest->mem.ram.seg[i];

		if (gpa >= seg->gpa && gpa < seg->gpa + seg->bytes)
			return (char *)seg->host + (gpa - seg->gpa);
	}
	fail_msg("the test uses memory that its guest has not");
	return NULL;
}

/* ---- registers */

void fake_plug(struct fake_guest *guest, struct cs_virtio *device)
{
	const struct cs_virtio_mmio_spec spec = {
		.device = device, .mem = &guest->mem, .loop = guest->loop, .irq_fd = guest->irq_fd
	};
	struct cs_err err = { 0 };

	guest->dev = device;
	assert_int_equal(cs_virtio_mmio_create(&spec, &guest->mmio, &err), 0);
}

uint32_t fake_read(struct fake_guest *guest, uint64_t offset)
{
	uint32_t value = 0;

	cs_virtio_mmio_access(guest->mmio, offset, &value, sizeof(value), false);
	return value;
}

void fake_write(struct fake_guest *guest, uint64_t offset, uint32_t value)
{
	cs_virtio_mmio_access(guest->mmio, offset, &value, sizeof(value), true);
}

uint64_t fake_offered(struct fake_guest *guest)
{
	uint64_t features;

	fake_write(guest, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	features = (uint64_t)fake_read(guest, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	fake_write(guest, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return features | fake_read(guest, VIRTIO_MMIO_DEVICE_FEATURES);
}

void fake_features(struct fake_guest *guest, uint64_t features)
{
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

	features = (features | UINT64_C(1) << VIRTIO_F_VERSION_1) & fake_offered(guest);
	fake_write(guest, VIRTIO_MMIO_STATUS, 0);
	fake_write(guest, VIRTIO_MMIO_STATUS, status);
	status |= VIRTIO_CONFIG_S_DRIVER;
	fake_write(guest, VIRTIO_MMIO_STATUS, status);
	fake_write(guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	fake_write(guest, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	fake_write(guest, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	fake_write(guest, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	fake_write(guest, VIRTIO_MMIO_STATUS, status);
	assert_int_equal(fake_read(guest, VIRTIO_MMIO_STATUS), status);
}

void fake_queue_memory(struct fake_guest *guest, uint16_t size, struct fake_queue *ret)
{
	*ret = (struct fake_queue){ .guest = guest, .size = size };
	ret->desc = fake_alloc(guest, 16u * size);
	ret->driver = fake_alloc(guest, 6u + 2u * size);
	ret->device = fake_alloc(guest, 6u + 8u * size);
}

void fake_queue(struct fake_guest *guest, unsigned index, uint16_t size, struct fake_queue *ret)
{
	fake_queue_memory(guest, size, ret);
	ret->index = index;
	fake_write(guest, VIRTIO_MMIO_QUEUE_SEL, index);
	assert_int_equal(fake_read(guest, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_true(fake_read(guest, VIRTIO_MMIO_QUEUE_NUM_MAX) >= size);
	fake_write(guest, VIRTIO_MMIO_QUEUE_NUM, size);
	fake_write(guest, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)ret->desc);
	fake_write(guest, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(ret->desc >> 32));
	fake_write(guest, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)ret->driver);
	fake_write(guest, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(ret->driver >> 32));
	fake_write(guest, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)ret->device);
	fake_write(guest, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(ret->device >> 32));
	fake_write(guest, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(fake_read(guest, VIRTIO_MMIO_QUEUE_READY), 1);
}

void fake_driver_ok(struct fake_guest *guest)
{
	fake_write(guest, VIRTIO_MMIO_STATUS,
		   fake_read(guest, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(guest->dev->running);
}

/* ---- rings */

void fake_desc(struct fake_queue *q, unsigned i, const struct fake_buf *buf, uint16_t flags,
	       uint16_t next)
{
	struct vring_desc *table = fake_at(q->guest, q->desc);

	if (buf->write)
		flags |= VRING_DESC_F_WRITE;
	table[i] = (struct vring_desc){
		.addr = buf->gpa, .len = buf->len, .flags = flags, .next = next
	};
}

uint16_t fake_chain(struct fake_queue *q, const struct fake_buf *buf, unsigned n)
{
	const uint16_t head = q->next_desc;

	for (unsigned i = 0; i < n; i++) {
		const uint16_t at = q->next_desc, next = (uint16_t)((at + 1u) % q->size);

		fake_desc(q, at, &buf[i], i + 1 < n ? VRING_DESC_F_NEXT : 0, next);
		q->next_desc = next;
	}
	return head;
}

void fake_publish(struct fake_queue *q, uint16_t head)
{
	struct vring_avail *avail = fake_at(q->guest, q->driver);

	avail->ring[q->avail % q->size] = head;
	q->avail++;
	__atomic_store_n(&avail->idx, q->avail, __ATOMIC_RELEASE);
}

uint16_t fake_send(struct fake_queue *q, const struct fake_buf *buf, unsigned n)
{
	const uint16_t head = fake_chain(q, buf, n);

	fake_publish(q, head);
	return head;
}

uint16_t fake_send_indirect(struct fake_queue *q, const struct fake_buf *buf, unsigned n)
{
	const uint64_t gpa = fake_alloc(q->guest, 16u * n);
	const struct fake_buf table = { .gpa = gpa, .len = 16u * n };
	struct vring_desc *desc = fake_at(q->guest, gpa);
	const uint16_t head = q->next_desc;

	for (unsigned i = 0; i < n; i++) {
		desc[i] = (struct vring_desc){ .addr = buf[i].gpa,
					       .len = buf[i].len,
					       .next = (uint16_t)(i + 1) };
		desc[i].flags = (uint16_t)((buf[i].write ? VRING_DESC_F_WRITE : 0) |
					   (i + 1 < n ? VRING_DESC_F_NEXT : 0));
	}
	fake_desc(q, head, &table, VRING_DESC_F_INDIRECT, 0);
	q->next_desc = (uint16_t)((head + 1u) % q->size);
	fake_publish(q, head);
	return head;
}

void fake_kick(struct fake_queue *q)
{
	fake_write(q->guest, VIRTIO_MMIO_QUEUE_NOTIFY, q->index);
}

uint16_t fake_used_idx(const struct fake_queue *q)
{
	const struct vring_used *used = fake_at(q->guest, q->device);

	return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
}

bool fake_take(struct fake_queue *q, uint32_t *ret_id, uint32_t *ret_len)
{
	const struct vring_used *used = fake_at(q->guest, q->device);

	if (fake_used_idx(q) == q->used)
		return false;
	*ret_id = used->ring[q->used % q->size].id;
	*ret_len = used->ring[q->used % q->size].len;
	q->used++;
	return true;
}

/* ---- the loop */

void fake_settle(struct fake_guest *guest)
{
	const uint64_t one = 1;
	struct cs_err err = { 0 };

	guest->turns = guest->settle;
	assert_int_equal(write(guest->turn_fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(cs_loop_run(guest->loop, &err), 0);
}

void fake_wait_irq(struct fake_guest *guest)
{
	struct cs_err err = { 0 };

	guest->waiting = true;
	assert_int_equal(cs_loop_run(guest->loop, &err), 0);
	guest->waiting = false;
}

/* As Linux does: with EVENT_IDX an interrupt comes for what is behind used_event. */
static void want_interrupt_at(struct fake_queue *q, uint16_t used)
{
	struct vring_avail *avail = fake_at(q->guest, q->driver);

	__atomic_store_n(&avail->ring[q->size], used, __ATOMIC_SEQ_CST);
}

void fake_wait(struct fake_queue *q, unsigned n)
{
	const uint16_t want = (uint16_t)(q->used + n);

	want_interrupt_at(q, (uint16_t)(want - 1));
	while ((uint16_t)(want - fake_used_idx(q)) != 0 && (uint16_t)(want - fake_used_idx(q)) <= n)
		fake_wait_irq(q->guest);
}
