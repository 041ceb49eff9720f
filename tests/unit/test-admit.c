/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many guests a host is said to have memory for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ksm/admit.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void test_reserve(void **state)
{
	assert_int_equal(cs_admit_reserve(0), 256 * MIB);
	assert_int_equal(cs_admit_reserve(4 * GIB), 256 * MIB);
	assert_int_equal(cs_admit_reserve(20 * GIB), 1 * GIB);
	assert_int_equal(cs_admit_reserve(UINT64_MAX), 2 * GIB);
}

static void test_each(void **state)
{
	struct cs_admit admit = { .kind = { .ram_bytes = 128 * MIB, .vcpus = 1 } };

	/* What a guest costs is said in one place. */
	assert_int_equal(cs_admit_each(&admit), cs_cost_of(&admit.kind, NULL).bytes);
	assert_true(cs_admit_each(&admit) > CS_COST_COLD_BYTES);
	admit.kind.warm = true;
	assert_true(cs_admit_each(&admit) > CS_COST_WARM_BYTES);
	assert_true(cs_admit_each(&admit) < CS_COST_COLD_BYTES);
	admit.seen = (struct cs_cost_seen){ .guests = 4, .private_bytes = 4 * 70 * MIB };
	assert_int_equal(cs_admit_each(&admit), cs_cost_of(&admit.kind, &admit.seen).bytes);
	assert_true(cs_admit_each(&admit) > 70 * MIB && cs_admit_each(&admit) < 72 * MIB);
}

static void test_most(void **state)
{
	struct cs_admit admit = { .total_bytes = 20 * GIB,
				  .available_bytes = 9 * GIB,
				  .kind = { .ram_bytes = 128 * MIB, .vcpus = 1, .warm = true } };

	assert_int_equal(cs_admit_most(&admit), 8 * GIB / cs_admit_each(&admit));
	admit.available_bytes = GIB; /* all that is left is the reserve */
	assert_int_equal(cs_admit_most(&admit), 0);
	admit.available_bytes = 0;
	assert_int_equal(cs_admit_most(&admit), 0);
}

static void test_surely(void **state)
{
	struct cs_admit admit = { .total_bytes = 20 * GIB,
				  .available_bytes = 9 * GIB,
				  .kind = { .ram_bytes = 1000 * MIB, .vcpus = 1 } };
	const struct cs_admit none = { .kind = { .ram_bytes = UINT64_MAX / 2 } };

	assert_true(cs_admit_surely(&admit, 1));
	assert_true(cs_admit_surely(&admit, 8));
	assert_false(cs_admit_surely(&admit, 9));
	assert_false(cs_admit_surely(&admit, UINT64_MAX));
	assert_false(cs_admit_surely(&none, 1));
	/* Not eight whose memory alone is all there is. */
	admit.kind.ram_bytes = 1024 * MIB;
	assert_false(cs_admit_surely(&admit, 8));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reserve),
		cmocka_unit_test(test_each),
		cmocka_unit_test(test_most),
		cmocka_unit_test(test_surely),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
