/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which stretches of guests are worth merging, of sketches that are made up. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ksm/alike.h"

#define ROOM 8

static uint32_t next_hash = 0x10000000;

/* (n) pages from (first) on, with what nobody else has. */
static size_t put_own(struct cs_sketch_page *page, size_t at, uint32_t first, size_t n)
{
	for (size_t i = 0; i < n; i++)
		page[at++] = (struct cs_sketch_page){ first + (uint32_t)i, next_hash += 64 };
	return at;
}

/* The same from (what) on, in every guest. */
static size_t put_same(struct cs_sketch_page *page, size_t at, uint32_t first, size_t n,
		       uint32_t what)
{
	for (size_t i = 0; i < n; i++)
		page[at++] =
			(struct cs_sketch_page){ first + (uint32_t)i, what + 64 * (uint32_t)i };
	return at;
}

static struct cs_alike *of(const struct cs_sketch_page *a, size_t n, const struct cs_sketch_page *b,
			   size_t m)
{
	struct cs_alike *alike;

	assert_int_equal(cs_alike_create(UINT64_C(0x9e3779b97f4a7c15), &alike), 0);
	assert_int_equal(cs_alike_add(alike, a, n), 0);
	assert_int_equal(cs_alike_add(alike, b, m), 0);
	assert_int_equal(cs_alike_compare(alike), 0);
	return alike;
}

static void assert_range(const struct cs_page_range *range, uint32_t first, uint32_t pages)
{
	assert_int_equal(range->first, first);
	assert_int_equal(range->pages, pages);
}

static void test_ranges(void **state)
{
	struct cs_sketch_page a[200], b[200];
	struct cs_page_range range[ROOM];
	struct cs_alike *alike;
	size_t n = 0, m = 0, ranges;
	uint64_t pages;

	/* a few pages that are like none are taken along, four in a row part */
	n = put_own(a, n, 0, 5);
	n = put_same(a, n, 5, 10, 0);
	n = put_own(a, n, 15, 3);
	n = put_same(a, n, 18, 1, 0x4000);
	n = put_own(a, n, 19, 4);
	n = put_same(a, n, 23, 1, 0x4040);
	n = put_own(a, n, 24, 30);
	m = put_same(b, m, 1000, 10, 0); /* elsewhere in the other */
	m = put_same(b, m, 2000, 2, 0x4000);
	alike = of(a, n, b, m);
	cs_alike_ranges(alike, 0, range, ROOM, &ranges, &pages);
	assert_int_equal(ranges, 2);
	assert_range(&range[0], 5, 14);
	assert_range(&range[1], 23, 1);
	assert_int_equal(pages, 15);
	assert_int_equal(cs_alike_unmerged(alike, 0), 12);
	cs_alike_ranges(alike, 1, range, ROOM, &ranges, &pages);
	assert_int_equal(ranges, 1); /* nothing of its own lies between */
	assert_range(&range[0], 1000, 1002);
	assert_int_equal(pages, 12);
	assert_int_equal(cs_alike_unmerged(alike, 1), 12);
	cs_alike_free(alike);
}

/* What a guest has not written parts two ranges when it is long. */
static void test_gap(void **state)
{
	struct cs_sketch_page a[100], b[100];
	struct cs_page_range range[ROOM];
	struct cs_alike *alike;
	size_t n = 0, m = 0, ranges;
	uint64_t pages;

	n = put_same(a, n, 0, 4, 0);
	n = put_same(a, n, 1000, 4, 0x1000);
	n = put_same(a, n, 2100, 4, 0x2000);
	m = put_same(b, m, 0, 4, 0);
	m = put_same(b, m, 4, 4, 0x1000);
	m = put_same(b, m, 8, 4, 0x2000);
	alike = of(a, n, b, m);
	cs_alike_ranges(alike, 0, range, ROOM, &ranges, &pages);
	assert_int_equal(ranges, 2);
	assert_range(&range[0], 0, 1004);
	assert_range(&range[1], 2100, 4);
	assert_int_equal(pages, 12);
	cs_alike_free(alike);
}

/* More ranges than there is room for: more that is like none is taken along. */
static void test_room(void **state)
{
	struct cs_sketch_page a[700], b[32];
	struct cs_page_range range[ROOM];
	struct cs_alike *alike;
	size_t n = 0, m = 0, ranges;
	uint64_t pages;

	for (uint32_t i = 0; i < 20; i++) {
		n = put_same(a, n, i * 32, 16, 0);
		n = put_own(a, n, i * 32 + 16, 16);
	}
	n = put_own(a, n, 640, 50);
	n = put_same(a, n, 690, 1, 0);
	m = put_same(b, m, 0, 16, 0);
	alike = of(a, n, b, m);
	cs_alike_ranges(alike, 0, range, ROOM, &ranges, &pages);
	assert_int_equal(ranges, 2);
	assert_range(&range[0], 0, 624);
	assert_range(&range[1], 690, 1);
	assert_int_equal(pages, 625);
	cs_alike_ranges(alike, 0, range, 1, &ranges, &pages);
	assert_int_equal(ranges, 1);
	assert_range(&range[0], 0, 691);
	assert_int_equal(pages, 691);
	cs_alike_free(alike);
}

/* What is merged is found, and is nothing to be had. */
static void test_merged(void **state)
{
	struct cs_sketch_page a[10], b[10];
	struct cs_page_range range[ROOM];
	struct cs_alike *alike;
	size_t n, m, ranges;
	uint64_t pages;

	n = put_same(a, 0, 3, 10, 0);
	m = put_same(b, 0, 0, 10, 0);
	for (size_t i = 0; i < 6; i++)
		a[i].hash |= CS_SKETCH_MERGED;
	alike = of(a, n, b, m);
	cs_alike_ranges(alike, 0, range, ROOM, &ranges, &pages);
	assert_int_equal(ranges, 1);
	assert_int_equal(pages, 10);
	assert_int_equal(cs_alike_unmerged(alike, 0), 4);
	assert_int_equal(cs_alike_unmerged(alike, 1), 10);
	cs_alike_free(alike);
}

static void test_nothing(void **state)
{
	const struct cs_sketch_page twice[] = { { 5, 1 }, { 5, 2 } },
				    back[] = { { 5, 1 }, { 4, 2 } };
	struct cs_sketch_page zero[3] = { { 1, 0 }, { 2, 3 }, { 9, 0x80000000 } };
	struct cs_page_range range[ROOM];
	struct cs_alike *alike;
	size_t ranges = 7;
	uint64_t pages = 7;

	assert_int_equal(cs_alike_create(UINT64_C(0x9e3779b97f4a7c15), &alike), 0);
	assert_int_equal(cs_alike_add(alike, twice, 2), -EBADMSG);
	assert_int_equal(cs_alike_add(alike, back, 2), -EBADMSG);
	assert_int_equal(cs_alike_add(alike, NULL, 0), 0);
	assert_int_equal(cs_alike_add(alike, zero, 1), 0);
	assert_int_equal(cs_alike_compare(alike), 0);
	for (size_t guest = 0; guest < 2; guest++) {
		cs_alike_ranges(alike, guest, range, ROOM, &ranges, &pages);
		assert_int_equal(ranges, 0);
		assert_int_equal(pages, 0);
	}
	cs_alike_free(alike);
	/* within one guest, too; a hash may be anything */
	zero[1].hash = 0;
	alike = of(zero, 3, zero, 0);
	cs_alike_ranges(alike, 0, range, ROOM, &ranges, &pages);
	assert_int_equal(ranges, 1);
	assert_range(&range[0], 1, 2);
	assert_int_equal(pages, 2);
	cs_alike_free(alike);
}

/* Many: the table has room for all of them, and what is alike is found. */
static void test_many(void **state)
{
	static struct cs_sketch_page page[3000];
	struct cs_page_range range[ROOM];
	struct cs_alike *alike;
	size_t n, ranges;
	uint64_t pages;

	assert_int_equal(cs_alike_create(UINT64_C(0x9e3779b97f4a7c15), &alike), 0);
	for (size_t guest = 0; guest < 20; guest++) {
		n = put_own(page, 0, 0, 1600);
		n = put_same(page, n, 1600, 1400, 0);
		assert_int_equal(cs_alike_add(alike, page, n), 0);
	}
	assert_int_equal(cs_alike_compare(alike), 0);
	for (size_t guest = 0; guest < 20; guest++) {
		cs_alike_ranges(alike, guest, range, ROOM, &ranges, &pages);
		assert_int_equal(ranges, 1);
		assert_range(&range[0], 1600, 1400);
	}
	cs_alike_free(alike);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),  cmocka_unit_test(test_gap),
		cmocka_unit_test(test_room),    cmocka_unit_test(test_merged),
		cmocka_unit_test(test_nothing), cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
