/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entropy: where it goes, how much of it, and how fast. The clock is the test's (wrapped at link
 * time), so is getrandom(). */
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/virtio-devices.h"

#define SIZE     8
#define BURST    65536u
#define ALL_MINE 0xaa

/* The world outside, played. */
static struct outside {
	uint64_t drawn;     /* bytes of entropy */
	int64_t frozen_ms;  /* what all clocks say */
	int error;          /* getrandom() fails with it */
	unsigned at_most;   /* bytes a call, 0: no limit */
	uint64_t timer_set; /* ms a timer was set to, the last time */
	unsigned timers;    /* times one was armed */
} outside;

ssize_t __wrap_getrandom(void *buf, size_t bytes, unsigned flags);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
void __real_cs_timer_set(struct cs_timer *timer, uint64_t ms);
void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms);

ssize_t __wrap_getrandom(void *buf, size_t bytes, unsigned flags)
{
	if (outside.error) {
		errno = outside.error;
		return -1;
	}
	assert_true(flags & GRND_NONBLOCK);
	if (outside.at_most && bytes > outside.at_most)
		bytes = outside.at_most;
	memset(buf, ALL_MINE, bytes);
	outside.drawn += bytes;
	return (ssize_t)bytes;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	now->tv_sec = outside.frozen_ms / 1000;
	now->tv_nsec = outside.frozen_ms % 1000 * 1000000;
	return 0;
}

void __wrap_cs_timer_set(struct cs_timer *timer, uint64_t ms)
{
	outside.timers += ms > 0;
	outside.timer_set = ms;
	__real_cs_timer_set(timer, ms);
}

struct world {
	struct fake_guest guest;
	struct fake_queue q;
	uint64_t data;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct cs_virtio *rng;
	struct timespec now;
	struct cs_err err;

	assert_non_null(w);
	/* It stands at the real time, as timerfds know no other. */
	__real_clock_gettime(CLOCK_MONOTONIC, &now);
	outside = (struct outside){ .frozen_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000 };
	fake_open(&w->guest);
	assert_int_equal(cs_virtio_rng_create(&rng, &err), 0);
	fake_plug(&w->guest, rng);
	fake_features(&w->guest, 0);
	fake_queue(&w->guest, 0, SIZE, &w->q);
	fake_driver_ok(&w->guest);
	w->data = fake_alloc(&w->guest, 16384);
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

static uint32_t ask(struct world *w, const struct fake_buf *buf, unsigned n)
{
	uint32_t id, len;

	fake_send(&w->q, buf, n);
	fake_kick(&w->q);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->q, &id, &len));
	return len;
}

static void fills(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 64, true };
	const unsigned char *data = fake_at(&w->guest, w->data);

	assert_int_equal(ask(w, &buf, 1), 64);
	assert_int_equal(data[0], ALL_MINE);
	assert_int_equal(data[63], ALL_MINE);
	assert_int_equal(data[64], 0);
	assert_int_equal(outside.timers, 0); /* nobody is woken for it */
}

static void bounded(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->data, 100, false },
					{ w->data, 1, true },
					{ w->data + 1, 16383, true } };

	assert_int_equal(ask(w, buf, 3), 4096);
	assert_int_equal(ask(w, buf, 1), 0); /* nothing to write to */
	assert_int_equal(outside.drawn, 4096);
	outside.at_most = 10;
	assert_int_equal(ask(w, buf + 2, 1), 10);
}

/* A guest that wants all: a burst, then nothing until the clock has moved. */
static void rate(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 4096, true };
	unsigned answers = 0;
	uint32_t id, len;

	for (unsigned i = 0; i < 64; i++) {
		if ((uint16_t)(w->q.avail - w->q.used) < SIZE)
			fake_send(&w->q, &buf, 1);
		fake_kick(&w->q);
		fake_settle(&w->guest);
		while (fake_take(&w->q, &id, &len))
			answers++;
	}
	assert_int_equal(outside.drawn, BURST);
	assert_int_equal(answers, BURST / 4096);
	assert_true(outside.timer_set > 0); /* the rest will be served without a kick */

	outside.frozen_ms += (int64_t)outside.timer_set;
	outside.drawn = 0;
	fake_wait(&w->q, SIZE); /* by the real timer */
	assert_int_equal(outside.drawn, SIZE * 4096);
	outside.timers = 0;
	fake_settle(&w->guest);
	assert_int_equal(outside.timers, 0); /* satisfied: nothing ticks */
}

static void no_entropy_yet(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 64, true };
	uint32_t id, len;

	outside.error = EAGAIN;
	fake_send(&w->q, &buf, 1);
	fake_kick(&w->q);
	fake_settle(&w->guest);
	assert_false(fake_take(&w->q, &id, &len));
	outside.error = 0;
	outside.frozen_ms += (int64_t)outside.timer_set;
	fake_wait(&w->q, 1);
	assert_true(fake_take(&w->q, &id, &len));
	assert_int_equal(len, 64);
}

static void reset_while_starved(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 64, true };

	outside.error = EAGAIN;
	fake_send(&w->q, &buf, 1);
	fake_kick(&w->q);
	fake_settle(&w->guest);
	assert_true(outside.timer_set > 0);
	fake_write(&w->guest, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(outside.timer_set, 0); /* disarmed */
	fake_settle(&w->guest);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(fills), T(bounded), T(rate), T(no_entropy_yet), T(reset_while_starved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
