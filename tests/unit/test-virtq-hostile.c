/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings, as a hostile driver fills them: each breaks the queue, none the monitor. */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/driver.h"

#define SIZE 8

struct world {
	struct fake_guest guest;
	struct fake_queue ring; /* the driver's side */
	struct cs_virtq q;      /* ours */
	struct cs_chain chain;
	uint64_t data; /* a buffer of 4 KiB */
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	fake_open(&w->guest);
	fake_queue_memory(&w->guest, SIZE, &w->ring);
	w->q = (struct cs_virtq){ .size = SIZE,
				  .ready = true,
				  .indirect = true,
				  .desc = w->ring.desc,
				  .driver = w->ring.driver,
				  .device = w->ring.device };
	w->data = fake_alloc(&w->guest, 4096);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	fake_close(&w->guest);
	free(w);
	return 0;
}

static int pop(struct world *w)
{
	return cs_virtq_pop(&w->q, &w->guest.mem, &w->chain);
}

static struct vring_desc *desc(struct world *w, unsigned i)
{
	return (struct vring_desc *)fake_at(&w->guest, w->ring.desc) + i;
}

/* The driver broke a rule: said once and for all. */
static void assert_broken(struct world *w)
{
	assert_int_equal(pop(w), -EPROTO);
	assert_true(w->q.broken);
	assert_int_equal(pop(w), -EPROTO);
	assert_int_equal(cs_virtq_push(&w->q, &w->guest.mem, 0, 0), -EPROTO);
	assert_int_equal(fake_used_idx(&w->ring), 0);
}

/* ---- indirect tables */

static void indirect_too_long(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[SIZE + 1];

	for (unsigned i = 0; i <= SIZE; i++)
		buf[i] = (struct fake_buf){ w->data, 1, false };
	fake_send_indirect(&w->ring, buf, SIZE + 1);
	assert_broken(w);
}

static void indirect_not_negotiated(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	w->q.indirect = false;
	fake_send_indirect(&w->ring, &buf, 1);
	assert_broken(w);
}

static void indirect_nested(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };
	struct vring_desc *table;

	fake_send_indirect(&w->ring, &buf, 1);
	table = fake_at(&w->guest, desc(w, 0)->addr);
	*table = *desc(w, 0); /* the table's entry points to the table */
	assert_broken(w);
}

static void indirect_with_next(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->flags |= VRING_DESC_F_NEXT;
	desc(w, 0)->next = 1;
	assert_broken(w);
}

static void indirect_odd_size(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->len = 24;
	assert_broken(w);
}

static void indirect_empty(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->len = 0;
	assert_broken(w);
}

/* Its last entry is one byte behind the end of RAM, and is never used: refused all the same. */
static void indirect_over_the_end(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->addr = 2 * FAKE_SEG_BYTES - 31;
	desc(w, 0)->len = 32;
	assert_broken(w);
}

static void indirect_huge(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->len = UINT32_MAX - 15;
	assert_broken(w);
}

static void indirect_in_the_root(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->addr = FAKE_SHARED_GPA;
	assert_broken(w);
}

static void indirect_next_outside(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 5, false }, { w->data, 5, false } };
	struct vring_desc *table;

	fake_send_indirect(&w->ring, buf, 2);
	table = fake_at(&w->guest, desc(w, 0)->addr);
	table[0].next = 2; /* inside the ring, outside the table */
	assert_broken(w);
}

/* ---- a hostile driver */

static void cycle(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 1, false }, { w->data, 1, false } };

	fake_send(&w->ring, buf, 2);
	desc(w, 1)->flags = VRING_DESC_F_NEXT;
	desc(w, 1)->next = 0;
	assert_broken(w);
}

static void cycle_of_one_empty(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 0, true };

	fake_send(&w->ring, &buf, 1);
	desc(w, 0)->flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE;
	desc(w, 0)->next = 0;
	assert_broken(w);
}

static void next_outside(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 1, false }, { w->data, 1, false } };

	fake_send(&w->ring, buf, 2);
	desc(w, 0)->next = SIZE;
	assert_broken(w);
}

static void head_outside(void **state)
{
	struct world *w = *state;

	fake_publish(&w->ring, SIZE);
	assert_broken(w);
}

static void index_jumps(void **state)
{
	struct world *w = *state;
	struct vring_avail *avail = fake_at(&w->guest, w->ring.driver);

	avail->idx = SIZE + 1;
	assert_broken(w);
}

static void index_goes_back(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 1, false };
	struct vring_avail *avail = fake_at(&w->guest, w->ring.driver);

	fake_send(&w->ring, &buf, 1);
	assert_int_equal(pop(w), 1);
	avail->idx = 0;
	assert_broken(w);
}

static void readable_behind_writable(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 1, true }, { w->data, 1, false } };

	fake_send(&w->ring, buf, 2);
	assert_broken(w);
}

static void readable_behind_empty_writable(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 0, true }, { w->data, 1, false } };

	fake_send(&w->ring, buf, 2);
	assert_broken(w);
}

static const struct fake_buf bad_buffers[] = {
	{ 2 * FAKE_SEG_BYTES - 1, 2, false },           /* past the last byte of RAM */
	{ 2 * FAKE_SEG_BYTES, 1, true },                /* behind it */
	{ 0, 2 * FAKE_SEG_BYTES + 1, true },            /* all of RAM and a byte */
	{ UINT64_MAX, 1, false },                       /* the last address */
	{ UINT64_MAX - 3, 16, false },                  /* a sum that wraps into RAM */
	{ FAKE_SHARED_GPA, 1, true },                   /* a template */
	{ FAKE_SHARED_GPA - 1, 2, false },              /* from the hole into it */
	{ FAKE_SHARED_GPA + FAKE_SEG_BYTES, 1, false }, /* behind it */
	{ 0x1000, UINT32_MAX, false },
};

static void buffers_outside(void **state)
{
	struct world *w = *state;

	for (unsigned i = 0; i < sizeof(bad_buffers) / sizeof(bad_buffers[0]); i++) {
		w->q.broken = false;
		w->q.next_avail = w->ring.avail;
		fake_send(&w->ring, &bad_buffers[i], 1);
		assert_broken(w);
	}
}

static void buffers_at_the_edge(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { 2 * FAKE_SEG_BYTES - 1, 1, true },
					{ 0, 2 * FAKE_SEG_BYTES, true } };

	fake_send(&w->ring, buf, 2);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.writable, 3); /* the second is of two segments */
	assert_int_equal(w->chain.writable_bytes, 2 * FAKE_SEG_BYTES + 1);
}

/* More than 4 GiB in one request: with little RAM, the same RAM again and again. */
static void request_too_large(void **state)
{
	const uint64_t big = UINT64_C(1) << 30;
	struct world *w = *state;
	struct cs_mem mem = w->guest.mem;
	struct fake_buf buf[5];

	/* A segment that is only claimed: nothing touches it. */
	mem.ram.seg[mem.ram.n++] = (struct cs_seg){
		.gpa = big, .bytes = big, .host = &w->guest, .backing = CS_BACKING_ANON
	};
	for (unsigned i = 0; i < 5; i++)
		buf[i] = (struct fake_buf){ big, (uint32_t)big, true };
	buf[4] = (struct fake_buf){ w->data, 1, true };
	fake_send(&w->ring, buf, 4);
	assert_int_equal(cs_virtq_pop(&w->q, &mem, &w->chain), 1);
	assert_true(w->chain.writable_bytes == 4 * big);
	w->ring.next_desc = 0;
	fake_send(&w->ring, buf, 5);
	assert_int_equal(cs_virtq_pop(&w->q, &mem, &w->chain), -EPROTO);
}

/* ---- rings in bad places */

static void bad_ring(struct world *w, uint64_t *gpa, uint64_t value)
{
	const struct fake_buf buf = { w->data, 1, false };
	uint64_t good = *gpa;

	*gpa = value;
	assert_false(cs_virtq_usable(&w->q, &w->guest.mem));
	fake_send(&w->ring, &buf, 1);
	assert_int_equal(pop(w), -EPROTO);
	w->q.broken = false;
	assert_int_equal(cs_virtq_push(&w->q, &w->guest.mem, 0, 0), -EPROTO);
	assert_true(w->q.broken);
	w->q.broken = false;
	assert_false(cs_virtq_enable_kick(&w->q, &w->guest.mem, true));
	w->q.next_used++;
	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
	w->q.next_used--;
	*gpa = good;
	w->q.broken = false;
	w->q.next_avail = w->ring.avail;
}

static void rings_outside(void **state)
{
	struct world *w = *state;
	uint64_t *ring[] = { &w->q.desc, &w->q.driver, &w->q.device };
	const uint64_t bad[] = { 2 * FAKE_SEG_BYTES,   2 * FAKE_SEG_BYTES - 16,
				 FAKE_SEG_BYTES - 16,  UINT64_MAX - 15,
				 FAKE_SHARED_GPA,      FAKE_SHARED_GPA + 64,
				 FAKE_SHARED_GPA - 16, 0x1001,
				 UINT64_C(1) << 63 };

	assert_true(cs_virtq_usable(&w->q, &w->guest.mem));
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned j = 0; j < sizeof(bad) / sizeof(bad[0]); j++)
			bad_ring(w, ring[i], bad[j]);
	}
}

static void rings_at_the_edge(void **state)
{
	struct world *w = *state;

	w->q.desc = FAKE_SEG_BYTES - 16 * SIZE;
	w->q.device = 2 * FAKE_SEG_BYTES - 8 * SIZE - 8; /* aligned: 2 bytes left over */
	w->q.driver = 2 * FAKE_SEG_BYTES - 2 * SIZE - 6;
	assert_true(cs_virtq_usable(&w->q, &w->guest.mem));
	w->q.driver += 2;
	assert_false(cs_virtq_usable(&w->q, &w->guest.mem));
}

static void sizes(void **state)
{
	struct world *w = *state;
	const uint16_t bad[] = { 0, 3, 12, 255, 257, 512, 32768, 65535 };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		w->q.size = bad[i];
		assert_false(cs_virtq_usable(&w->q, &w->guest.mem));
		assert_int_equal(pop(w), -EPROTO);
		w->q.broken = false;
	}
	for (uint16_t n = 1; n <= CS_VIRTQ_MAX; n = (uint16_t)(n * 2)) {
		w->q.size = n;
		assert_true(cs_virtq_usable(&w->q, &w->guest.mem));
	}
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(indirect_too_long),
		T(indirect_not_negotiated),
		T(indirect_nested),
		T(indirect_with_next),
		T(indirect_odd_size),
		T(indirect_empty),
		T(indirect_over_the_end),
		T(indirect_huge),
		T(indirect_in_the_root),
		T(indirect_next_outside),
		T(cycle),
		T(cycle_of_one_empty),
		T(next_outside),
		T(head_outside),
		T(index_jumps),
		T(index_goes_back),
		T(readable_behind_writable),
		T(readable_behind_empty_writable),
		T(buffers_outside),
		T(buffers_at_the_edge),
		T(request_too_large),
		T(rings_outside),
		T(rings_at_the_edge),
		T(sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
