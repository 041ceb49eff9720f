/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which segments are enrolled, with a madvise() that keeps what it is told. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "ksm/enroll.h"

int __wrap_madvise(void *at, size_t bytes, int advice);

static struct {
	struct {
		void *at;
		size_t bytes;
		int advice;
	} call[16];
	int n, fail_at, code;
} told;

int __wrap_madvise(void *at, size_t bytes, int advice)
{
	assert_true(told.n < 16);
	told.call[told.n].at = at;
	told.call[told.n].bytes = bytes;
	told.call[told.n].advice = advice;
	if (++told.n == told.fail_at) {
		errno = told.code;
		return -1;
	}
	return 0;
}

static char memory[4];

/* One of each kind, and one that is not mapped. */
static const struct cs_ram ram = {
	.n = 5,
	.seg = { { .bytes = 4096, .host = &memory[0], .backing = CS_BACKING_ANON },
		 { .bytes = 8192, .host = &memory[1], .backing = CS_BACKING_COW },
		 { .bytes = 16384, .host = &memory[2], .backing = CS_BACKING_DAXCOW },
		 { .bytes = 32768, .host = NULL, .backing = CS_BACKING_ANON },
		 { .bytes = 65536, .host = &memory[3], .backing = CS_BACKING_SHARED } },
};

static int forget(void **state)
{
	memset(&told, 0, sizeof(told));
	return 0;
}

static void test_by_backing(void **state)
{
	uint64_t bytes = 0;

	for (int on = 1; on >= 0; on--) {
		forget(NULL);
		assert_int_equal(cs_ksm_enroll(&ram, on, &bytes, NULL), 0);
		assert_int_equal(bytes, 4096 + 8192);
		assert_int_equal(told.n, 2);
		for (int i = 0; i < 2; i++) {
			assert_ptr_equal(told.call[i].at, &memory[i]);
			assert_int_equal(told.call[i].bytes, ram.seg[i].bytes);
			assert_int_equal(told.call[i].advice,
					 on ? MADV_MERGEABLE : MADV_UNMERGEABLE);
		}
	}
}

static void test_taken_back(void **state)
{
	struct cs_err err = { 0 };
	uint64_t bytes = 77;

	told.fail_at = 2;
	told.code = ENOMEM;
	assert_int_equal(cs_ksm_enroll(&ram, true, &bytes, &err), -ENOMEM);
	assert_int_equal(err.code, ENOMEM);
	assert_int_equal(bytes, 77);
	assert_int_equal(told.n, 4);
	assert_int_equal(told.call[3].advice, MADV_UNMERGEABLE);
	assert_ptr_equal(told.call[3].at, &memory[0]);
}

static void test_no_ksm(void **state)
{
	struct cs_err err = { 0 };

	told.fail_at = 1;
	told.code = EINVAL;
	assert_int_equal(cs_ksm_enroll(&ram, true, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "CONFIG_KSM"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_by_backing, forget),
		cmocka_unit_test_setup(test_taken_back, forget),
		cmocka_unit_test_setup(test_no_ksm, forget),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
