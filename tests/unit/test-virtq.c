/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings, as a good driver fills them. The others are in test-virtq-hostile.c. */
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

/* ---- a good driver */

static void pops_in_order(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 16, false },
					{ w->data + 16, 100, false },
					{ w->data + 200, 50, true } };
	uint16_t first = fake_send(&w->ring, buf, 3);
	uint16_t second = fake_send(&w->ring, buf + 2, 1);

	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.head, first);
	assert_int_equal(w->chain.readable, 2);
	assert_int_equal(w->chain.writable, 1);
	assert_int_equal(w->chain.readable_bytes, 116);
	assert_int_equal(w->chain.writable_bytes, 50);
	assert_ptr_equal(w->chain.iov[1].iov_base, fake_at(&w->guest, w->data + 16));
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.head, second);
	assert_int_equal(w->chain.readable, 0);
	assert_int_equal(pop(w), 0);
}

static void goes_round(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 16, true };
	uint32_t id, len;

	w->ring.avail = w->q.next_avail = 0xfffa; /* over the wrap of the index */
	w->ring.used = w->q.next_used = w->q.signalled = 0xfffa;
	for (uint32_t i = 0; i < 3 * SIZE; i++) {
		uint16_t head = fake_send(&w->ring, &buf, 1);

		assert_int_equal(pop(w), 1);
		assert_int_equal(cs_virtq_push(&w->q, &w->guest.mem, w->chain.head, i), 0);
		assert_true(fake_take(&w->ring, &id, &len));
		assert_int_equal(id, head);
		assert_int_equal(len, i);
	}
	assert_int_equal(pop(w), 0);
	assert_false(fake_take(&w->ring, &id, &len));
}

static void full_ring(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 1, false };

	for (unsigned i = 0; i < SIZE; i++)
		fake_send(&w->ring, &buf, 1);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(pop(w), 1);
	assert_int_equal(pop(w), 0);
}

static void longest_chain(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[SIZE];

	for (unsigned i = 0; i < SIZE; i++)
		buf[i] = (struct fake_buf){ w->data + i, 1, i >= 3 };
	fake_send(&w->ring, buf, SIZE);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.readable, 3);
	assert_int_equal(w->chain.writable, SIZE - 3);
}

static void unpopped(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 1, false };
	uint16_t head = fake_send(&w->ring, &buf, 1);

	assert_int_equal(pop(w), 1);
	cs_virtq_unpop(&w->q);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.head, head);
	assert_int_equal(pop(w), 0);
}

static void not_ready(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 1, false };

	w->q.ready = false;
	fake_send(&w->ring, &buf, 1);
	assert_int_equal(pop(w), 0);
	assert_int_equal(cs_virtq_push(&w->q, &w->guest.mem, 0, 0), -EPROTO);
	assert_false(w->q.broken);
	assert_false(cs_virtq_enable_kick(&w->q, &w->guest.mem, true));
	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
}

static void buffer_over_the_seam(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { FAKE_SEG_BYTES - 10, 30, true };

	fake_send(&w->ring, &buf, 1);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.writable, 2);
	assert_int_equal(w->chain.writable_bytes, 30);
	assert_int_equal(w->chain.iov[0].iov_len, 10);
	assert_ptr_equal(w->chain.iov[1].iov_base, fake_at(&w->guest, FAKE_SEG_BYTES));
}

static void root_may_be_read(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { FAKE_SHARED_GPA + FAKE_SEG_BYTES - 4, 4, false };
	char got[4];

	fake_send(&w->ring, &buf, 1);
	assert_int_equal(pop(w), 1);
	assert_int_equal(cs_chain_read(&w->chain, 0, got, sizeof(got)), 4);
	assert_int_equal(got[3], FAKE_SHARED_BYTE);
}

static void zero_length(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { UINT64_MAX, 0, false },
					{ w->data, 3, false },
					{ 0xdead0000, 0, true } };

	fake_send(&w->ring, buf, 3);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.readable, 1);
	assert_int_equal(w->chain.writable, 0);
	fake_send(&w->ring, buf, 1);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.readable + w->chain.writable, 0);
}

/* ---- indirect tables */

static void indirect(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[SIZE];
	uint16_t head;

	for (unsigned i = 0; i < SIZE; i++)
		buf[i] = (struct fake_buf){ w->data + i, 1, i >= 5 };
	head = fake_send_indirect(&w->ring, buf,
				  SIZE); /* as long as the ring: does not count itself */
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.head, head);
	assert_int_equal(w->chain.readable, 5);
	assert_int_equal(w->chain.writable, 3);
}

static void indirect_behind_direct(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 5, false }, { w->data, 7, true } };

	fake_send_indirect(&w->ring, buf + 1, 1); /* entry 0: replayed behind entry 1 */
	fake_desc(&w->ring, 1, &buf[0], VRING_DESC_F_NEXT, 0);
	fake_publish(&w->ring, 1);
	assert_int_equal(pop(w), 1);
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.head, 1);
	assert_int_equal(w->chain.readable_bytes, 5);
	assert_int_equal(w->chain.writable_bytes, 7);
}

/* The write flag of a descriptor that refers to a table means nothing (2.7.5.3.2). */
static void indirect_ignores_write(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };

	fake_send_indirect(&w->ring, &buf, 1);
	desc(w, 0)->flags |= VRING_DESC_F_WRITE;
	assert_int_equal(pop(w), 1);
	assert_int_equal(w->chain.readable_bytes, 5);
}

/* ---- notifications */

static void interrupts_by_flag(void **state)
{
	struct world *w = *state;
	struct vring_avail *avail = fake_at(&w->guest, w->ring.driver);

	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem)); /* nothing happened */
	cs_virtq_push(&w->q, &w->guest.mem, 0, 0);
	assert_true(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem)); /* said already */
	avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	cs_virtq_push(&w->q, &w->guest.mem, 0, 0);
	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
}

static void interrupts_by_event(void **state)
{
	struct world *w = *state;
	struct vring_avail *avail = fake_at(&w->guest, w->ring.driver);
	uint16_t *used_event = &avail->ring[SIZE];

	w->q.event_idx = true;
	avail->flags = VRING_AVAIL_F_NO_INTERRUPT; /* means nothing now (2.7.7.2) */
	w->q.next_used = w->q.signalled = 0xfffe;
	*used_event = 0xffff;
	cs_virtq_push(&w->q, &w->guest.mem, 0, 0);
	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
	cs_virtq_push(&w->q, &w->guest.mem, 0, 0); /* passes 0xffff */
	assert_true(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
	cs_virtq_push(&w->q, &w->guest.mem, 0, 0);
	assert_false(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
	*used_event = 3;
	for (unsigned i = 0; i < 4; i++) /* 1 to 5: 3 is among them */
		cs_virtq_push(&w->q, &w->guest.mem, 0, 0);
	assert_true(cs_virtq_wants_interrupt(&w->q, &w->guest.mem));
}

static void kicks_by_flag(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 1, false };
	struct vring_used *used = fake_at(&w->guest, w->ring.device);

	assert_false(cs_virtq_enable_kick(&w->q, &w->guest.mem, false));
	assert_int_equal(used->flags, VRING_USED_F_NO_NOTIFY);
	fake_send(&w->ring, &buf, 1);
	assert_true(cs_virtq_enable_kick(&w->q, &w->guest.mem, true)); /* one came meanwhile */
	assert_int_equal(used->flags, 0);
	assert_int_equal(pop(w), 1);
	assert_false(cs_virtq_enable_kick(&w->q, &w->guest.mem, true));
}

static void kicks_by_event(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 1, false };
	struct vring_used *used = fake_at(&w->guest, w->ring.device);
	const uint16_t *avail_event = (const uint16_t *)(const void *)&used->ring[SIZE];

	w->q.event_idx = true;
	fake_send(&w->ring, &buf, 1);
	assert_int_equal(pop(w), 1);
	assert_false(cs_virtq_enable_kick(&w->q, &w->guest.mem, true));
	assert_int_equal(*avail_event, 1); /* kick when the index passes 1 */
	assert_false(cs_virtq_enable_kick(&w->q, &w->guest.mem, false));
	fake_send(&w->ring, &buf, 1);
	assert_true(cs_virtq_enable_kick(&w->q, &w->guest.mem, true));
	assert_int_equal(used->flags, 0);
}

/* ---- copies */

static void copies(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 1, false },
					{ w->data + 100, 2, false },
					{ w->data + 200, 5, false },
					{ w->data + 300, 2, true },
					{ FAKE_SEG_BYTES - 1, 3, true } };
	char text[16] = { 0 };

	memcpy(fake_at(&w->guest, w->data), "a", 1);
	memcpy(fake_at(&w->guest, w->data + 100), "bc", 2);
	memcpy(fake_at(&w->guest, w->data + 200), "defgh", 5);
	fake_send(&w->ring, buf, 5);
	assert_int_equal(pop(w), 1);
	assert_int_equal(cs_chain_read(&w->chain, 0, text, sizeof(text)), 8);
	assert_string_equal(text, "abcdefgh");
	assert_int_equal(cs_chain_read(&w->chain, 2, text, 3), 3);
	assert_memory_equal(text, "cdedefgh", 8);
	assert_int_equal(cs_chain_read(&w->chain, 8, text, 1), 0);
	assert_int_equal(cs_chain_read(&w->chain, UINT64_MAX, text, 1), 0);
	assert_int_equal(cs_chain_write(&w->chain, 1, "WXYZ!", 5), 4);
	assert_memory_equal(fake_at(&w->guest, w->data + 300), "\0W", 2);
	assert_memory_equal(fake_at(&w->guest, FAKE_SEG_BYTES - 1), "X", 1);
	assert_memory_equal(fake_at(&w->guest, FAKE_SEG_BYTES), "YZ", 2);
}

static void slices(void **state)
{
	char a[4], b[8], c[2];
	const struct iovec iov[] = { { a, 4 }, { b, 8 }, { c, 2 } };
	struct iovec out[3];

	assert_int_equal(cs_iov_slice(iov, 3, 0, UINT64_MAX, out), 3);
	assert_int_equal(cs_iov_slice(iov, 3, 4, 8, out), 1);
	assert_ptr_equal(out[0].iov_base, b);
	assert_int_equal(cs_iov_slice(iov, 3, 6, 7, out), 2);
	assert_ptr_equal(out[0].iov_base, b + 2);
	assert_int_equal(out[0].iov_len, 6);
	assert_int_equal(out[1].iov_len, 1);
	assert_int_equal(cs_iov_slice(iov, 3, 14, 1, out), 0);
	assert_int_equal(cs_iov_slice(iov, 3, 0, 0, out), 0);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pops_in_order),
		T(goes_round),
		T(full_ring),
		T(longest_chain),
		T(unpopped),
		T(not_ready),
		T(buffer_over_the_seam),
		T(root_may_be_read),
		T(zero_length),
		T(indirect),
		T(indirect_behind_direct),
		T(indirect_ignores_write),
		T(interrupts_by_flag),
		T(interrupts_by_event),
		T(kicks_by_flag),
		T(kicks_by_event),
		T(copies),
		T(slices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
