/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cs_virtio_serve(), which the devices use: answers, kicks, and that nobody gets all the turns. */
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "tests/fake/notes.h"

#define QUEUES NOTES_QUEUES
#define SIZE   NOTES_SIZE

struct world {
	struct fake_guest guest;
	struct fake_notes notes;
	struct fake_queue queue[QUEUES];
	uint64_t data;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	fake_open(&w->guest);
	fake_plug(&w->guest, fake_note_taker(&w->notes));
	w->data = fake_alloc(&w->guest, 4096);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	fake_close(&w->guest);
	assert_int_equal(w->notes.frees, 1);
	free(w);
	return 0;
}

/* Running, with both queues. */
static void boot(struct world *w)
{
	fake_features(&w->guest, NOTES_FEATURE);
	for (unsigned i = 0; i < QUEUES; i++)
		fake_queue(&w->guest, i, SIZE, &w->queue[i]);
	fake_driver_ok(&w->guest);
	fake_settle(&w->guest);
}

static void served(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 40, true };
	uint32_t id, len;

	boot(w);
	w->notes.answer = 33;
	for (unsigned i = 0; i < 3; i++)
		fake_send(&w->queue[0], &buf, 1);
	fake_kick(&w->queue[0]);
	w->guest.irqs = 0;
	fake_settle(&w->guest);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(fake_take(&w->queue[0], &id, &len));
		assert_int_equal(id, i);
		assert_int_equal(len, 33);
	}
	assert_int_equal(w->guest.irqs, 1); /* for all three */
}

static void not_now(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 40, true };
	uint32_t id, len;

	boot(w);
	w->notes.answer = -EAGAIN;
	fake_send(&w->queue[0], &buf, 1);
	fake_send(&w->queue[0], &buf, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.served, 1); /* and not again and again */
	w->notes.answer = 7;
	cs_virtio_again(w->guest.dev, 0);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.served, 3);
	assert_true(fake_take(&w->queue[0], &id, &len) && id == 0 && len == 7);
	assert_true(fake_take(&w->queue[0], &id, &len) && id == 1 && len == 7);
}

static void kept(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 40, true };
	uint32_t id, len;

	boot(w);
	w->notes.answer = -EINPROGRESS;
	fake_send(&w->queue[0], &buf, 1);
	fake_send(&w->queue[0], &buf, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.served, 2);
	assert_false(fake_take(&w->queue[0], &id, &len));
	cs_virtio_complete(w->guest.dev, 0, 1, UINT64_MAX); /* in another order, and too much */
	assert_true(fake_take(&w->queue[0], &id, &len) && id == 1 && len == UINT32_MAX);
	fake_write(&w->guest, VIRTIO_MMIO_STATUS, 0);
	cs_virtio_complete(w->guest.dev, 0, 0, 1); /* too late: dropped */
	assert_false(fake_take(&w->queue[0], &id, &len));
}

/* A guest that publishes a request for each one served: everybody else must get turns. */
static void storm(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 40, true };

	boot(w);
	w->notes.again = &w->queue[0];
	fake_send(&w->queue[0], &buf, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest); /* would not return */
	assert_true(w->notes.kicks[0] > 2);
	assert_true(w->notes.served <= w->notes.kicks[0] * SIZE);
	fake_kick(&w->queue[1]);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[1], 2);
}

/* With EVENT_IDX the driver kicks only past avail_event: no request may be forgotten. */
static void no_kick_is_lost(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 40, true };
	const struct vring_used *used;

	fake_features(&w->guest, UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX);
	fake_queue(&w->guest, 0, SIZE, &w->queue[0]);
	used = fake_at(&w->guest, w->queue[0].device);
	fake_driver_ok(&w->guest);
	fake_settle(&w->guest);
	for (unsigned i = 0; i < 100; i++) {
		const uint16_t *event = (const uint16_t *)(const void *)&used->ring[SIZE];
		uint16_t old = w->queue[0].avail;

		for (unsigned j = 0; j <= i % SIZE; j++)
			fake_send(&w->queue[0], &buf, 1);
		if (vring_need_event(*event, w->queue[0].avail, old))
			fake_kick(&w->queue[0]);
		fake_settle(&w->guest);
		assert_int_equal(fake_used_idx(&w->queue[0]), w->queue[0].avail);
	}
	assert_true(w->notes.kicks[0] <= 101);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(served), T(not_now), T(kept), T(storm), T(no_kick_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
