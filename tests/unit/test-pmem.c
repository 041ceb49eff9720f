/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What persistent memory there is, by libraries that are played: all modes, what vanishes, what is
 * busy, what answers with errors. */
#include "store/pmem.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/pmem.h"

#define GIB (1ULL << 30)

static int join(const struct cs_pmem *pmem, void *arg)
{
	static const char kinds[] = "rnd";
	char *text = arg;

	snprintf(text + strlen(text), 1000 - strlen(text), "%c:%s:%s:%s:%llu:%llu:%d:%s%s\n",
		 kinds[pmem->kind], pmem->name, pmem->mode ? pmem->mode : "-", pmem->device,
		 (unsigned long long)(pmem->bytes >> 20), (unsigned long long)(pmem->align >> 10),
		 pmem->numa_node, pmem->persistence, pmem->enabled ? "" : ":off");
	return 0;
}

static void check(struct cs_fake_pmem *fake, const char *wanted)
{
	struct cs_err err = { 0 };
	char text[1000] = "";

	cs_fake_pmem_set(fake);
	assert_int_equal(cs_pmem_each(join, text, &err), 0);
	assert_string_equal(text, wanted);
	assert_int_equal(fake->contexts, 0);
}

static void test_modes(void **state)
{
	struct cs_fake_pmem fake = {
		.regions = 2,
		.namespaces = 6,
		.daxes = 3,
		.region_bytes = 8 * GIB,
		.region_free = GIB,
		.persistence = PERSISTENCE_MEM_CTRL,
		.numa_node = 1,
		.enabled = 1,
		.provider = "ACPI.NFIT",
		.ns = {
			{ "namespace0.0", NDCTL_NS_MODE_FSDAX, GIB, 1, "pfn", "pmem0", 2 << 20, true, false },
			{ "namespace0.1", NDCTL_NS_MODE_DEVDAX, GIB, 1, "dax", "dax0.1", 2 << 20, true, false },
			{ "namespace0.2", NDCTL_NS_MODE_SECTOR, GIB, 1, "btt", "pmem0.2s", 0, false, false },
			{ "namespace0.3", NDCTL_NS_MODE_RAW, GIB, 1, NULL, "pmem0.3", 0, false, false },
			{ "namespace0.4", NDCTL_NS_MODE_DEVDAX, GIB, 1, "dax", "dax0.4", 4 << 10, true, true },
			{ "namespace0.5", NDCTL_NS_MODE_UNKNOWN, 0, 0, NULL, NULL, 0, false, false },
		},
		.dax = {
			{ "", 0, GIB, 1, NULL, "dax0.1", 2 << 20, true, false },
			{ "", 0, 2 * GIB, 1, NULL, "dax9.0", 1 << 30, true, false },
			{ "", 0, GIB, 0, NULL, "dax9.1", 0, true, true },
		},
	};

	check(&fake, "r:region0:-::8192:16384:1:memory_controller\n"
		     "n:namespace0.0:fsdax:/dev/pmem0:1022:2048:1:memory_controller\n"
		     "n:namespace0.1:devdax:/dev/dax0.1:1024:2048:1:memory_controller\n"
		     "n:namespace0.2:sector:/dev/pmem0.2s:1024:0:1:memory_controller\n"
		     "n:namespace0.3:raw:/dev/pmem0.3:1024:0:1:memory_controller\n"
		     "n:namespace0.4:system-ram:/dev/dax0.4:1024:4:1:memory_controller\n"
		     "r:region1:-::8192:16384:1:memory_controller\n"
		     "d:dax9.0:devdax:/dev/dax9.0:2048:1048576:1:unknown\n"
		     "d:dax9.1:system-ram:/dev/dax9.1:1024:0:1:unknown:off\n");
}

/* Devices that vanish while they are looked at answer with all ones and negatives; disabled ones
 * are claimed by nobody. */
static void test_errors(void **state)
{
	struct cs_fake_pmem fake = {
		.regions = 1,
		.namespaces = 5,
		.daxes = 1,
		.region_bytes = ULLONG_MAX,
		.region_free = ULLONG_MAX,
		.persistence = PERSISTENCE_UNKNOWN,
		.numa_node = -1,
		.enabled = -ENXIO,
		.provider = NULL,
		.ns = {
			{ NULL, -EINVAL, ULLONG_MAX, 1, NULL, NULL, 0, false, false },
			{ "namespace0.1", NDCTL_NS_MODE_FSDAX, GIB, 0, "pfn", "pmem0", 0, false, false },
			{ "namespace0.2", NDCTL_NS_MODE_DEVDAX, GIB, 1, "dax", NULL, ULONG_MAX, false, false },
			{ "namespace0.3", -ENXIO, GIB, 1, "pfn", "", 0, false, false },
			{ "namespace0.4", -EBUSY, GIB, -EBUSY, "pfn", NULL, 0, false, false },
		},
		.dax = { { "", 0, 0, -ENXIO, NULL, "dax1.0", 0, false, false } },
	};
	char text[1000] = "";
	struct cs_err err = { 0 };

	check(&fake, "r:region0:-::0:16384:-1:unknown:off\n"
		     "n:namespace0.1:fsdax::1024:0:-1:unknown:off\n"
		     "n:namespace0.2:devdax::1024:0:-1:unknown\n"
		     "n:namespace0.3:unknown::1022:0:-1:unknown\n"
		     "n:namespace0.4:unknown::1024:0:-1:unknown:off\n");

	fake.ndctl_fails = -EBUSY;
	assert_int_equal(cs_pmem_each(join, text, &err), -EBUSY);
	assert_non_null(strstr(err.text, "libndctl"));
	fake.ndctl_fails = -ENOMEM;
	assert_int_equal(cs_pmem_each(join, text, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "libndctl"));
	fake.ndctl_fails = 0;
	fake.daxctl_fails = -ENXIO;
	assert_int_equal(cs_pmem_each(join, text, &err), -ENXIO);
	assert_non_null(strstr(err.text, "libdaxctl"));
	assert_int_equal(fake.contexts, 0);
}

static int stop_at(const struct cs_pmem *pmem, void *arg)
{
	return strcmp(pmem->name, arg) == 0 ? 7 : 0;
}

static void test_stop(void **state)
{
	struct cs_fake_pmem fake = {
		.regions = 1,
		.namespaces = 1,
		.daxes = 1,
		.ns = { { "namespace0.0", NDCTL_NS_MODE_RAW, GIB, 1, NULL, "pmem0", 0, false,
			  false } },
		.dax = { { "", 0, GIB, 1, NULL, "dax1.0", 0, false, false } },
	};

	cs_fake_pmem_set(&fake);
	assert_int_equal(cs_pmem_each(stop_at, (void *)"region0", NULL), 7);
	assert_int_equal(cs_pmem_each(stop_at, (void *)"namespace0.0", NULL), 7);
	assert_int_equal(cs_pmem_each(stop_at, (void *)"dax1.0", NULL), 7);
	assert_int_equal(fake.contexts, 0);
}

/* An ordinary host. */
static void test_none(void **state)
{
	struct cs_fake_pmem fake = { 0 };

	check(&fake, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests_name("pmem", tests, NULL, NULL);
}
