/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The transport, with a device that only takes notes. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "tests/fake/notes.h"

#define QUEUES  NOTES_QUEUES
#define SIZE    NOTES_SIZE
#define FEATURE NOTES_FEATURE
#define CONFIG  NOTES_CONFIG

#define ACK      VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER   VIRTIO_CONFIG_S_DRIVER
#define FEATS_OK VIRTIO_CONFIG_S_FEATURES_OK
#define OK       VIRTIO_CONFIG_S_DRIVER_OK
#define FAILED   VIRTIO_CONFIG_S_FAILED
#define BROKEN   VIRTIO_CONFIG_S_NEEDS_RESET

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

static uint32_t get(struct world *w, uint64_t offset)
{
	return fake_read(&w->guest, offset);
}

static void set(struct world *w, uint64_t offset, uint32_t value)
{
	fake_write(&w->guest, offset, value);
}

static uint32_t status(struct world *w, uint32_t value)
{
	set(w, VIRTIO_MMIO_STATUS, value);
	return get(w, VIRTIO_MMIO_STATUS);
}

/* Running, with both queues. */
static void boot(struct world *w)
{
	fake_features(&w->guest, FEATURE);
	for (unsigned i = 0; i < QUEUES; i++)
		fake_queue(&w->guest, i, SIZE, &w->queue[i]);
	fake_driver_ok(&w->guest);
	fake_settle(&w->guest);
}

/* ---- registers */

static void identity(void **state)
{
	struct world *w = *state;

	assert_int_equal(get(w, VIRTIO_MMIO_MAGIC_VALUE), 'v' | 'i' << 8 | 'r' << 16 | 't' << 24);
	assert_int_equal(get(w, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(get(w, VIRTIO_MMIO_DEVICE_ID), NOTES_ID);
	assert_int_equal(get(w, VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(get(w, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(cs_virtio_mmio_queues(w->guest.mmio), QUEUES);
	assert_string_equal(cs_virtio_mmio_name(w->guest.mmio), "notes");
	for (uint64_t shm = VIRTIO_MMIO_SHM_LEN_LOW; shm <= VIRTIO_MMIO_SHM_BASE_HIGH; shm += 4)
		assert_int_equal(get(w, shm), UINT32_MAX);
	assert_true(fake_offered(&w->guest) == (FEATURE | UINT64_C(1) << VIRTIO_F_VERSION_1 |
						UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC |
						UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX));
	set(w, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(get(w, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	set(w, VIRTIO_MMIO_DEVICE_FEATURES_SEL, UINT32_MAX);
	assert_int_equal(get(w, VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

static void configuration(void **state)
{
	struct world *w = *state;
	char buf[8];

	for (unsigned bytes = 1; bytes <= 8; bytes *= 2) {
		for (uint64_t at = 0; at < 24; at++) {
			char want[8] = { 0 };

			for (unsigned i = 0; i < bytes && at + i < sizeof(CONFIG); i++)
				want[i] = CONFIG[at + i];
			memset(buf, 'x', sizeof(buf));
			cs_virtio_mmio_access(w->guest.mmio, VIRTIO_MMIO_CONFIG + at, buf, bytes,
					      false);
			assert_memory_equal(buf, want, bytes);
		}
	}
	memset(buf, 'x', sizeof(buf));
	cs_virtio_mmio_access(w->guest.mmio, UINT64_MAX, buf, 8, false);
	assert_memory_equal(buf, "\0\0\0\0\0\0\0\0", 8);
	cs_virtio_mmio_access(w->guest.mmio, VIRTIO_MMIO_CONFIG + 0xeff, buf, 1, true);
	assert_int_equal(w->notes.write_offset, 0xeff);
	assert_int_equal(w->notes.write_bytes, 1);
}

/* Every offset, every width, any value: nothing but a status register may come to life. */
static void odd_accesses(void **state)
{
	struct world *w = *state;
	uint64_t value;

	for (unsigned bytes = 1; bytes <= 8; bytes *= 2) {
		for (uint64_t at = 0; at < VIRTIO_MMIO_CONFIG; at++) {
			if (bytes == 4 && at % 4 == 0)
				continue;
			value = UINT64_MAX;
			cs_virtio_mmio_access(w->guest.mmio, at, &value, bytes, true);
			cs_virtio_mmio_access(w->guest.mmio, at, &value, bytes, false);
			assert_int_equal(bytes == 8 ? value : value & ((1ull << 8 * bytes) - 1), 0);
		}
	}
	assert_int_equal(get(w, VIRTIO_MMIO_STATUS), 0);
}

/* ---- status */

static void in_order(void **state)
{
	struct world *w = *state;

	assert_int_equal(status(w, ACK), ACK);
	assert_int_equal(status(w, ACK | DRIVER), ACK | DRIVER);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	assert_int_equal(status(w, ACK | DRIVER | FEATS_OK), ACK | DRIVER | FEATS_OK);
	assert_int_equal(w->notes.starts, 0);
	assert_int_equal(status(w, ACK | DRIVER | FEATS_OK | OK), ACK | DRIVER | FEATS_OK | OK);
	assert_int_equal(w->notes.starts, 1);
	assert_true(w->guest.dev->features == UINT64_C(1) << VIRTIO_F_VERSION_1);
	assert_int_equal(status(w, 0), 0);
	assert_int_equal(w->notes.resets, 1);
	assert_true(w->guest.dev->features == 0);
	assert_int_equal(status(w, 0), 0);
	assert_int_equal(w->notes.resets, 1); /* it had not been started again */
}

static void out_of_order(void **state)
{
	struct world *w = *state;

	assert_int_equal(status(w, DRIVER), 0);
	assert_int_equal(status(w, OK), 0);
	assert_int_equal(status(w, BROKEN), 0); /* the device's to set */
	assert_int_equal(status(w, 0x30), 0);   /* unknown */
	set(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	assert_int_equal(status(w, FEATS_OK), 0);
	assert_int_equal(status(w, ACK | FEATS_OK), ACK);
	assert_int_equal(status(w, ACK | DRIVER | OK), ACK | DRIVER);
	assert_int_equal(status(w, ACK), ACK | DRIVER);            /* bits are not taken back */
	assert_int_equal(status(w, ACK | FEATS_OK), ACK | DRIVER); /* so this is no status at all */
	assert_int_equal(w->notes.starts, 0);
	assert_int_equal(status(w, 0xffffff00 | ACK | DRIVER | FEATS_OK),
			 ACK | DRIVER | FEATS_OK); /* the high ones are not there */
}

static void features_refused(void **state)
{
	struct world *w = *state;

	status(w, ACK);
	status(w, ACK | DRIVER);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)FEATURE);
	assert_int_equal(status(w, ACK | DRIVER | FEATS_OK), ACK | DRIVER); /* not VERSION_1 */
	set(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, 3); /* VERSION_1, and one not offered */
	assert_int_equal(status(w, ACK | DRIVER | FEATS_OK), ACK | DRIVER);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX); /* there is no third half */
	assert_int_equal(status(w, ACK | DRIVER | FEATS_OK), ACK | DRIVER | FEATS_OK);
	assert_true(w->guest.dev->features == (FEATURE | UINT64_C(1) << VIRTIO_F_VERSION_1));
	set(w, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(w, VIRTIO_MMIO_DRIVER_FEATURES, 0); /* too late */
	status(w, ACK | DRIVER | FEATS_OK | OK);
	assert_true(w->guest.dev->features & FEATURE);
}

static void driver_fails(void **state)
{
	struct world *w = *state;

	boot(w);
	assert_int_equal(status(w, get(w, VIRTIO_MMIO_STATUS) | FAILED),
			 ACK | DRIVER | FEATS_OK | OK | FAILED);
	assert_false(w->guest.dev->running);
	assert_int_equal(w->notes.resets, 1);
	boot(w);
	assert_int_equal(w->notes.starts, 2);
}

/* ---- queues */

static void queue_numbers(void **state)
{
	struct world *w = *state;
	const uint32_t none[] = { QUEUES, CS_VIRTIO_QUEUES, 1000, UINT32_MAX };

	for (unsigned i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		set(w, VIRTIO_MMIO_QUEUE_SEL, none[i]);
		assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
		set(w, VIRTIO_MMIO_QUEUE_NUM, SIZE);
		set(w, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
		set(w, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		set(w, VIRTIO_MMIO_QUEUE_SEL, i);
		assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_NUM_MAX), SIZE);
	}
}

static void queue_sizes(void **state)
{
	struct world *w = *state;
	const uint32_t bad[] = { 0, 3, SIZE * 2, 6, 0x10008, UINT32_MAX };

	fake_features(&w->guest, 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set(w, VIRTIO_MMIO_QUEUE_NUM, bad[i]);
		assert_int_equal(w->guest.dev->queue[0].size, 0);
		set(w, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);
	}
}

static void queue_in_bad_places(void **state)
{
	struct world *w = *state;
	const uint64_t bad[] = { 2 * FAKE_SEG_BYTES,      FAKE_SHARED_GPA,  UINT64_MAX - 15, 0x1001,
				 2 * FAKE_SEG_BYTES - 16, UINT64_C(1) << 32 };

	fake_features(&w->guest, 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		for (uint64_t reg = VIRTIO_MMIO_QUEUE_DESC_LOW; reg <= VIRTIO_MMIO_QUEUE_USED_LOW;
		     reg += 0x10) {
			set(w, VIRTIO_MMIO_QUEUE_NUM, SIZE);
			set(w, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
			set(w, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0);
			set(w, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
			set(w, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0);
			set(w, VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
			set(w, VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
			set(w, reg, (uint32_t)bad[i]);
			set(w, reg + 4, (uint32_t)(bad[i] >> 32));
			set(w, VIRTIO_MMIO_QUEUE_READY, 1);
			assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);
		}
	}
	set(w, VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
	set(w, VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
	set(w, VIRTIO_MMIO_QUEUE_READY, 2); /* neither 0 nor 1 */
	assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);
	set(w, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 1);
}

/* Every queue register is written with nonsense while the queue is live, then while the device
 * runs: nothing moves. */
static void reconfigured_while_live(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { 0x1000, 4, true };
	struct cs_virtq before;
	uint32_t id, len;

	fake_features(&w->guest, 0);
	fake_queue(&w->guest, 0, SIZE, &w->queue[0]);
	for (unsigned round = 0; round < 2; round++) {
		set(w, VIRTIO_MMIO_QUEUE_SEL, 0);
		before = w->guest.dev->queue[0];
		set(w, VIRTIO_MMIO_QUEUE_NUM, 2);
		for (uint64_t reg = VIRTIO_MMIO_QUEUE_DESC_LOW; reg <= VIRTIO_MMIO_QUEUE_USED_HIGH;
		     reg += 4)
			set(w, reg, UINT32_MAX);
		set(w, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_memory_equal(&before, &w->guest.dev->queue[0], sizeof(before));
		if (round == 0) {
			fake_driver_ok(&w->guest);
			fake_settle(&w->guest);
		}
	}
	/* A queue cannot join late either. */
	set(w, VIRTIO_MMIO_QUEUE_SEL, 1);
	set(w, VIRTIO_MMIO_QUEUE_NUM, SIZE);
	set(w, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);

	fake_send(&w->queue[0], &buf, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->queue[0], &id, &len));
}

static void queue_taken_away(void **state)
{
	struct world *w = *state;

	boot(w);
	set(w, VIRTIO_MMIO_QUEUE_SEL, 1);
	set(w, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_false(w->guest.dev->running);
	assert_int_equal(w->notes.resets, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0], 1); /* the one of the start */
	status(w, 0);
	assert_int_equal(w->notes.resets, 1);
	boot(w);
	assert_true(w->guest.dev->running);
}

static void queue_prepared_again(void **state)
{
	struct world *w = *state;

	fake_features(&w->guest, 0);
	fake_queue(&w->guest, 0, SIZE, &w->queue[0]);
	set(w, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(get(w, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_int_equal(w->notes.resets, 0);
	fake_queue(&w->guest, 0, SIZE / 2, &w->queue[0]);
	assert_int_equal(w->guest.dev->queue[0].size, SIZE / 2);
}

/* ---- kicks */

static void kicks(void **state)
{
	struct world *w = *state;
	const uint64_t one = 1;

	boot(w);
	assert_int_equal(w->notes.kicks[0], 1);
	assert_int_equal(w->notes.kicks[1], 1);
	fake_kick(&w->queue[1]);
	assert_int_equal(w->notes.kicks[1], 1); /* not here: in the loop's thread */
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[1], 2);
	assert_int_equal(write(cs_virtio_mmio_notify_fd(w->guest.mmio, 0), &one, sizeof(one)),
			 sizeof(one)); /* as KVM does */
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0], 2);
	set(w, VIRTIO_MMIO_QUEUE_NOTIFY, QUEUES); /* numbers of no queue */
	set(w, VIRTIO_MMIO_QUEUE_NOTIFY, CS_VIRTIO_QUEUES);
	set(w, VIRTIO_MMIO_QUEUE_NOTIFY, UINT32_MAX);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0] + w->notes.kicks[1], 4);
}

static void kicked_too_early(void **state)
{
	struct world *w = *state;
	const uint64_t one = 1;

	fake_features(&w->guest, 0);
	fake_queue(&w->guest, 0, SIZE, &w->queue[0]);
	fake_kick(&w->queue[0]);
	assert_int_equal(write(cs_virtio_mmio_notify_fd(w->guest.mmio, 0), &one, sizeof(one)),
			 sizeof(one));
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0], 0);
	fake_driver_ok(&w->guest);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0], 1);
	assert_int_equal(w->notes.kicks[1], 0); /* it has no rings */
}

static void kicked_before_a_reset(void **state)
{
	struct world *w = *state;

	boot(w);
	fake_kick(&w->queue[0]);
	status(w, 0);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0], 1);
}

/* ---- interrupts, and breaking */

static void interrupts(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 4, true };
	uint32_t generation = get(w, VIRTIO_MMIO_CONFIG_GENERATION);

	boot(w);
	w->guest.irqs = 0;
	fake_send(&w->queue[0], &buf, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest);
	assert_int_equal(w->guest.irqs, 1);
	assert_int_equal(get(w, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	w->guest.dev->interrupt(w->guest.dev->interrupt_arg, true);
	assert_int_equal(get(w, VIRTIO_MMIO_INTERRUPT_STATUS),
			 VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
	assert_int_not_equal(get(w, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	set(w, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	assert_int_equal(get(w, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	set(w, VIRTIO_MMIO_INTERRUPT_ACK, UINT32_MAX);
	assert_int_equal(get(w, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	fake_settle(&w->guest);
	assert_int_equal(w->guest.irqs, 2);
}

static void breaks_and_recovers(void **state)
{
	struct world *w = *state;
	const struct fake_buf bad = { UINT64_MAX, 4, true }, good = { w->data, 4, true };
	uint32_t id, len;

	boot(w);
	fake_send(&w->queue[0], &good, 1);
	fake_send(&w->queue[0], &bad, 1);
	fake_kick(&w->queue[0]);
	w->guest.irqs = 0;
	fake_settle(&w->guest);
	assert_false(w->guest.dev->running);
	assert_int_equal(get(w, VIRTIO_MMIO_STATUS), ACK | DRIVER | FEATS_OK | OK | BROKEN);
	assert_int_equal(get(w, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(w->guest.irqs, 1);
	fake_kick(&w->queue[0]);
	fake_kick(&w->queue[1]);
	fake_settle(&w->guest);
	assert_int_equal(w->notes.kicks[0], 2);
	assert_int_equal(w->notes.kicks[1], 1);
	assert_int_equal(w->notes.resets, 0); /* the driver's to ask for */
	assert_int_equal(status(w, ACK | DRIVER | FEATS_OK | OK | FAILED | BROKEN),
			 ACK | DRIVER | FEATS_OK | OK | BROKEN | FAILED);

	boot(w);
	assert_int_equal(w->notes.resets, 1);
	fake_send(&w->queue[0], &good, 1);
	fake_kick(&w->queue[0]);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->queue[0], &id, &len));
}

/* ---- making and unmaking */

static void freed_while_running(void **state)
{
	struct world *w = *state;

	boot(w);
	w->guest.mmio = cs_virtio_mmio_free(w->guest.mmio);
	assert_int_equal(w->notes.resets, 1);
	assert_int_equal(w->notes.frees, 1);
	fake_settle(&w->guest); /* no watch of it is left */
}

static void no_descriptors(void **state)
{
	struct world *w = *state;
	struct fake_notes notes = { 0 };
	struct cs_virtio_mmio *none = NULL;
	struct cs_virtio_mmio_spec spec = { .device = fake_note_taker(&notes),
					    .mem = &w->guest.mem,
					    .loop = w->guest.loop,
					    .irq_fd = w->guest.irq_fd };
	struct rlimit limit, full;
	struct cs_err err = { 0 };
	int next = dup(0);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	full = limit;
	full.rlim_cur = (rlim_t)next + 1; /* room for one eventfd, not for two */
	close(next);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &full), 0);
	assert_int_equal(cs_virtio_mmio_create(&spec, &none, &err), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_null(none);
	assert_int_equal(err.code, EMFILE);
	assert_non_null(strstr(err.text, "notes"));
	assert_int_equal(notes.frees, 1);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(identity),
		T(configuration),
		T(odd_accesses),
		T(in_order),
		T(out_of_order),
		T(features_refused),
		T(driver_fails),
		T(queue_numbers),
		T(queue_sizes),
		T(queue_in_bad_places),
		T(reconfigured_while_live),
		T(queue_taken_away),
		T(queue_prepared_again),
		T(kicks),
		T(kicked_too_early),
		T(kicked_before_a_reset),
		T(interrupts),
		T(breaks_and_recovers),
		T(freed_while_running),
		T(no_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
