/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many guests a host is said to carry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ksm/admit.h"
#include "ksm/plan.h"

#define MIB      (UINT64_C(1) << 20)
#define GIB      (UINT64_C(1) << 30)
#define N(array) (sizeof(array) / sizeof((array)[0]))

static void test_room(void **state)
{
	static const struct {
		struct cs_plan_host host;
		uint64_t page_structs, reserve, room;
	} rows[] = {
		{ { 128 * GIB, true, 1 * GIB, 512 * MIB },
		  2 * GIB,
		  2 * GIB,
		  123 * GIB - 512 * MIB },
		{ { 128 * GIB, false, 1 * GIB, 512 * MIB }, 0, 2 * GIB, 125 * GIB - 512 * MIB },
		{ { 4 * GIB, false, 0, 0 }, 0, 256 * MIB, 4 * GIB - 256 * MIB },
		/* a twentieth of what is left after the page structures */
		{ { 20 * GIB, false, 0, 0 }, 0, 1 * GIB, 19 * GIB },
		/* hosts on which nothing is left */
		{ { 4 * GIB, false, 4 * GIB, 0 }, 0, 256 * MIB, 0 },
		{ { 4 * GIB, false, 0, 5 * GIB }, 0, 256 * MIB, 0 },
		{ { 100 * MIB, false, 0, 0 }, 0, 256 * MIB, 0 },
		{ { 0, true, UINT64_MAX, UINT64_MAX }, 0, 256 * MIB, 0 },
		{ { UINT64_MAX, false, 0, 0 }, 0, 2 * GIB, UINT64_MAX - 2 * GIB },
	};

	for (size_t i = 0; i < N(rows); i++) {
		const struct cs_plan plan = cs_plan_of(&rows[i].host);

		assert_int_equal(plan.page_struct_bytes, rows[i].page_structs);
		assert_int_equal(plan.reserve_bytes, rows[i].reserve);
		assert_int_equal(plan.own_bytes, rows[i].host.own_bytes);
		assert_int_equal(plan.shared_bytes, rows[i].host.shared_bytes);
		assert_int_equal(plan.room_bytes, rows[i].room);
		if (plan.room_bytes)
			assert_int_equal(plan.page_struct_bytes + plan.reserve_bytes +
						 plan.own_bytes + plan.shared_bytes +
						 plan.room_bytes,
					 rows[i].host.memory_bytes);
	}
}

static void test_guests(void **state)
{
	static const struct {
		uint64_t room, each, guests;
	} rows[] = {
		{ 100, 10, 10 },
		{ 109, 10, 10 },
		{ 9, 10, 0 },
		{ 0, 1, 0 },
	};

	for (size_t i = 0; i < N(rows); i++) {
		const struct cs_plan plan = { .room_bytes = rows[i].room };
		const struct cs_cost cost = { .bytes = rows[i].each };

		assert_int_equal(cs_plan_guests(&plan, &cost), rows[i].guests);
	}
}

/* spawn refuses exactly the guests that the plan has no room for. */
static void test_as_admitted(void **state)
{
	const struct cs_cost_kind kind = { 128 * MIB, 256 * MIB, 1, true, true };
	const struct cs_cost_seen seen = { .guests = 3, .private_bytes = 5 * MIB };
	const struct cs_cost cost = cs_cost_of(&kind, &seen);

	for (uint64_t total = GIB; total < 512 * GIB; total += total / 3) {
		const uint64_t own = total / 10;
		const struct cs_plan_host host = { .memory_bytes = total, .own_bytes = own };
		const struct cs_plan plan = cs_plan_of(&host);
		const struct cs_admit admit = { .total_bytes = total,
						.available_bytes = total - own,
						.kind = kind,
						.seen = seen };

		assert_int_equal(cs_plan_guests(&plan, &cost), cs_admit_most(&admit));
	}
}

static void test_own(void **state)
{
	assert_int_equal(cs_plan_own(24 * GIB, 20 * GIB, 3 * GIB), GIB);
	assert_int_equal(cs_plan_own(24 * GIB, 20 * GIB, 4 * GIB), 0);
	assert_int_equal(cs_plan_own(24 * GIB, 20 * GIB, 5 * GIB), 0);
	assert_int_equal(cs_plan_own(20 * GIB, 24 * GIB, 0), 0);
}

static void test_clear(void **state)
{
	assert_int_equal(cs_plan_clear(128 * GIB), 3500);
	assert_int_equal(cs_plan_clear(64 * GIB), 1750);
	assert_int_equal(cs_plan_clear(384 * GIB), 10500);
	assert_int_equal(cs_plan_clear(24 * GIB), 656);
	assert_int_equal(cs_plan_clear(0), 0);
	assert_true(cs_plan_clear(UINT64_MAX) > cs_plan_clear(UINT64_MAX / 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_room),        cmocka_unit_test(test_guests),
		cmocka_unit_test(test_as_admitted), cmocka_unit_test(test_own),
		cmocka_unit_test(test_clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
