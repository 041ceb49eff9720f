/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's address plan: around the device gap, the root behind, nothing overlaps. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/guest.h"
#include "store/base/num.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What must hold of any plan. */
static void check(const struct cs_ram *ram, uint64_t ram_bytes, uint64_t root_bytes)
{
	uint64_t end = 0, anon = 0, shared = 0;

	assert_in_range(ram->n, 1, CS_RAM_SEGS);
	for (size_t i = 0; i < ram->n; i++) {
		const struct cs_seg *seg = &ram->seg[i];

		assert_true(seg->bytes > 0);
		assert_null(seg->host);
		assert_true(seg->gpa >= end);
		end = seg->gpa + seg->bytes;
		assert_true(end <= CS_GAP_GPA || seg->gpa >= CS_GAP_END_GPA);
		assert_true(end <= UINT64_C(1) << 44);
		if (seg->backing == CS_BACKING_SHARED) {
			assert_int_equal(i, ram->n - 1);
			assert_int_equal(seg->gpa % CS_ROOT_ALIGN, 0);
			assert_int_equal(seg->bytes % CS_ROOT_GRAIN, 0);
			shared += seg->bytes;
		} else {
			assert_int_equal(seg->backing, CS_BACKING_ANON);
			assert_int_equal(seg->gpa % CS_PAGE_BYTES, 0);
			anon += seg->bytes;
		}
	}
	assert_int_equal(anon, ram_bytes);
	assert_int_equal(shared, cs_align_up(root_bytes, CS_ROOT_GRAIN));
}

static void test_all_sizes(void **state)
{
	static const uint64_t rams[] = { CS_RAM_MIN, 128 * CS_MIB,      CS_GAP_GPA - 4096,
					 CS_GAP_GPA, CS_GAP_GPA + 4096, 64 * CS_GIB,
					 4 * CS_TIB };
	static const uint64_t roots[] = { 0, 1, CS_ROOT_GRAIN, 300 * CS_MIB, 3 * CS_GIB, CS_TIB };
	struct cs_ram ram;

	for (size_t i = 0; i < COUNT(rams); i++) {
		for (size_t j = 0; j < COUNT(roots); j++) {
			assert_int_equal(cs_ram_plan(rams[i], roots[j], &ram, NULL), 0);
			check(&ram, rams[i], roots[j]);
		}
	}
}

static void test_root_is_low_when_it_fits(void **state)
{
	struct cs_ram ram;

	assert_int_equal(cs_ram_plan(128 * CS_MIB, 300 * CS_MIB, &ram, NULL), 0);
	assert_int_equal(ram.n, 2);
	assert_int_equal(ram.seg[1].gpa, 128 * CS_MIB);
	assert_int_equal(cs_ram_plan(129 * CS_MIB, 300 * CS_MIB, &ram, NULL), 0);
	assert_int_equal(ram.seg[1].gpa, 256 * CS_MIB);
	/* not between RAM and the gap: above 4 GiB */
	assert_int_equal(cs_ram_plan(2900 * CS_MIB, 300 * CS_MIB, &ram, NULL), 0);
	assert_int_equal(ram.seg[1].gpa, CS_GAP_END_GPA);
}

static void test_refused(void **state)
{
	static const struct {
		uint64_t ram, root;
		int r;
	} rows[] = {
		{ 0, 0, -EINVAL },
		{ 1024, 0, -EINVAL },
		{ CS_RAM_MIN - 4096, 0, -EINVAL },
		{ 128 * CS_MIB + 1, 0, -EINVAL },
		{ UINT64_C(1) << 44, 0, -ERANGE },
		{ UINT64_MAX - 4095, 0, -ERANGE },
		{ 128 * CS_MIB, UINT64_MAX, -ERANGE },
		{ 128 * CS_MIB, UINT64_C(1) << 44, -ERANGE },
		{ 8 * CS_TIB, 8 * CS_TIB, -ERANGE },
	};
	struct cs_ram ram = { .n = 77 };
	struct cs_err err;

	for (size_t i = 0; i < COUNT(rows); i++) {
		err = (struct cs_err){ .code = 0 };
		assert_int_equal(cs_ram_plan(rows[i].ram, rows[i].root, &ram, &err), rows[i].r);
		assert_int_equal(err.code, -rows[i].r);
		assert_true(err.text[0]);
		assert_int_equal(ram.n, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_sizes),
		cmocka_unit_test(test_root_is_low_when_it_fits),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
