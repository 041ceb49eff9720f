/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bar is drawn on a terminal, erased again, and nowhere else to be seen. */
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>

#include "store/base/progress.h"
#include "tests/unit/scratch.h"

static void work(const char *what, uint64_t total)
{
	const struct timespec pause = { .tv_nsec = 60000000 };
	struct cs_progress *progress = cs_progress_open(what, total);

	if (!progress)
		_exit(1);
	for (uint64_t i = 0; i <= 4; i++) {
		cs_progress_set(progress, i * 250000000);
		nanosleep(&pause, NULL);
	}
	cs_progress_step(progress, "hash\033[2Jing");
	cs_progress_free(progress);
	_exit(0);
}

/* What a child writes to a terminal of (columns) columns as its stderr. */
static void on_terminal(unsigned short columns, const char *what, uint64_t total, char *out,
			size_t room)
{
	struct winsize size = { .ws_col = columns, .ws_row = 24 };
	int master, slave, status;
	size_t used = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		setenv("TERM", "xterm", 1);
		dup2(slave, STDERR_FILENO);
		close(master);
		work(what, total);
	}
	close(slave);
	while (used + 1 < room && (n = read(master, out + used, room - used - 1)) > 0)
		used += (size_t)n;
	out[used] = '\0';
	close(master);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_bar(void **state)
{
	static const char erase[] = "\r\033[K";
	char out[8192];

	on_terminal(100, "import root.tar", 1000000000, out, sizeof(out));
	assert_non_null(strstr(out, "import root.tar ["));
	assert_non_null(strstr(out, "%"));
	assert_non_null(strstr(out, " MB/s"));
	assert_non_null(strstr(out, "hash?[2Jing"));
	/* erased at last */
	assert_true(strlen(out) > strlen(erase));
	assert_string_equal(out + strlen(out) - strlen(erase), erase);
}

static void test_unknown_total(void **state)
{
	char out[8192];

	on_terminal(100, "import", 0, out, sizeof(out));
	assert_non_null(strstr(out, "MiB"));
	assert_null(strchr(out, '%'));
	assert_null(strstr(out, "left"));
}

static void test_fits_the_width(void **state)
{
	char what[201], out[8192];
	size_t width = 0;

	memset(what, 'w', 200);
	what[200] = '\0';
	on_terminal(40, what, 1000000000, out, sizeof(out));
	for (const char *p = out; *p; p++) {
		if (*p == '\r')
			width = 0;
		else if (*p == '\033')
			p += 2; /* [K */
		else
			width++;
		assert_true(width < 40);
	}
}

static void test_not_on_a_terminal(void **state)
{
	struct scratch *scratch = *state;
	int fd = openat(scratch->fd, "err", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int saved = dup(STDERR_FILENO);
	struct cs_progress *progress;
	struct stat st;

	dup2(fd, STDERR_FILENO);
	progress = cs_progress_open("import", 100);
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_null(progress);
	cs_progress_set(progress, 50);
	cs_progress_step(progress, "x");
	assert_null(cs_progress_free(progress));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bar),
		cmocka_unit_test(test_unknown_total),
		cmocka_unit_test(test_fits_the_width),
		cmocka_unit_test_setup_teardown(test_not_on_a_terminal, scratch_make,
						scratch_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
