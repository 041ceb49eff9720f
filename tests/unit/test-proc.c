/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Field 22 of a line whose second field is up to the process itself. */
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "store/base/proc.h"
#include "tests/unit/scratch.h"

#define NUMBERS "1 2 3 4 -1 5 6 7 8 9 11 22 13 14 15 16 17 18 2222 20 21"

static int stat_of(struct scratch *scratch, const char *text, struct cs_proc_stat *ret)
{
	mkdirat(scratch->fd, "42", 0700);
	scratch_write(scratch->fd, "42/stat", text);
	return cs_proc_stat(scratch->path, 42, ret);
}

static void test_fields(void **state)
{
	static const char *const names[] = { "x", "a b", ") Z 1 1 1 (", "((", "))", "", "a\nb" };
	struct scratch *scratch = *state;
	struct cs_proc_stat stat;
	char text[256];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(text, sizeof(text), "42 (%s) S " NUMBERS "\n", names[i]);
		assert_int_equal(stat_of(scratch, text, &stat), 0);
		assert_int_equal(stat.state, 'S');
		assert_int_equal(stat.user_ticks, 11);
		assert_int_equal(stat.system_ticks, 22);
		assert_int_equal(stat.start_ticks, 2222);
	}
}

static void test_broken(void **state)
{
	static const char *const texts[] = {
		"",
		"42",
		"42 (x",
		"42 (x)",
		"42 (x) ",
		"42 (x) SS " NUMBERS,
		"42 (x) S 1 2 3 4 5 6 7 8 9 10 11 22 13 14 15 16 17 18",
		"42 (x) S 1 2 3 4 5 6 7 8 9 10 -11 22 13 14 15 16 17 18 2222",
		"42 (x) S 1 2 3 4 5 6 7 8 9 10 11 22 13 14 15 16 17 18 -1",
		"42 (x) S 1 2 3 4 5 6 7 8 9 10 11 22 13 14 15 16 17 18 99999999999999999999",
		"42 (x) S 1 2 3 4 5 6 7 8 9 10 11 22 13 14 15 16 17 18 22x",
		"42 x S " NUMBERS,
	};
	struct scratch *scratch = *state;
	struct cs_proc_stat stat = { .start_ticks = 77 };
	char huge[6000];

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_int_equal(stat_of(scratch, texts[i], &stat), -EBADMSG);
	memset(huge, ' ', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = '\0';
	assert_int_equal(stat_of(scratch, huge, &stat), -EFBIG);
	assert_int_equal(stat.start_ticks, 77);
}

static void test_no_process(void **state)
{
	struct scratch *scratch = *state;
	struct cs_proc_stat stat;

	assert_int_equal(cs_proc_stat(scratch->path, 43, &stat), -ESRCH);
	assert_int_equal(cs_proc_stat("/proc", 0, &stat), -ESRCH);
	assert_int_equal(cs_proc_stat("/proc", -1, &stat), -ESRCH);
}

static void test_ourselves(void **state)
{
	struct cs_proc_stat before, after;

	assert_int_equal(cs_proc_stat("/proc", getpid(), &before), 0);
	assert_int_equal(prctl(PR_SET_NAME, ") S 1 2 (x"), 0);
	assert_int_equal(cs_proc_stat("/proc", getpid(), &after), 0);
	assert_int_equal(before.start_ticks, after.start_ticks);
	assert_true(after.start_ticks > 0);
	assert_int_equal(after.state, 'R');
}

static void test_zombie(void **state)
{
	struct cs_proc_stat stat;
	siginfo_t info;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(cs_proc_stat("/proc", pid, &stat), 0);
	assert_int_equal(stat.state, 'Z');
	waitpid(pid, NULL, 0);
	assert_int_equal(cs_proc_stat("/proc", pid, &stat), -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_fields, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_broken, scratch_make, scratch_remove),
		cmocka_unit_test_setup_teardown(test_no_process, scratch_make, scratch_remove),
		cmocka_unit_test(test_ourselves),
		cmocka_unit_test(test_zombie),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
