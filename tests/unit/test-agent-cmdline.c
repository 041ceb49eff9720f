/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/guest/agent/cmdline.h"

static const char line[] =
	"console=hvc0 root=/dev/pmem0 rootfstype=erofs ro  rootflags=dax "
	"virtio_mmio.device=4K@0xd0000000:5 virtio-mmio.device=4K@0xd0001000:6 "
	"erofs.x nd-pmem.name=\"a b\" virtio_mmiox.device=9 rootflags=\"dax,a b\"\n";

static void assert_module(const char *file, const char *expected)
{
	char *all = cs_cmdline_module(line, file);

	assert_non_null(all);
	assert_string_equal(all, expected);
	free(all);
}

static void test_modules(void **state)
{
	assert_module("virtio_mmio.ko", "device=4K@0xd0000000:5 device=4K@0xd0001000:6");
	assert_module("virtio-mmio.ko", "device=4K@0xd0000000:5 device=4K@0xd0001000:6");
	assert_module("virtio.ko", "");
	assert_module("erofs.ko", "x");
	assert_module("nd_pmem.ko", "name=\"a b\"");
	assert_module("", "");
}

static void test_values(void **state)
{
	char *value = cs_cmdline_value(line, "rootfstype");

	assert_string_equal(value, "erofs");
	free(value);
	value = cs_cmdline_value(line, "rootflags");
	assert_string_equal(value, "dax,a b");
	free(value);
	assert_null(cs_cmdline_value(line, "ro"));
	assert_null(cs_cmdline_value(line, "rootfs"));
	assert_null(cs_cmdline_value("", "root"));
}

static void test_odd_lines(void **state)
{
	char *value = cs_cmdline_value("a=\"unclosed b c=d", "a");

	assert_string_equal(value, "unclosed b c=d");
	free(value);
	value = cs_cmdline_value("\t\n a=", "a");
	assert_string_equal(value, "");
	free(value);
	assert_null(cs_cmdline_value("=x", "a"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modules),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_odd_lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
