/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A failure is never success, never too long, and keeps its cause. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/base/err.h"

static void test_code_and_words(void **state)
{
	struct cs_err err = { .code = 0 };

	assert_int_equal(cs_fail(&err, ENOENT, "guest '%s'", "web"), -ENOENT);
	assert_int_equal(err.code, ENOENT);
	assert_string_equal(err.text, "guest 'web'");
	assert_int_equal(cs_fail_errno(&err, EACCES, "cannot open '%s'", "x"), -EACCES);
	assert_int_equal(err.code, EACCES);
	assert_string_equal(err.text, "cannot open 'x': Permission denied");
}

static void test_never_success(void **state)
{
	struct cs_err err = { .code = 0 };

	assert_int_equal(cs_fail(&err, 0, "x"), -EIO);
	assert_int_equal(err.code, EIO);
	assert_int_equal(cs_fail(&err, -EBUSY, "x"), -EBUSY);
	assert_int_equal(cs_fail_errno(&err, 0, "x"), -EIO);
	assert_int_equal(cs_fail_errno(&err, -EBUSY, "x"), -EBUSY);
	assert_int_equal(err.code, EBUSY);
	assert_int_equal(cs_fail_errno(&err, 123456, "x"), -123456);
	assert_string_equal(err.text, "x: unknown error");
}

static void test_without_err(void **state)
{
	assert_int_equal(cs_fail(NULL, EBUSY, "x"), -EBUSY);
	assert_int_equal(cs_fail(NULL, 0, "x"), -EIO);
	assert_int_equal(cs_fail_errno(NULL, EBUSY, "x"), -EBUSY);
	assert_int_equal(cs_fail_in(NULL, -EBUSY, "x"), -EBUSY);
}

static void test_context_goes_in_front(void **state)
{
	struct cs_err err = { .code = 0 };

	cs_fail(&err, EINVAL, "root.tar: not an archive");
	assert_int_equal(cs_fail_in(&err, -EINVAL, "template '%s'", "web"), -EINVAL);
	assert_string_equal(err.text, "template 'web': root.tar: not an archive");
	assert_int_equal(err.code, EINVAL);
}

static void test_too_long_is_cut(void **state)
{
	struct cs_err err = { .code = 0 };
	char huge[4 * sizeof(err.text)];

	memset(huge, 'a', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = '\0';
	cs_fail(&err, EINVAL, "%s", huge);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	cs_fail_errno(&err, EINVAL, "%s", huge);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	for (int i = 0; i < 1000; i++)
		cs_fail_in(&err, -EINVAL, "level %d", i);
	assert_true(strlen(err.text) < sizeof(err.text));
	assert_memory_equal(err.text, "level 999: level 998: ", 22);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_code_and_words),
		cmocka_unit_test(test_never_success),
		cmocka_unit_test(test_without_err),
		cmocka_unit_test(test_context_goes_in_front),
		cmocka_unit_test(test_too_long_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
