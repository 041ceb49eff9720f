/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another program's failure in its own words; no zombie, no waiting for what it left running. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "store/base/num.h"
#include "store/base/proc.h"
#include "store/base/run.h"
#include "tests/unit/scratch.h"

static int sh(const char *script, struct cs_err *err)
{
	const char *const argv[] = { "sh", "-c", script, NULL };

	return cs_run(argv, NULL, err);
}

static void assert_no_child(void)
{
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void test_success(void **state)
{
	struct cs_err err = { .code = 0 };

	assert_int_equal(sh("echo noise; echo more >&2", &err), 0);
	assert_int_equal(err.code, 0);
	/* stdin is empty, not ours */
	assert_int_equal(sh("test -z \"$(cat)\"", &err), 0);
	assert_no_child();
}

static void test_last_line(void **state)
{
	struct cs_err err = { .code = 0 };

	assert_int_equal(sh("echo first; echo 'the cause' >&2; echo; echo '   '; exit 3", &err),
			 -EIO);
	assert_string_equal(err.text, "sh: failed with exit status 3: the cause");
	assert_int_equal(sh("printf 'no newline'; exit 1", &err), -EIO);
	assert_string_equal(err.text, "sh: failed with exit status 1: no newline");
	assert_int_equal(sh("printf '10%%\\r20%%\\rbroke'; exit 1", &err), -EIO);
	assert_string_equal(err.text, "sh: failed with exit status 1: broke");
	assert_int_equal(sh("exit 9", &err), -EIO);
	assert_string_equal(err.text, "sh: failed with exit status 9");
	assert_int_equal(sh("kill -9 $$", &err), -EIO);
	assert_string_equal(err.text, "sh: killed by signal 9 (Killed)");
	assert_no_child();
}

static void test_hostile_output(void **state)
{
	struct cs_err err = { .code = 0 };

	assert_int_equal(sh("printf 'a\\033[2Jb\\377\\000c'; exit 1", &err), -EIO);
	assert_string_equal(err.text, "sh: failed with exit status 1: a?[2Jb?c");
	assert_int_equal(sh("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", &err), -EIO);
	assert_true(strlen(err.text) < 400);
	assert_non_null(strstr(err.text, "xxxxx"));
	assert_no_child();
}

static void test_missing_program(void **state)
{
	const char *const argv[] = { "clearstore-no-such-program", NULL };
	struct cs_err err = { .code = 0 };

	assert_int_equal(cs_run(argv, "the-package", &err), -ENOENT);
	assert_string_equal(
		err.text,
		"clearstore-no-such-program: no such program (apt-get install the-package)");
	assert_int_equal(cs_run(argv, NULL, &err), -ENOENT);
	assert_null(strstr(err.text, "apt-get"));
	assert_int_equal(cs_run((const char *const[]){ "/", NULL }, "x", &err), -EACCES);
	assert_no_child();
}

static pid_t read_pid(const struct scratch *scratch)
{
	char *text = NULL;
	uint64_t pid = 0;

	assert_int_equal(cs_read_file_at(scratch->fd, "pid", 64, &text, NULL), 0);
	text[strcspn(text, "\n")] = '\0';
	assert_int_equal(cs_parse_u64(text, 1 << 22, &pid), 0);
	free(text);
	return (pid_t)pid;
}

/* It left something running that holds the pipe. */
static void test_daemon_is_not_waited_for(void **state)
{
	struct scratch *scratch = *state;
	struct cs_err err = { .code = 0 };
	char script[400];

	snprintf(script, sizeof(script), "sleep 300 & echo $! > %s/pid", scratch->path);
	assert_int_equal(sh(script, &err), 0);
	/* still there, so it was not its end that we waited for */
	assert_int_equal(kill(read_pid(scratch), SIGKILL), 0);
}

/* Started without stdin, stdout and stderr: the pipes then have their numbers. */
static void test_without_standard_files(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		struct cs_err err = { .code = 0 };

		close(0);
		close(1);
		close(2);
		_exit(sh("echo a; echo the end >&2; exit 5", &err) == -EIO &&
				      strstr(err.text, "status 5: the end") && sh("true", &err) == 0
			      ? 0
			      : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* kill -9 of us takes the program along. */
static void test_dies_with_us(void **state)
{
	struct scratch *scratch = *state;
	const struct timespec pause = { .tv_nsec = 10000000 };
	struct cs_proc_stat stat;
	char script[900];
	pid_t pid = fork(), program;
	int r = 0;

	assert_true(pid >= 0);
	snprintf(script, sizeof(script), "echo $$ > %s/tmp; mv %s/tmp %s/pid; sleep 60; true",
		 scratch->path, scratch->path, scratch->path);
	if (!pid)
		_exit(sh(script, NULL) ? 1 : 0);
	while (cs_missing_at(scratch->fd, "pid"))
		nanosleep(&pause, NULL);
	program = read_pid(scratch);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	for (int i = 0; i < 500 && r == 0; i++) {
		nanosleep(&pause, NULL);
		r = cs_proc_stat("/proc", program, &stat);
		if (r == 0 && stat.state == 'Z')
			r = -ESRCH; /* dead, and not yet waited for by whoever got it */
	}
	assert_int_equal(r, -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_success),
		cmocka_unit_test(test_last_line),
		cmocka_unit_test(test_hostile_output),
		cmocka_unit_test(test_missing_program),
		cmocka_unit_test_setup_teardown(test_daemon_is_not_waited_for, scratch_make,
						scratch_remove),
		cmocka_unit_test(test_without_standard_files),
		cmocka_unit_test_setup_teardown(test_dies_with_us, scratch_make, scratch_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
