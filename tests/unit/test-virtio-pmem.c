/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The root device: its configuration, and that every request comes back. */
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_pmem.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/virtio-devices.h"

#define GPA   UINT64_C(0x123456600000)
#define BYTES (UINT64_C(34) << 20)
#define SIZE  16

struct world {
	struct fake_guest guest;
	struct fake_queue q;
	uint64_t req, resp;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct cs_virtio *pmem;
	struct cs_err err;

	assert_non_null(w);
	fake_open(&w->guest);
	assert_int_equal(cs_virtio_pmem_create(GPA, BYTES, &pmem, &err), 0);
	fake_plug(&w->guest, pmem);
	fake_features(&w->guest, 0);
	fake_queue(&w->guest, 0, SIZE, &w->q);
	fake_driver_ok(&w->guest);
	w->req = fake_alloc(&w->guest, 64);
	w->resp = fake_alloc(&w->guest, 64);
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

/* Send; the answer, and the length used in *len. */
static uint32_t ask(struct world *w, const struct fake_buf *buf, unsigned n, uint32_t *len)
{
	uint32_t *resp = fake_at(&w->guest, w->resp), id;

	*resp = 0x77777777;
	fake_send(&w->q, buf, n);
	fake_kick(&w->q);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->q, &id, len));
	assert_true(w->guest.dev->running);
	return *resp;
}

static void configuration(void **state)
{
	struct world *w = *state;
	struct virtio_pmem_config config;

	for (unsigned i = 0; i < sizeof(config); i += 4) {
		uint32_t word = fake_read(&w->guest, VIRTIO_MMIO_CONFIG + i);

		memcpy((char *)&config + i, &word, sizeof(word));
	}
	assert_true(config.start == GPA);
	assert_true(config.size == BYTES);
	assert_int_equal(fake_read(&w->guest, VIRTIO_MMIO_DEVICE_ID), 27);
	assert_false(fake_offered(&w->guest) & 1u); /* F_SHMEM_REGION */
}

static void flush(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->req, 4, false }, { w->resp, 4, true } };
	uint32_t len;

	for (unsigned i = 0; i < 3 * SIZE; i++) {
		assert_int_equal(ask(w, buf, 2, &len), 0);
		assert_int_equal(len, 4);
	}
}

static void split_to_bytes(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[8];
	uint32_t len;

	for (unsigned i = 0; i < 4; i++) {
		buf[i] = (struct fake_buf){ w->req + i, 1, false };
		buf[4 + i] = (struct fake_buf){ w->resp + i, 1, true };
	}
	assert_int_equal(ask(w, buf, 8, &len), 0);
	assert_int_equal(len, 4);
}

static void bad_requests(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->req, 4, false }, { w->resp, 4, true } };
	const struct fake_buf shorter[] = { { w->req, 3, false }, { w->resp, 4, true } };
	const struct fake_buf larger[] = { { w->req, 64, false }, { w->resp, 64, true } };
	const struct fake_buf tight[] = { { w->req, 4, false }, { w->resp, 2, true } };
	uint32_t len;

	*(uint32_t *)fake_at(&w->guest, w->req) = 1; /* no such type */
	assert_int_equal(ask(w, buf, 2, &len), UINT32_MAX);
	assert_int_equal(len, 4);
	*(uint32_t *)fake_at(&w->guest, w->req) = 0;
	assert_int_equal(ask(w, shorter, 2, &len), UINT32_MAX);
	assert_int_equal(ask(w, larger, 2, &len), 0);
	assert_int_equal(len, 4);
	assert_int_equal(ask(w, tight, 2, &len), 0x77770000);
	assert_int_equal(len, 2);
	assert_int_equal(ask(w, buf, 1, &len), 0x77777777); /* no room for an answer */
	assert_int_equal(len, 0);
	assert_int_equal(ask(w, buf + 1, 1, &len), UINT32_MAX); /* no question */
}

static void bad_places(void **state)
{
	struct cs_virtio *none = NULL;
	struct cs_err err = { 0 };

	assert_int_equal(cs_virtio_pmem_create(GPA + 4096, BYTES, &none, &err), -EINVAL);
	assert_int_equal(cs_virtio_pmem_create(GPA, BYTES + 4096, &none, &err), -EINVAL);
	assert_int_equal(cs_virtio_pmem_create(GPA, 0, &none, &err), -EINVAL);
	assert_null(none);
	assert_string_not_equal(err.text, "");
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(configuration), T(flush), T(split_to_bytes), T(bad_requests), T(bad_places),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
