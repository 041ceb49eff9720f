/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A name becomes a folder, a host name and a table cell. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/base/name.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void test_legal(void **state)
{
	static const char *const names[] = {
		"a",
		"web-1",
		"debian.12",
		"a_b",
		"0",
		"x--y",
		"123456789012345678901234567890123456789012345678901234567890123"
	};

	for (size_t i = 0; i < COUNT(names); i++)
		assert_int_equal(cs_name_check("guest", names[i], NULL), 0);
}

static void test_illegal(void **state)
{
	static const char *const names[] = {
		"",
		"/",
		"a/b",
		".",
		"..",
		".hidden",
		"a..b",
		"-a",
		"a-",
		"_a",
		"a.",
		"A",
		"a b",
		"a\nb",
		"a\033[31m",
		"\xc3\xa9",
		"a\x7f",
		"a@1",
		"a:b",
		"*",
		"1234567890123456789012345678901234567890123456789012345678901234",
	};
	struct cs_err err;

	for (size_t i = 0; i < COUNT(names); i++) {
		err = (struct cs_err){ .code = 0 };
		assert_int_equal(cs_name_check("guest", names[i], &err), -EINVAL);
		assert_int_equal(err.code, EINVAL);
		for (const char *p = err.text; *p; p++)
			assert_in_range(*p, ' ', '~');
	}
}

static void test_long_name_is_shown_short(void **state)
{
	struct cs_err err = { .code = 0 };
	char huge[301];

	memset(huge, 'a', 300);
	huge[300] = '\0';
	assert_int_equal(cs_name_check("template", huge, &err), -EINVAL);
	assert_memory_equal(err.text, "template name 'aaaa", 19);
	assert_non_null(strstr(err.text, "aaa...': not a legal name"));
	assert_true(strlen(err.text) < 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_legal),
		cmocka_unit_test(test_illegal),
		cmocka_unit_test(test_long_name_is_shown_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
