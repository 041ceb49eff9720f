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
	struct cs_admit admit = { .ram_bytes = 128 * MIB };

	assert_int_equal(cs_admit_each(&admit), CS_ADMIT_COLD_BYTES + CS_ADMIT_KERNEL_BYTES);
	admit.warm = true;
	assert_int_equal(cs_admit_each(&admit), CS_ADMIT_WARM_BYTES + CS_ADMIT_KERNEL_BYTES);
	/* What is measured counts, whatever it is... */
	admit.measured = 4;
	admit.private_bytes = 4 * 70 * MIB;
	assert_int_equal(cs_admit_each(&admit), 70 * MIB + CS_ADMIT_KERNEL_BYTES);
	admit.private_bytes = 0;
	assert_int_equal(cs_admit_each(&admit), CS_ADMIT_KERNEL_BYTES);
	/* ... but for what cannot be. */
	admit.private_bytes = UINT64_MAX;
	assert_int_equal(cs_admit_each(&admit), 128 * MIB + CS_ADMIT_KERNEL_BYTES);
	admit = (struct cs_admit){ .ram_bytes = 24 * MIB };
	assert_int_equal(cs_admit_each(&admit), 24 * MIB + CS_ADMIT_KERNEL_BYTES);
}

static void test_most(void **state)
{
	struct cs_admit admit = { .total_bytes = 20 * GIB,
				  .available_bytes = 9 * GIB,
				  .ram_bytes = 128 * MIB,
				  .warm = true };

	assert_int_equal(cs_admit_most(&admit),
			 8 * GIB / (CS_ADMIT_WARM_BYTES + CS_ADMIT_KERNEL_BYTES));
	admit.available_bytes = GIB; /* all that is left is the reserve */
	assert_int_equal(cs_admit_most(&admit), 0);
	admit.available_bytes = 0;
	assert_int_equal(cs_admit_most(&admit), 0);
}

static void test_surely(void **state)
{
	const struct cs_admit admit = { .total_bytes = 20 * GIB,
					.available_bytes = 9 * GIB,
					.ram_bytes = 1024 * MIB - CS_ADMIT_KERNEL_BYTES };
	const struct cs_admit none = { .ram_bytes = UINT64_MAX / 2 };

	assert_true(cs_admit_surely(&admit, 1));
	assert_true(cs_admit_surely(&admit, 8));
	assert_false(cs_admit_surely(&admit, 9));
	assert_false(cs_admit_surely(&admit, UINT64_MAX));
	assert_false(cs_admit_surely(&none, 1));
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
