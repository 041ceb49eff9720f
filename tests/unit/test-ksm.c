/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* KSM's files: of new kernels and old ones, honest and broken; and what is put back. */
#include <errno.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ksm/keep.h"
#include "ksm/ksm.h"
#include "store/base/num.h"
#include "tests/fake/ksm-files.h"
#include "tests/unit/scratch.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static void put(const struct scratch *scratch, const struct fake_file *files, size_t n)
{
	for (size_t i = 0; i < n; i++)
		scratch_write(scratch->fd, files[i].name, files[i].text);
}

/* As an old kernel says it, and a new one. */
static void put_kernel(const struct scratch *scratch, bool is_new)
{
	static const char *const folders[] = { "ksm", "proc/37", "proc/36", "proc/pressure",
					       "proc/sys/kernel/random" };

	for (size_t i = 0; i < N(folders); i++)
		assert_int_equal(cs_mkdir_path(scratch->fd, folders[i], 0755), 0);
	put(scratch, fake_ksm_old, fake_ksm_old_n);
	if (is_new)
		put(scratch, fake_ksm_new, fake_ksm_new_n);
}

static struct cs_ksm *open_ksm(const struct scratch *scratch)
{
	char dir[300], proc[300];
	struct cs_ksm *ksm;

	snprintf(dir, sizeof(dir), "%s/ksm", scratch->path);
	snprintf(proc, sizeof(proc), "%s/proc", scratch->path);
	assert_int_equal(cs_ksm_open(dir, proc, &ksm, NULL), 0);
	return ksm;
}

static struct cs_ksm_keep *open_keep(const struct scratch *scratch, int want, struct cs_err *err)
{
	struct cs_ksm_keep *keep = NULL;
	char dir[300], proc[300];

	snprintf(dir, sizeof(dir), "%s/run", scratch->path);
	snprintf(proc, sizeof(proc), "%s/proc", scratch->path);
	assert_int_equal(cs_ksm_keep_open(dir, proc, &keep, err), want);
	return keep;
}

static const char *read_file(const struct scratch *scratch, const char *name, char text[64])
{
	cs_auto(cs_mem_freep) char *all = NULL;

	assert_int_equal(cs_read_file_at(scratch->fd, name, 4096, &all, NULL), 0);
	snprintf(text, 64, "%s", all);
	return text;
}

static void test_new_kernel(void **state)
{
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct scratch *scratch = *state;
	struct cs_ksm_setting setting;
	struct cs_ksm_sample sample;
	char text[1024];

	put_kernel(scratch, true);
	ksm = open_ksm(scratch);
	assert_int_equal(cs_ksm_sample(ksm, &sample, NULL), 0);
	assert_int_equal(sample.pages_shared, 11);
	assert_int_equal(sample.pages_sharing, 222);
	assert_int_equal(sample.pages_unshared, 3333);
	assert_int_equal(sample.pages_volatile, 44);
	assert_int_equal(sample.full_scans, 5);
	assert_int_equal(sample.pages_scanned, 66666);
	assert_int_equal(sample.pages_skipped, 777);
	assert_int_equal(sample.zero_pages, 88);
	assert_int_equal(sample.profit_bytes, -9999);
	assert_int_equal(sample.cow_ksm, 123);
	assert_int_equal(sample.total_bytes, 2000 * CS_KIB);
	assert_int_equal(sample.available_bytes, 1000 * CS_KIB);
	assert_int_equal(sample.anon_bytes, 300 * CS_KIB);
	assert_int_equal(sample.some_us, 20755396);
	assert_int_equal(sample.full_us, 7600623);
	assert_int_equal(sample.ksmd_us, 1234567);
	assert_true(sample.at_ms > 0);
	assert_true(sample.enrolled_bytes == CS_KSM_UNKNOWN);
	assert_int_equal(cs_ksm_saved_pages(&sample), 310);
	assert_int_equal(cs_ksm_read(ksm, &setting, NULL), 0);
	assert_int_equal(setting.run, 0);
	assert_int_equal(setting.pages_to_scan, 100);
	assert_int_equal(setting.sleep_ms, 20);
	assert_int_equal(setting.smart_scan, 1);
	assert_int_equal(setting.advisor_mode, 0);
	assert_int_equal(setting.advisor_target_scan_s, 200);
	assert_string_equal(cs_ksm_missing(&sample, &setting, text, sizeof(text)), "");
}

static void test_old_kernel(void **state)
{
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct scratch *scratch = *state;
	struct cs_ksm_setting setting, want;
	struct cs_ksm_sample sample;
	char text[1024];

	put_kernel(scratch, false);
	ksm = open_ksm(scratch);
	assert_int_equal(cs_ksm_sample(ksm, &sample, NULL), 0);
	assert_int_equal(sample.pages_sharing, 222);
	assert_true(sample.zero_pages == CS_KSM_UNKNOWN);
	assert_true(sample.profit_bytes == CS_KSM_UNKNOWN);
	assert_true(sample.pages_scanned == CS_KSM_UNKNOWN);
	assert_true(sample.cow_ksm == CS_KSM_UNKNOWN);
	assert_true(sample.available_bytes == CS_KSM_UNKNOWN);
	assert_true(sample.ksmd_us == CS_KSM_UNKNOWN);
	assert_int_equal(cs_ksm_saved_pages(&sample), 222);
	assert_int_equal(cs_ksm_read(ksm, &setting, NULL), 0);
	assert_true(setting.smart_scan == CS_KSM_UNKNOWN);
	assert_true(setting.advisor_mode == CS_KSM_UNKNOWN);
	assert_non_null(strstr(cs_ksm_missing(&sample, &setting, text, sizeof(text)), "advisor"));
	/* What it has not is not written, and that is no failure. */
	want = setting;
	want.advisor_mode = 1;
	want.smart_scan = 0;
	want.run = 1;
	want.sleep_ms = 7;
	assert_int_equal(cs_ksm_apply(ksm, &want, NULL), 0);
	assert_string_equal(read_file(scratch, "ksm/run", text), "1\n");
	assert_int_equal(faccessat(scratch->fd, "ksm/smart_scan", F_OK, 0), -1);
	/* room for the words or not */
	for (size_t room = 1; room < 200; room++)
		assert_true(strlen(cs_ksm_missing(&sample, &setting, text, room)) < room);
}

static void test_broken(void **state)
{
	static const char *const broken[] = { "",
					      "\n",
					      "x\n",
					      "-1\n",
					      "1",
					      "1 2\n",
					      "0x1\n",
					      " 1\n",
					      "1\n2\n",
					      "9223372036854775808\n",
					      "99999999999999999999999999\n" };
	static const char *const of_sample[] = { "pages_shared", "full_scans", "ksm_zero_pages" };
	static const char *const of_setting[] = { "run", "smart_scan", "sleep_millisecs" };
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct scratch *scratch = *state;
	struct cs_ksm_setting setting = { .run = 77 };
	struct cs_ksm_sample sample = { .at_ms = 77 };

	put_kernel(scratch, true);
	ksm = open_ksm(scratch);
	for (size_t i = 0; i < N(broken); i++) {
		for (size_t k = 0; k < N(of_sample); k++) {
			struct cs_err err = { 0 };
			char name[64];

			snprintf(name, sizeof(name), "ksm/%s", of_sample[k]);
			scratch_write(scratch->fd, name, broken[i]);
			assert_int_equal(cs_ksm_sample(ksm, &sample, &err), -EBADMSG);
			assert_non_null(strstr(err.text, of_sample[k]));
			scratch_write(scratch->fd, name, "1\n");
			snprintf(name, sizeof(name), "ksm/%s", of_setting[k]);
			scratch_write(scratch->fd, name, broken[i]);
			assert_int_equal(cs_ksm_read(ksm, &setting, &err), -EBADMSG);
			assert_non_null(strstr(err.text, of_setting[k]));
			scratch_write(scratch->fd, name, "1\n");
		}
	}
	scratch_write(scratch->fd, "ksm/advisor_mode", "none\n");
	assert_int_equal(cs_ksm_read(ksm, &setting, NULL), -EBADMSG);
	assert_int_equal(sample.at_ms, 77);
	assert_int_equal(setting.run, 77);
}

/* What of /proc is cut off, huge or missing is not known; nothing fails for it. */
static void test_broken_proc(void **state)
{
	static const struct fake_file broken[] = {
		{ "proc/vmstat", "cow_ksm 123" },
		{ "proc/vmstat", "cow_ksm\n" },
		{ "proc/vmstat", "xcow_ksm 5\n" },
		{ "proc/vmstat", "cow_ksm -5\n" },
		{ "proc/vmstat", "cow_ksm 99999999999999999999999999999999999\n" },
		{ "proc/vmstat", "cow_ksm 9223372036854775808\n" },
		{ "proc/meminfo", "MemAvailable:   9223372036854775807 kB\n" },
		{ "proc/meminfo", "MemAvailable:" },
		{ "proc/pressure/memory", "some avg10=0.00\nfull total=5\n" },
		{ "proc/pressure/memory", "some total=" },
		{ "proc/37/schedstat", "" },
		{ "proc/37/schedstat", "12" },
		{ "proc/37/schedstat", "99999999999999999999999999 1 1\n" },
	};
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct scratch *scratch = *state;
	struct cs_ksm_sample sample;

	put_kernel(scratch, true);
	ksm = open_ksm(scratch);
	for (size_t i = 0; i < N(broken); i++) {
		scratch_write(scratch->fd, broken[i].name, broken[i].text);
		assert_int_equal(cs_ksm_sample(ksm, &sample, NULL), 0);
		if (strstr(broken[i].name, "vmstat"))
			assert_true(sample.cow_ksm == CS_KSM_UNKNOWN);
		else if (strstr(broken[i].name, "meminfo"))
			assert_true(sample.available_bytes == CS_KSM_UNKNOWN);
		else if (strstr(broken[i].name, "pressure"))
			assert_true(sample.some_us == CS_KSM_UNKNOWN);
		else
			assert_true(sample.ksmd_us == CS_KSM_UNKNOWN);
	}
}

static void test_no_ksm(void **state)
{
	struct scratch *scratch = *state;
	struct cs_err err = { 0 };
	char dir[300];
	struct cs_ksm *ksm;

	snprintf(dir, sizeof(dir), "%s/none", scratch->path);
	assert_int_equal(cs_ksm_open(dir, "/proc", &ksm, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no KSM"));
	snprintf(dir, sizeof(dir), "%s/none/proc", scratch->path);
	assert_int_equal(cs_ksm_open(scratch->path, dir, &ksm, &err), -ENOENT);
}

static void test_apply(void **state)
{
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct scratch *scratch = *state;
	struct cs_ksm_setting want = cs_ksm_setting_unknown();
	char text[64];

	put_kernel(scratch, true);
	ksm = open_ksm(scratch);
	/* Nothing is asked for, nothing is written. */
	fchmodat(scratch->fd, "ksm", 0555, 0);
	assert_int_equal(cs_ksm_apply(ksm, &want, NULL), 0);
	want.advisor_mode = 1;
	want.pages_to_scan = 4242; /* the advisor's: the kernel would refuse it */
	want.run = 1;
	assert_int_equal(cs_ksm_apply(ksm, &want, NULL), 0);
	assert_string_equal(read_file(scratch, "ksm/advisor_mode", text), "scan-time\n");
	assert_string_equal(read_file(scratch, "ksm/pages_to_scan", text), "100\n");
	assert_string_equal(read_file(scratch, "ksm/run", text), "1\n");
	/* Switching the advisor resets pages_to_scan, so it is written also when it looks the same.
	 */
	scratch_write(scratch->fd, "ksm/advisor_mode", "none [scan-time]\n");
	scratch_write(scratch->fd, "ksm/pages_to_scan", "4242\n");
	scratch_write(scratch->fd, "ksm/run", "1\n");
	want.advisor_mode = 0;
	assert_int_equal(cs_ksm_apply(ksm, &want, NULL), 0);
	assert_string_equal(read_file(scratch, "ksm/pages_to_scan", text), "4242\n");
}

/* Who ends a tuner and opens what it kept comes at the moment when that has let go of its number,
 * and not yet of the lock. */
static void test_keep_ending(void **state)
{
	const struct timespec moment = { .tv_nsec = 300000000 };
	struct scratch *scratch = *state;
	struct cs_ksm_keep *keep;
	struct cs_err err = { 0 };
	char path[320];
	int fd, status;
	pid_t pid;

	put_kernel(scratch, true);
	keep = open_keep(scratch, 0, NULL);
	cs_ksm_keep_free(keep);
	snprintf(path, sizeof(path), "%s/run/ksm.lock", scratch->path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		nanosleep(&moment, NULL);
		_exit(0); /* the last that has it open */
	}
	close(fd);
	keep = open_keep(scratch, 0, NULL);
	cs_ksm_keep_free(keep);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	/* one that stays so */
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	open_keep(scratch, -EBUSY, &err);
	assert_non_null(strstr(err.text, "no tuner"));
	close(fd);
}

static void test_keep(void **state)
{
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct scratch *scratch = *state;
	struct cs_ksm_keep *keep;
	struct cs_ksm_setting setting, want;
	struct cs_err err = { 0 };
	bool was;
	char text[64], dir[300];

	put_kernel(scratch, true);
	ksm = open_ksm(scratch);
	keep = open_keep(scratch, 0, NULL);
	assert_int_equal(cs_ksm_keep_restore(keep, ksm, &was, NULL), 0);
	assert_false(was);
	/* the second tuner */
	open_keep(scratch, -EBUSY, &err);
	assert_non_null(strstr(err.text, "another tuner runs"));
	snprintf(dir, sizeof(dir), "%s/run", scratch->path);
	assert_int_equal(cs_ksm_keep_holder(dir), getpid());
	assert_int_equal(cs_ksm_read(ksm, &setting, NULL), 0);
	assert_int_equal(cs_ksm_keep_save(keep, &setting, NULL), 0);
	want = setting;
	want.run = 1;
	want.pages_to_scan = 5000;
	want.smart_scan = 0;
	assert_int_equal(cs_ksm_apply(ksm, &want, NULL), 0);
	/* killed: nobody restores, the lock is gone with the process */
	keep = cs_ksm_keep_free(keep);
	assert_int_equal(cs_ksm_keep_holder(dir), 0);
	keep = open_keep(scratch, 0, NULL);
	assert_int_equal(cs_ksm_keep_restore(keep, ksm, &was, NULL), 0);
	assert_true(was);
	assert_string_equal(read_file(scratch, "ksm/run", text), "0\n");
	assert_string_equal(read_file(scratch, "ksm/pages_to_scan", text), "100\n");
	assert_string_equal(read_file(scratch, "ksm/smart_scan", text), "1\n");
	/* and forgotten */
	assert_int_equal(faccessat(scratch->fd, "run/ksm.saved", F_OK, 0), -1);
	assert_int_equal(cs_ksm_keep_restore(keep, ksm, &was, NULL), 0);
	assert_false(was);
	keep = cs_ksm_keep_free(keep);
}

/* What lies there may be of another boot, of a newer version, or broken. */
static void test_saved_files(void **state)
{
	static const struct {
		const char *text;
		int r;
		bool was;
		const char *run, *sleep;
	} rows[] = {
		{ "format 1\nboot 5fd1-aa\nrun 1\nsleep_ms 30\n", 0, true, "1\n", "30\n" },
		{ "format 1\nboot 5fd1-aa\nrun 1\nwhatever 30\n", 0, true, "1\n", "20\n" },
		{ "format 1\nboot 1111\nrun 1\nsleep_ms 30\n", 0, false, "0\n", "20\n" },
		/* merged pages are given back only when there is room for them */
		{ "format 1\nboot 5fd1-aa\nrun 2\n", 0, true, "0\n", "20\n" },
		{ "format 2\nboot 5fd1-aa\nrun 1\nsleep_ms 30\n", -EBADMSG, false, "0\n", "20\n" },
		{ "format 1\nboot 5fd1-aa\nrun x\n", -EBADMSG, false, "0\n", "20\n" },
		{ "format 1\nboot 5fd1-aa\nrun -1\n", -EBADMSG, false, "0\n", "20\n" },
		{ "format 1\nboot 5fd1-aa\nrun\n", -EBADMSG, false, "0\n", "20\n" },
		{ "format 1\nboot 5fd1-aa\n", -EBADMSG, false, "0\n", "20\n" },
		{ "run 1\n", -EBADMSG, false, "0\n", "20\n" },
		{ "", -EBADMSG, false, "0\n", "20\n" },
	};
	struct scratch *scratch = *state;

	for (size_t i = 0; i < N(rows); i++) {
		cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
		cs_auto(cs_ksm_keep_freep) struct cs_ksm_keep *keep = NULL;
		bool was = false;
		char text[64];

		put_kernel(scratch, true);
		ksm = open_ksm(scratch);
		keep = open_keep(scratch, 0, NULL);
		scratch_write(scratch->fd, "run/ksm.saved", rows[i].text);
		assert_int_equal(cs_ksm_keep_restore(keep, ksm, &was, NULL), rows[i].r);
		assert_int_equal(was, rows[i].was);
		assert_string_equal(read_file(scratch, "ksm/run", text), rows[i].run);
		assert_string_equal(read_file(scratch, "ksm/sleep_millisecs", text), rows[i].sleep);
	}
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SCRATCH_TEST(test_new_kernel),  SCRATCH_TEST(test_old_kernel),
		SCRATCH_TEST(test_broken),      SCRATCH_TEST(test_broken_proc),
		SCRATCH_TEST(test_no_ksm),      SCRATCH_TEST(test_apply),
		SCRATCH_TEST(test_keep),        SCRATCH_TEST(test_keep_ending),
		SCRATCH_TEST(test_saved_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
