/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes back to the host and what does not; and drivers that give what is not theirs. madvise()
 * is watched (wrapped at link time): it must never leave the guest's RAM. */
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_mmio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/virtio-devices.h"

#define PAGE     4096u
#define SIZE     32u
#define ACTUAL   (VIRTIO_MMIO_CONFIG + 4u)
#define TARGET   VIRTIO_MMIO_CONFIG
#define RAM      (2 * FAKE_SEG_BYTES)
#define TEMPLATE 't'
#define OWN      'o'

enum { INFLATE, DEFLATE, REPORTING, QUEUES };

/* What the device asked of the host. */
static struct watched {
	const struct fake_guest *guest;
	unsigned calls;
	uint64_t bytes;
	int error; /* fail with it */
} watched;

int __real_madvise(void *host, size_t bytes, int advice);
int __wrap_madvise(void *host, size_t bytes, int advice);

int __wrap_madvise(void *host, size_t bytes, int advice)
{
	bool inside = false;

	if (advice != MADV_DONTNEED || !watched.guest)
		return __real_madvise(host, bytes, advice);
	for (unsigned i = 0; i < 2; i++) {
		const struct cs_seg *seg = &watched.guest->mem.ram.seg[i];
		const uint64_t at = (uint64_t)((char *)host - (char *)seg->host);

		inside = inside || ((char *)host >= (char *)seg->host && at + bytes <= seg->bytes);
	}
	assert_true(inside);
	assert_true(bytes > 0 && bytes % PAGE == 0);
	watched.calls++;
	if (watched.error) {
		errno = watched.error;
		return -1;
	}
	watched.bytes += bytes;
	return __real_madvise(host, bytes, advice);
}

struct world {
	struct fake_guest guest;
	struct fake_queue q[QUEUES];
	uint64_t data; /* of requests */
};

/* RAM as a clone has it: a private mapping of the template's memory, of which the guest then wrote
 * all. */
static void map_template(struct fake_guest *guest)
{
	int fd = memfd_create("template", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, FAKE_SEG_BYTES), 0);
	for (uint64_t at = 0; at < FAKE_SEG_BYTES; at += PAGE) {
		char page[PAGE];

		memset(page, TEMPLATE, sizeof(page));
		assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)at), PAGE);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct cs_seg *seg = &guest->mem.ram.seg[i];

		assert_ptr_equal(mmap(seg->host, seg->bytes, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_FIXED, fd, 0),
				 seg->host);
		seg->backing = CS_BACKING_COW;
	}
	close(fd);
}

static void open_world(struct world *w, bool clone)
{
	struct cs_virtio *balloon;
	struct cs_err err;

	fake_open(&w->guest);
	if (clone)
		map_template(&w->guest);
	assert_int_equal(cs_virtio_balloon_create(&balloon, &err), 0);
	fake_plug(&w->guest, balloon);
	fake_features(&w->guest, UINT64_MAX);
	for (unsigned i = 0; i < QUEUES; i++)
		fake_queue(&w->guest, i, SIZE, &w->q[i]);
	fake_driver_ok(&w->guest);
	w->data = fake_alloc(&w->guest, 8192);
	/* From here on pages are only the test's. */
	w->guest.next_gpa = (w->guest.next_gpa + PAGE - 1) / PAGE * PAGE;
	for (uint64_t gpa = w->guest.next_gpa; gpa < RAM; gpa += PAGE)
		memset(fake_at(&w->guest, gpa), OWN, PAGE);
	watched = (struct watched){ .guest = &w->guest };
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	open_world(w, false);
	*state = w;
	return 0;
}

static int setup_clone(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	open_world(w, true);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	watched.guest = NULL;
	fake_close(&w->guest);
	free(w);
	return 0;
}

/* Every request comes back, with nothing written. */
static void send(struct world *w, unsigned queue, const struct fake_buf *buf, unsigned n)
{
	uint32_t id, len;

	fake_send(&w->q[queue], buf, n);
	fake_kick(&w->q[queue]);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->q[queue], &id, &len));
	assert_int_equal(len, 0);
	assert_true(w->guest.dev->running);
}

static void send_pages(struct world *w, unsigned queue, const uint32_t *page, unsigned n)
{
	const struct fake_buf buf = { w->data, n * (uint32_t)sizeof(*page), false };

	memcpy(fake_at(&w->guest, w->data), page, buf.len);
	send(w, queue, &buf, 1);
}

static char byte_of(struct world *w, uint32_t page)
{
	return *(char *)fake_at(&w->guest, (uint64_t)page * PAGE);
}

/* ---- as it should be */

static void offers(void **state)
{
	struct world *w = *state;
	const uint64_t offered = fake_offered(&w->guest);

	assert_int_equal(fake_read(&w->guest, VIRTIO_MMIO_DEVICE_ID), 5);
	assert_true(offered >> VIRTIO_BALLOON_F_REPORTING & 1);
	assert_true(offered >> VIRTIO_BALLOON_F_DEFLATE_ON_OOM & 1);
	/* What pages read as afterwards cannot be promised. */
	assert_false(offered >> VIRTIO_BALLOON_F_PAGE_POISON & 1);
	assert_false(offered >> VIRTIO_BALLOON_F_STATS_VQ & 1);
	assert_false(offered >> VIRTIO_BALLOON_F_FREE_PAGE_HINT & 1);
	assert_int_equal(fake_read(&w->guest, TARGET), 0);
	assert_int_equal(fake_read(&w->guest, ACTUAL), 0);
	assert_int_equal(fake_read(&w->guest, VIRTIO_MMIO_CONFIG + 12), 0);
}

static void inflates(void **state)
{
	struct world *w = *state;
	const uint32_t up[] = { 40, 41, 42, 43 }, down[] = { 53, 52, 51, 50 };
	const uint32_t apart[] = { 30, 32, 34 }, seam[] = { 63, 64 };

	send_pages(w, INFLATE, up, 4);
	assert_int_equal(watched.calls, 1); /* in one piece */
	send_pages(w, INFLATE, down, 4);
	assert_int_equal(watched.calls, 2);
	send_pages(w, INFLATE, apart, 3);
	assert_int_equal(watched.calls, 5);
	send_pages(w, INFLATE, seam, 2); /* of two segments */
	assert_int_equal(watched.calls, 7);
	assert_int_equal(watched.bytes, 13 * PAGE);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(byte_of(w, up[i]), 0);
		assert_int_equal(byte_of(w, down[i]), 0);
	}
	assert_int_equal(byte_of(w, 32), 0);
	assert_int_equal(byte_of(w, 63), 0);
	assert_int_equal(byte_of(w, 64), 0);
	/* And nothing else. */
	assert_int_equal(byte_of(w, 39), OWN);
	assert_int_equal(byte_of(w, 44), OWN);
	assert_int_equal(byte_of(w, 49), OWN);
	assert_int_equal(byte_of(w, 54), OWN);
	assert_int_equal(byte_of(w, 31), OWN);
	assert_int_equal(byte_of(w, 65), OWN);
}

static void deflates(void **state)
{
	struct world *w = *state;
	const uint32_t page[] = { 40, 41 };

	send_pages(w, DEFLATE, page, 2);
	assert_int_equal(watched.calls, 0);
	assert_int_equal(byte_of(w, 40), OWN);
}

static void reports(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { 40 * PAGE, 4 * PAGE, true }, { 60 * PAGE, PAGE, true } };
	struct cs_balloon_info info;

	send(w, REPORTING, buf, 2);
	assert_int_equal(watched.bytes, 5 * PAGE);
	assert_int_equal(byte_of(w, 40), 0);
	assert_int_equal(byte_of(w, 43), 0);
	assert_int_equal(byte_of(w, 60), 0);
	assert_int_equal(byte_of(w, 39), OWN);
	assert_int_equal(byte_of(w, 44), OWN);
	cs_virtio_balloon_info(w->guest.dev, &info);
	assert_int_equal(info.reports, 1);
	assert_int_equal(info.reported_bytes, 5 * PAGE);
}

/* A page of a clone is the template's again, and the guest may write to it anew. */
static void becomes_the_templates(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { 40 * PAGE, 2 * PAGE, true };
	const uint32_t page[] = { 50 };

	send(w, REPORTING, &buf, 1);
	send_pages(w, INFLATE, page, 1);
	assert_int_equal(byte_of(w, 40), TEMPLATE);
	assert_int_equal(byte_of(w, 41), TEMPLATE);
	assert_int_equal(byte_of(w, 50), TEMPLATE);
	assert_int_equal(byte_of(w, 42), OWN);
	*(char *)fake_at(&w->guest, 40 * PAGE) = 'n';
	assert_int_equal(byte_of(w, 40), 'n');
	send(w, REPORTING, &buf, 1);
	assert_int_equal(byte_of(w, 40), TEMPLATE);
}

static void size(void **state)
{
	struct world *w = *state;
	struct cs_balloon_info info;
	unsigned irqs = w->guest.irqs;
	const uint32_t generation = fake_read(&w->guest, VIRTIO_MMIO_CONFIG_GENERATION);

	cs_virtio_balloon_set(w->guest.dev, RAM - 10 * PAGE);
	fake_settle(&w->guest);
	assert_int_equal(w->guest.irqs, irqs + 1);
	assert_true(fake_read(&w->guest, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	assert_int_not_equal(fake_read(&w->guest, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	assert_int_equal(fake_read(&w->guest, TARGET), 10);
	fake_write(&w->guest, ACTUAL, 7);
	assert_int_equal(fake_read(&w->guest, ACTUAL), 7);
	cs_virtio_balloon_info(w->guest.dev, &info);
	assert_true(info.driven);
	assert_int_equal(info.target_bytes, RAM - 10 * PAGE);
	assert_int_equal(info.actual_bytes, RAM - 7 * PAGE);

	cs_virtio_balloon_set(w->guest.dev, 0);
	assert_int_equal(fake_read(&w->guest, TARGET), RAM / PAGE);
	cs_virtio_balloon_set(w->guest.dev, UINT64_MAX);
	assert_int_equal(fake_read(&w->guest, TARGET), 0);
}

/* Before there is a driver nobody is told; it reads it when it comes. */
static void size_before_the_driver(void **state)
{
	struct world *w = *state;
	struct cs_balloon_info info;
	unsigned irqs;

	fake_write(&w->guest, ACTUAL, 7);
	fake_write(&w->guest, VIRTIO_MMIO_STATUS, 0);
	fake_settle(&w->guest);
	irqs = w->guest.irqs;
	cs_virtio_balloon_set(w->guest.dev, RAM - PAGE);
	fake_settle(&w->guest);
	assert_int_equal(w->guest.irqs, irqs);
	assert_int_equal(fake_read(&w->guest, TARGET), 1);
	cs_virtio_balloon_info(w->guest.dev, &info);
	assert_false(info.driven);
	assert_int_equal(info.actual_bytes, RAM); /* the driver that is gone took them back */
}

/* ---- as it should not be */

static void not_ram(void **state)
{
	struct world *w = *state;
	const uint32_t root = (uint32_t)(FAKE_SHARED_GPA / PAGE), end = (uint32_t)(RAM / PAGE);
	const uint32_t page[] = { root, root + 1, end, UINT32_MAX, UINT32_MAX - 1, 0x80000000 };
	const uint32_t across[] = { end - 1, end, 40, UINT32_MAX, 0 };

	send_pages(w, INFLATE, page, 6);
	assert_int_equal(watched.calls, 0);
	/* What is RAM of a bad request is given back all the same. */
	send_pages(w, INFLATE, across, 3);
	assert_int_equal(watched.bytes, 2 * PAGE);
	assert_int_equal(byte_of(w, end - 1), 0);
	assert_int_equal(byte_of(w, 40), 0);
	assert_int_equal(*(char *)fake_at(&w->guest, FAKE_SHARED_GPA), FAKE_SHARED_BYTE);
}

static void root_is_not_reported(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { FAKE_SHARED_GPA, PAGE, true };

	fake_send(&w->q[REPORTING], &buf, 1);
	fake_kick(&w->q[REPORTING]);
	fake_settle(&w->guest);
	/* A buffer to be written that is not RAM breaks the ring, as for any device. */
	assert_false(w->guest.dev->running);
	assert_int_equal(watched.calls, 0);
}

static void parts_of_pages(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { 40 * PAGE + 1, PAGE - 1, true },
					{ 42 * PAGE, PAGE - 1, true },
					{ 44 * PAGE - 1, PAGE + 2, true },
					{ 46 * PAGE + 100, 1, true } };

	send(w, REPORTING, buf, 4);
	assert_int_equal(watched.bytes, PAGE); /* page 44, the only whole one */
	assert_int_equal(byte_of(w, 44), 0);
	assert_int_equal(byte_of(w, 40), OWN);
	assert_int_equal(byte_of(w, 42), OWN);
	assert_int_equal(byte_of(w, 43), OWN);
	assert_int_equal(byte_of(w, 45), OWN);
}

/* Buffers of the wrong kind, requests without any. */
static void wrong_way_round(void **state)
{
	struct world *w = *state;
	const struct fake_buf readable = { 40 * PAGE, PAGE, false };
	const struct fake_buf writable = { w->data, 4, true }, nothing = { 0, 0, false };

	send(w, REPORTING, &readable, 1);
	*(uint32_t *)fake_at(&w->guest, w->data) = 41;
	send(w, INFLATE, &writable, 1);
	send(w, INFLATE, &nothing, 1);
	send(w, REPORTING, &nothing, 1);
	send(w, DEFLATE, &nothing, 1);
	assert_int_equal(watched.calls, 0);
	assert_int_equal(byte_of(w, 40), OWN);
	assert_int_equal(byte_of(w, 41), OWN);
}

/* Numbers split over pieces, and half a number at the end. */
static void split(void **state)
{
	struct world *w = *state;
	const uint32_t page[] = { 40, 42, 44 };
	const struct fake_buf buf[] = { { w->data, 3, false },
					{ w->data + 3, 6, false },
					{ w->data + 9, 1, false } };

	memcpy(fake_at(&w->guest, w->data), page, sizeof(page));
	send(w, INFLATE, buf, 3);
	assert_int_equal(byte_of(w, 40), 0);
	assert_int_equal(byte_of(w, 42), 0);
	assert_int_equal(byte_of(w, 44), OWN);
}

/* A request of gigabytes of page numbers: a bounded share of it is looked at. */
static void endless(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[SIZE];
	uint32_t *page = fake_at(&w->guest, 30 * PAGE);

	for (unsigned i = 0; i < PAGE / sizeof(*page); i++)
		page[i] = i & 1 ? 40 : 50; /* no two in one piece */
	for (unsigned i = 0; i < SIZE; i++)
		buf[i] = (struct fake_buf){ 30 * PAGE, PAGE, false };
	send(w, INFLATE, buf, SIZE);
	assert_int_equal(watched.calls, PAGE / sizeof(*page));
}

/* The rings themselves: the guest's own business, and the device still answers. */
static void its_own_rings(void **state)
{
	struct world *w = *state;
	const uint32_t page[] = { 0, 1, 2, 3 };
	struct fake_buf buf = { w->data, sizeof(page), false };

	memcpy(fake_at(&w->guest, w->data), page, sizeof(page));
	fake_send(&w->q[INFLATE], &buf, 1);
	fake_kick(&w->q[INFLATE]);
	fake_settle(&w->guest);
	assert_true(watched.calls > 0);
	/* A reset mends it. */
	fake_features(&w->guest, 0);
	for (unsigned i = 0; i < QUEUES; i++)
		fake_queue(&w->guest, i, SIZE, &w->q[i]);
	fake_driver_ok(&w->guest);
	w->data = fake_alloc(&w->guest, 64);
	send_pages(w, INFLATE, (const uint32_t[]){ 60 }, 1);
	assert_int_equal(byte_of(w, 60), 0);
}

static void a_host_that_cannot(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { 40 * PAGE, PAGE, true };
	struct cs_balloon_info info;

	watched.error = EINVAL;
	send(w, REPORTING, &buf, 1);
	cs_virtio_balloon_info(w->guest.dev, &info);
	assert_int_equal(info.reported_bytes, 0);
	assert_int_equal(byte_of(w, 40), OWN);
}

static void configuration(void **state)
{
	struct world *w = *state;
	struct cs_balloon_info info;
	uint64_t wide = UINT64_MAX;

	fake_write(&w->guest, TARGET, 99); /* read-only */
	assert_int_equal(fake_read(&w->guest, TARGET), 0);
	fake_write(&w->guest, VIRTIO_MMIO_CONFIG + 12, 99);
	cs_virtio_mmio_access(w->guest.mmio, ACTUAL, &wide, 8, true);
	cs_virtio_mmio_access(w->guest.mmio, ACTUAL, &wide, 1, true);
	cs_virtio_mmio_access(w->guest.mmio, ACTUAL + 1, &wide, 4, true);
	assert_int_equal(fake_read(&w->guest, ACTUAL), 0);
	/* A guest that says it does without more than it has, has nothing. */
	fake_write(&w->guest, ACTUAL, UINT32_MAX);
	cs_virtio_balloon_info(w->guest.dev, &info);
	assert_int_equal(info.actual_bytes, 0);
	assert_int_equal(fake_read(&w->guest, VIRTIO_MMIO_CONFIG + 4096 - 4), 0);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(offers),
		T(inflates),
		T(deflates),
		T(reports),
		cmocka_unit_test_setup_teardown(becomes_the_templates, setup_clone, teardown),
		T(size),
		T(size_before_the_driver),
		T(not_ram),
		T(root_is_not_reported),
		T(parts_of_pages),
		T(wrong_way_round),
		T(split),
		T(endless),
		T(its_own_rings),
		T(a_host_that_cannot),
		T(configuration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
