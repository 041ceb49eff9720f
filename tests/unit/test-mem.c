/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The funnel of guest addresses: at, past and across the last byte of a segment, and sums that
 * wrap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/mem.h"

#define SEG  UINT64_C(0x2000)
#define HIGH (UINT64_MAX - SEG + 1) /* its last byte is the last address there is */

/* Two segments that touch, a hole, a shared one, one at the very end, one that is not mapped. */
struct world {
	char low[SEG], next[SEG], root[SEG], high[SEG];
	struct cs_mem mem;
};

static void setup(struct world *w)
{
	const struct cs_seg seg[] = {
		{ .gpa = 0, .bytes = SEG, .host = w->low, .backing = CS_BACKING_ANON },
		{ .gpa = SEG, .bytes = SEG, .host = w->next, .backing = CS_BACKING_COW },
		{ .gpa = 0x100000, .bytes = SEG, .host = w->root, .backing = CS_BACKING_SHARED },
		{ .gpa = 0x200000, .bytes = SEG, .host = NULL, .backing = CS_BACKING_ANON },
		{ .gpa = HIGH, .bytes = SEG, .host = w->high, .backing = CS_BACKING_DAXCOW },
	};

	memset(w, 0, sizeof(*w));
	memcpy(w->mem.ram.seg, seg, sizeof(seg));
	w->mem.ram.n = sizeof(seg) / sizeof(seg[0]);
}

static void at_edges(void **state)
{
	struct world w;

	setup(&w);
	assert_ptr_equal(cs_mem_at(&w.mem, 0, 1, true), w.low);
	assert_ptr_equal(cs_mem_at(&w.mem, 0, SEG, true), w.low);
	assert_ptr_equal(cs_mem_at(&w.mem, SEG - 1, 1, false), w.low + SEG - 1);
	assert_ptr_equal(cs_mem_at(&w.mem, SEG, SEG, true), w.next);
	assert_null(cs_mem_at(&w.mem, 0, SEG + 1, false));     /* over the seam */
	assert_null(cs_mem_at(&w.mem, SEG - 1, 2, true));      /* over the seam */
	assert_null(cs_mem_at(&w.mem, 2 * SEG - 1, 2, false)); /* into the hole */
	assert_null(cs_mem_at(&w.mem, 2 * SEG, 1, false));     /* the hole */
	assert_null(cs_mem_at(&w.mem, 0, 0, false));           /* nothing */
	assert_null(cs_mem_at(&w.mem, 0x200000, 1, false));    /* not mapped */
}

static void at_wraps(void **state)
{
	struct world w;

	setup(&w);
	assert_ptr_equal(cs_mem_at(&w.mem, UINT64_MAX, 1, true), w.high + SEG - 1);
	assert_ptr_equal(cs_mem_at(&w.mem, HIGH, SEG, true), w.high);
	assert_null(cs_mem_at(&w.mem, UINT64_MAX, 2, true));
	assert_null(cs_mem_at(&w.mem, HIGH, SEG + 1, true));
	assert_null(cs_mem_at(&w.mem, 1, UINT64_MAX, false));
	assert_null(cs_mem_at(&w.mem, SEG, UINT64_MAX - SEG + 1, false));
	assert_null(cs_mem_at(&w.mem, HIGH, UINT64_MAX, false));
}

static void at_shared(void **state)
{
	struct world w;
	uint64_t part;

	setup(&w);
	assert_null(cs_mem_at(&w.mem, 0x100000, 1, true));
	assert_null(cs_mem_at(&w.mem, 0x100000, 1, false));
	assert_null(cs_mem_span(&w.mem, 0x100000, 1, true, &part));
	assert_ptr_equal(cs_mem_span(&w.mem, 0x100000, 2 * SEG, false, &part), w.root);
	assert_true(part == SEG);
}

static void spans(void **state)
{
	struct world w;
	uint64_t part = 77;

	setup(&w);
	assert_ptr_equal(cs_mem_span(&w.mem, SEG - 3, 10, true, &part), w.low + SEG - 3);
	assert_true(part == 3);
	assert_ptr_equal(cs_mem_span(&w.mem, SEG, 7, true, &part), w.next);
	assert_true(part == 7);
	assert_ptr_equal(cs_mem_span(&w.mem, UINT64_MAX, UINT64_MAX, true, &part),
			 w.high + SEG - 1);
	assert_true(part == 1);
	part = 77;
	assert_null(cs_mem_span(&w.mem, 2 * SEG, 1, false, &part));
	assert_null(cs_mem_span(&w.mem, 0, 0, false, &part));
	assert_null(cs_mem_span(&w.mem, 0x200000, 1, false, &part));
	assert_true(part == 77);
}

static void copies(void **state)
{
	struct world w;
	char buf[16] = "across the seam";

	setup(&w);
	assert_true(cs_mem_write(&w.mem, SEG - 5, buf, sizeof(buf)));
	assert_memory_equal(w.low + SEG - 5, "acros", 5);
	assert_memory_equal(w.next, "s the seam", 11);
	memset(buf, 0, sizeof(buf));
	assert_true(cs_mem_read(&w.mem, SEG - 5, buf, sizeof(buf)));
	assert_string_equal(buf, "across the seam");
	assert_true(cs_mem_write(&w.mem, 2 * SEG, buf, 0)); /* nothing is nowhere */
}

static void copies_all_or_nothing(void **state)
{
	struct world w;
	char buf[16];

	setup(&w);
	memset(buf, 'x', sizeof(buf));
	assert_false(cs_mem_write(&w.mem, 2 * SEG - 8, buf, sizeof(buf)));
	assert_int_equal(w.next[SEG - 8], 0);
	assert_false(cs_mem_read(&w.mem, 2 * SEG - 8, buf, sizeof(buf)));
	assert_int_equal(buf[0], 'x');
	assert_false(cs_mem_write(&w.mem, 0x100000, buf, 1));
	assert_false(cs_mem_read(&w.mem, 0x100000, buf, 1));
	/* Behind the last address comes the first, which is RAM too: still not a range. */
	assert_false(cs_mem_write(&w.mem, UINT64_MAX - 3, buf, 8));
	assert_int_equal(w.high[SEG - 1], 0);
	assert_int_equal(w.low[0], 0);
	assert_true(cs_mem_write(&w.mem, UINT64_MAX - 3, buf, 4));
	assert_int_equal(w.high[SEG - 1], 'x');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_edges),  cmocka_unit_test(at_wraps),
		cmocka_unit_test(at_shared), cmocka_unit_test(spans),
		cmocka_unit_test(copies),    cmocka_unit_test(copies_all_or_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
