/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/guest/agent/users.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/bash\n"
			     "# no entry\n"
			     "broken:x:abc:0::/:\n"
			     "short:x:5\n"
			     "www-data:x:33:33:www:/var/www:/usr/sbin/nologin\n"
			     "homeless:x:70:71:::\n"
			     "1000:x:2000:2000:a name that looks like a number:/n:/bin/sh\n"
			     "ann:x:1000:1000:Ann,,,:/home/ann:/bin/bash";
static const char group[] = "root:x:0:\n"
			    "adm:x:4:ann,bob\n"
			    "broken:x:abc:ann\n"
			    "sudo:x:27:bob,ann\n"
			    "annex:x:50:anna\n"
			    "ann:x:1000:\n";

static struct cs_user find(const char *spec)
{
	struct cs_user user;

	assert_int_equal(cs_user_find(spec, passwd, group, &user), 0);
	return user;
}

static void test_root_needs_no_files(void **state)
{
	struct cs_user user;

	assert_int_equal(cs_user_find("", NULL, NULL, &user), 0);
	assert_int_equal(user.uid, 0);
	assert_int_equal(user.gid, 0);
	assert_int_equal(user.n_groups, 0);
	assert_string_equal(user.home, "/root");
}

static void test_name(void **state)
{
	struct cs_user user = find("ann");

	assert_int_equal(user.uid, 1000);
	assert_int_equal(user.gid, 1000);
	assert_string_equal(user.name, "ann");
	assert_string_equal(user.home, "/home/ann");
	assert_int_equal(user.n_groups, 2);
	assert_int_equal(user.groups[0], 4);
	assert_int_equal(user.groups[1], 27);
}

static void test_no_home_is_the_root(void **state)
{
	struct cs_user user = find("homeless");

	assert_int_equal(user.gid, 71);
	assert_string_equal(user.home, "/");
}

static void test_numbers(void **state)
{
	struct cs_user user = find("33");

	assert_string_equal(user.name, "www-data");
	assert_int_equal(user.gid, 33);

	user = find("4242");
	assert_int_equal(user.uid, 4242);
	assert_int_equal(user.gid, 0);
	assert_string_equal(user.name, "");
	assert_string_equal(user.home, "/");

	/* A line that comes first and has it as its name wins, as in docker. */
	user = find("1000");
	assert_int_equal(user.uid, 2000);
}

static void test_groups(void **state)
{
	struct cs_user user = find("ann:sudo");

	assert_int_equal(user.gid, 27);
	assert_int_equal(user.n_groups, 0);
	assert_int_equal(find("ann:0").gid, 0);
	assert_int_equal(find("77:88").gid, 88);
	assert_int_equal(find("77:88").uid, 77);
}

static void test_refused(void **state)
{
	static const struct {
		const char *spec;
		int error;
	} cases[] = {
		{ "nobody-at-all", -ENOENT },
		{ "broken", -ENOENT },
		{ "short", -ENOENT },
		{ "# no entry", -ENOENT },
		{ "4294967295", -ENOENT },
		{ "4294967296", -ENOENT },
		{ "99999999999999999999", -ENOENT },
		{ "-1", -ENOENT },
		{ "ann:nogroup", -ESRCH },
		{ "ann:broken", -ESRCH },
		{ "ann:", -EINVAL },
		{ ":0", -EINVAL },
		{ ":", -EINVAL },
		{ "ann:0:0", -EINVAL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct cs_user user = { .uid = 12345 };

		assert_int_equal(cs_user_find(cases[i].spec, passwd, group, &user), cases[i].error);
		assert_int_equal(user.uid, 12345);
	}
}

static void test_without_files(void **state)
{
	struct cs_user user;

	assert_int_equal(cs_user_find("root", NULL, NULL, &user), -ENOENT);
	assert_int_equal(cs_user_find("0", NULL, NULL, &user), 0);
	assert_int_equal(cs_user_find("5:6", "", "", &user), 0);
	assert_int_equal(user.gid, 6);
}

/* A root is what somebody imported: its files may be anything. */
static void test_hostile_files(void **state)
{
	char *many = calloc(1, 300 * 24 + 1), name[2000];
	size_t at = 0;
	struct cs_user user;

	assert_non_null(many);
	for (int i = 0; i < 300; i++)
		at += (size_t)snprintf(many + at, 24, "g%d:x:%d:ann\n", i, i);
	assert_int_equal(cs_user_find("ann", passwd, many, &user), 0);
	assert_int_equal(user.n_groups, CS_USER_GROUPS);
	free(many);

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	assert_int_equal(cs_user_find(name, name, name, &user), -ENOENT);
	assert_int_equal(cs_user_find("x", ":::::::\n\n\n:", ":\n\n::::", &user), -ENOENT);

	memcpy(name + 500, ":x:7:8::", 8);
	memcpy(name + 1500, ":\n", 2);
	name[1502] = 0;
	name[500] = 0;
	char *spec = strdup(name);
	name[500] = ':';
	assert_non_null(spec);
	assert_int_equal(cs_user_find(spec, name, "", &user), 0);
	assert_int_equal(user.uid, 7);
	assert_int_equal(strlen(user.name), sizeof(user.name) - 1);
	assert_int_equal(strlen(user.home), sizeof(user.home) - 1);
	free(spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_root_needs_no_files),
		cmocka_unit_test(test_name),
		cmocka_unit_test(test_no_home_is_the_root),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_without_files),
		cmocka_unit_test(test_hostile_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
