/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which segments are enrolled, with a madvise() that keeps what it is told. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
		assert_int_equal(cs_ksm_enroll(&ram, on, -1, &bytes, NULL), 0);
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
	assert_int_equal(cs_ksm_enroll(&ram, true, -1, &bytes, &err), -ENOMEM);
	assert_int_equal(err.code, ENOMEM);
	assert_int_equal(bytes, 77);
	assert_int_equal(told.n, 4);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(told.call[2 + i].advice, MADV_UNMERGEABLE);
		assert_ptr_equal(told.call[2 + i].at, &memory[i]);
	}
}

static void test_no_ksm(void **state)
{
	struct cs_err err = { 0 };

	told.fail_at = 1;
	told.code = EINVAL;
	assert_int_equal(cs_ksm_enroll(&ram, true, -1, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "CONFIG_KSM"));
}

static void assert_told(int i, size_t of, uint64_t first, uint64_t pages, int advice)
{
	assert_in_range(i, 0, told.n - 1);
	assert_ptr_equal(told.call[i].at, &memory[of] + first * CS_PAGE_BYTES);
	assert_int_equal(told.call[i].bytes, pages * CS_PAGE_BYTES);
	assert_int_equal(told.call[i].advice, advice);
}

/* Ranges count through all segments but the SHARED one: 1, 2, 4 and 8 pages. Of what may be merged
 * they are let in, and what lies between is taken out. */
static void test_ranges(void **state)
{
	static const struct cs_page_range good[] = { { 0, 1 }, { 2, 3 }, { 14, 1 } };
	const int fd = memfd_create("ranges", MFD_CLOEXEC);
	uint64_t bytes = 77;

	assert_int_equal(cs_ksm_enroll(&ram, true, fd, &bytes, NULL), 0);
	assert_int_equal(bytes, 0); /* none of it */
	assert_int_equal(told.n, 2);
	assert_told(0, 0, 0, 1, MADV_UNMERGEABLE);
	assert_told(1, 1, 0, 2, MADV_UNMERGEABLE);
	forget(NULL);
	assert_int_equal(pwrite(fd, good, sizeof(good), 0), sizeof(good));
	assert_int_equal(cs_ksm_enroll(&ram, true, fd, &bytes, NULL), 0);
	assert_int_equal(told.n, 3);
	assert_int_equal(bytes, 4096 + 4096);
	assert_told(0, 0, 0, 1, MADV_MERGEABLE);
	assert_told(1, 1, 0, 1, MADV_UNMERGEABLE);
	assert_told(2, 1, 1, 1, MADV_MERGEABLE);
	/* out it goes as a whole, whatever comes along */
	forget(NULL);
	assert_int_equal(cs_ksm_enroll(&ram, false, fd, &bytes, NULL), 0);
	assert_int_equal(told.n, 2);
	assert_int_equal(bytes, 4096 + 8192);
	close(fd);
}

/* A file that is none leaves nothing enrolled. */
static void test_bad_ranges(void **state)
{
	static const struct {
		struct cs_page_range range[2];
		size_t bytes;
	} bad[] = {
		{ { { 0, 1 }, { 14, 2 } }, 16 },               /* past the end */
		{ { { UINT32_MAX, UINT32_MAX } }, 8 },         /* far */
		{ { { 1, 2 }, { 2, 1 } }, 16 },                /* over one another */
		{ { { 2, 1 }, { 0, 1 } }, 16 },                /* not ascending */
		{ { { 0, 1 } }, 7 },                           /* not whole */
		{ { { 0, 0 } }, (CS_KSM_RANGES_MAX + 1) * 8 }, /* too many */
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const int fd = memfd_create("ranges", MFD_CLOEXEC);
		struct cs_err err = { 0 };

		forget(NULL);
		assert_int_equal(pwrite(fd, bad[i].range, sizeof(bad[i].range), 0),
				 sizeof(bad[i].range));
		assert_int_equal(ftruncate(fd, (off_t)bad[i].bytes), 0);
		assert_int_equal(cs_ksm_enroll(&ram, true, fd, NULL, &err), -EINVAL);
		assert_non_null(strstr(err.text, "not a file of ranges"));
		for (int j = 0; j < told.n; j++)
			assert_int_equal(told.call[j].advice, MADV_UNMERGEABLE);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_by_backing, forget),
		cmocka_unit_test_setup(test_taken_back, forget),
		cmocka_unit_test_setup(test_no_ksm, forget),
		cmocka_unit_test_setup(test_ranges, forget),
		cmocka_unit_test_setup(test_bad_ranges, forget),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
