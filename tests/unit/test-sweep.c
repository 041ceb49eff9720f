/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What dead processes left goes; what lives is not touched. */
#include <errno.h>
#include <sys/file.h>

#include <sys/stat.h>
#include <time.h>

#include "cow/life.h"
#include "tests/unit/cow-guest.h"

#define BOOT_MARK 1 /* the note that this boot was looked at */

static void sweep(struct cow *cow)
{
	struct cs_err err = { .code = 0 };

	if (cs_overlay_sweep(cow->store, &err) < 0)
		fail_msg("%s", err.text);
}

static int marks(struct cow *cow)
{
	return scratch_count(cow->guests_fd, ".marks");
}

static void add_sockets(struct cow *cow, const char *guest)
{
	cow_write(cow, guest, "control.sock", "");
	cow_write(cow, guest, "vsock.sock", "");
}

/* A guest of `run`, whose owner is (owner). */
static void create_owned(struct cow *cow, const char *guest, pid_t owner)
{
	struct cs_card card = cow_card(guest);

	card.remove_on_exit = true;
	card.owner_pid = owner;
	if (owner)
		assert_int_equal(cs_process_start(owner, &card.owner_start_ticks), 0);
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, NULL), 0);
}

static bool is_alive(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) == 0;
}

static void test_nothing_to_do(void **state)
{
	struct cow *cow = *state;

	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK);
	cow_create(cow, "web");
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK);
	assert_true(cow_has(cow, "web", "card.json"));
}

static void test_stale_sockets(void **state)
{
	struct cow *cow = *state;
	pid_t dies = cow_monitor(), lives = cow_monitor();

	sweep(cow);
	cow_create(cow, "dies");
	cow_create(cow, "lives");
	cow_start(cow, "dies", dies);
	cow_start(cow, "lives", lives);
	add_sockets(cow, "dies");
	add_sockets(cow, "lives");
	cow_write(cow, "dies", "console.log", "panic");
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK + 2);
	assert_true(cow_has(cow, "dies", "control.sock"));
	cow_kill(dies);
	sweep(cow);
	assert_false(cow_has(cow, "dies", "control.sock"));
	assert_false(cow_has(cow, "dies", "vsock.sock"));
	assert_true(cow_has(cow, "dies", "console.log"));
	assert_true(cow_has(cow, "dies", "card.json"));
	assert_true(cow_has(cow, "lives", "control.sock"));
	assert_true(cow_has(cow, "lives", "vsock.sock"));
	assert_true(is_alive(lives));
	assert_int_equal(marks(cow), BOOT_MARK + 1);
	cow_kill(lives);
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK);
}

/* Killed, and its parent has not waited for it: it is dead all the same. */
static void test_zombies(void **state)
{
	struct cow *cow = *state;
	pid_t monitor = cow_monitor(), owner = cow_monitor(), waited_for = cow_monitor();
	siginfo_t info;

	sweep(cow);
	cow_create(cow, "web");
	cow_start(cow, "web", monitor);
	add_sockets(cow, "web");
	create_owned(cow, "run-1", owner);
	cow_start(cow, "run-1", waited_for);
	assert_int_equal(kill(monitor, SIGKILL), 0);
	assert_int_equal(kill(owner, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)monitor, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(waitid(P_PID, (id_t)owner, &info, WEXITED | WNOWAIT), 0);
	sweep(cow);
	assert_false(cow_has(cow, "web", "control.sock"));
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
	assert_int_equal(marks(cow), BOOT_MARK);
	for (int i = 0; i < 3; i++)
		assert_true(wait(NULL) > 0);
}

/* Cheap: of guests that run nothing is read. */
static void test_running_guests_are_not_opened(void **state)
{
	struct cow *cow = *state;
	struct timespec then[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
	pid_t pid = cow_monitor();
	struct stat st;

	sweep(cow);
	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	/* relatime notes the first reading after a change */
	assert_int_equal(utimensat(cow->guests_fd, "web/card.json", then, 0), 0);
	sweep(cow);
	assert_int_equal(fstatat(cow->guests_fd, "web/card.json", &st, 0), 0);
	assert_int_equal(st.st_atim.tv_sec, 1000);
	/* and would be seen if it were */
	cs_card_free(cow_load(cow, "web"));
	assert_int_equal(fstatat(cow->guests_fd, "web/card.json", &st, 0), 0);
	cow_kill(pid);
	if (st.st_atim.tv_sec == 1000) {
		print_message("mounted with noatime: reading leaves no trace\n");
		skip();
	}
}

static void test_owner_died(void **state)
{
	struct cow *cow = *state;
	pid_t owner = cow_monitor(), monitor = cow_monitor();

	sweep(cow);
	create_owned(cow, "run-1", owner);
	cow_start(cow, "run-1", monitor);
	add_sockets(cow, "run-1");
	sweep(cow);
	assert_true(cow_has(cow, "run-1", "control.sock"));
	assert_true(is_alive(monitor));
	cow_kill(owner);
	sweep(cow);
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
	assert_int_equal(waitpid(monitor, NULL, 0), monitor);
	assert_int_equal(marks(cow), BOOT_MARK);
}

static void test_owner_died_before_the_start(void **state)
{
	struct cow *cow = *state;
	pid_t owner = cow_monitor();

	sweep(cow);
	create_owned(cow, "run-1", owner);
	sweep(cow);
	assert_true(cow_has(cow, "run-1", "card.json"));
	cow_kill(owner);
	sweep(cow);
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
	assert_int_equal(marks(cow), BOOT_MARK);
}

/* The monitor is dead, the owner about to read its exit line: hands off. */
static void test_owner_lives(void **state)
{
	struct cow *cow = *state;
	pid_t owner = cow_monitor(), monitor = cow_monitor();
	struct cs_card *card;

	sweep(cow);
	create_owned(cow, "run-1", owner);
	cow_start(cow, "run-1", monitor);
	cow_write(cow, "run-1", "exit", "poweroff 7\n");
	cow_kill(monitor);
	sweep(cow);
	sweep(cow);
	card = cow_load(cow, "run-1");
	assert_int_equal(card->exit_status, 7);
	cs_card_free(card);
	cow_kill(owner);
	sweep(cow);
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
}

/* Nobody waits for it: it goes when its monitor has gone, and not before. */
static void test_nobody_waits(void **state)
{
	struct cow *cow = *state;
	pid_t monitor = cow_monitor();

	sweep(cow);
	create_owned(cow, "run-1", 0);
	sweep(cow);
	cow_start(cow, "run-1", monitor);
	sweep(cow);
	assert_true(cow_has(cow, "run-1", "card.json"));
	assert_true(is_alive(monitor));
	cow_kill(monitor);
	sweep(cow);
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
}

/* The owner's pid is another process now, and so is the monitor's: neither is to be killed. */
static void test_reused_pids(void **state)
{
	struct cow *cow = *state;
	pid_t owner = cow_monitor(), monitor = cow_monitor();
	struct cs_card *card;
	char mark[64];

	sweep(cow);
	create_owned(cow, "run-1", owner);
	cow_start(cow, "run-1", monitor);
	card = cow_load(cow, "run-1");
	card->pid_start_ticks++;
	card->owner_start_ticks++;
	assert_int_equal(cs_card_save(cow->store, card, NULL), 0);
	cs_card_free(card);
	/* found by a mark of a start before, whose pid is free */
	snprintf(mark, sizeof(mark), ".marks/4194303-%d-run-1", (int)owner);
	scratch_write(cow->guests_fd, mark, "");
	sweep(cow);
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
	assert_true(is_alive(owner));
	assert_true(is_alive(monitor));
	cow_kill(owner);
	cow_kill(monitor);
}

static void test_half_made_folders(void **state)
{
	struct cow *cow = *state;
	int fd;

	assert_int_equal(cs_mkdir_path(cow->guests_fd, ".marks/new-web/x", 0700), 0);
	assert_int_equal(cs_mkdir_path(cow->guests_fd, ".marks/old-web/x", 0700), 0);
	assert_int_equal(cs_mkdir_path(cow->guests_fd, ".marks/new-busy/x", 0700), 0);
	/* one is being made right now */
	fd = openat(cow->guests_fd, ".marks/new-busy", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK + 1);
	assert_false(cs_missing_at(cow->guests_fd, ".marks/new-busy/x"));
	close(fd);
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK);
}

static void test_a_locked_guest_is_left_alone(void **state)
{
	struct cow *cow = *state;
	pid_t pid = cow_monitor();
	int fd;

	sweep(cow);
	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	add_sockets(cow, "web");
	cow_kill(pid);
	fd = openat(cow->guests_fd, "web", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	sweep(cow);
	assert_true(cow_has(cow, "web", "control.sock"));
	close(fd);
	sweep(cow);
	assert_false(cow_has(cow, "web", "control.sock"));
}

/* After a boot: pids of the cards are in use again, by others, and marks are lost. */
static void test_after_a_boot(void **state)
{
	struct cow *cow = *state;
	pid_t pid = cow_monitor(), owner = cow_monitor();
	struct cs_card *card;

	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	create_owned(cow, "run-1", owner);
	cow_start(cow, "run-1", pid);
	for (int i = 0; i < 2; i++) {
		const char *guest = i ? "run-1" : "web";

		add_sockets(cow, guest);
		card = cow_load(cow, guest);
		snprintf(card->boot, sizeof(card->boot), "0000-1111");
		assert_int_equal(cs_card_save(cow->store, card, NULL), 0);
		cs_card_free(card);
	}
	assert_int_equal(cs_remove_tree_at(cow->guests_fd, ".marks"), 0);
	assert_int_equal(cs_mkdir_path(cow->guests_fd, ".marks", 0700), 0);
	scratch_write(cow->guests_fd, ".marks/boot-0000-1111", "");
	sweep(cow);
	assert_false(cow_has(cow, "web", "control.sock"));
	assert_true(cow_has(cow, "web", "card.json"));
	assert_true(cs_missing_at(cow->guests_fd, "run-1"));
	assert_int_equal(marks(cow), BOOT_MARK);
	assert_true(is_alive(pid));
	assert_true(is_alive(owner));
	cow_kill(pid);
	cow_kill(owner);
}

static void test_old_marks_after_a_boot(void **state)
{
	struct cow *cow = *state;
	char mark[64];

	cow_create(cow, "web");
	add_sockets(cow, "web");
	/* our own pid, so it is in use; of a guest that did not run since */
	snprintf(mark, sizeof(mark), ".marks/%d-0-web", (int)getpid());
	cs_mkdir_path(cow->guests_fd, ".marks", 0700);
	scratch_write(cow->guests_fd, mark, "");
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK);
}

/* With many guests the marks are looked through once a second, whatever the clock has done. */
static void test_many(void **state)
{
	static const time_t ages[] = { 2, -100 };
	struct cow *cow = *state;
	struct timespec then[2] = { { .tv_nsec = UTIME_OMIT }, { 0 } };
	char boot_mark[80] = ".marks/" CS_MARK_BOOT, mark[64];

	assert_int_equal(cs_boot_id(boot_mark + strlen(boot_mark), NULL), 0);
	sweep(cow);
	for (int i = 0; i < 70; i++) {
		/* NOLINTNEXTLINE */
		snprintf(mark, sizeof(mark), ".marks/%d-0-web-%d", (int)getpid(), i);
		scratch_write(cow->guests_fd, mark, "");
	}
	sweep(cow);
	assert_int_equal(marks(cow), 70 + BOOT_MARK);
	for (size_t i = 0; i < sizeof(ages) / sizeof(ages[0]); i++) {
		scratch_write(cow->guests_fd, ".marks/4194303-0-dead", "");
		sweep(cow);
		assert_true(cow_has(cow, ".marks", "4194303-0-dead"));
		then[1].tv_sec = time(NULL) - ages[i];
		assert_int_equal(utimensat(cow->guests_fd, boot_mark, then, 0), 0);
		sweep(cow);
		assert_false(cow_has(cow, ".marks", "4194303-0-dead"));
	}
	/* When they have become few each command looks again. */
	for (int i = 0; i < 60; i++) {
		/* NOLINTNEXTLINE */
		snprintf(mark, sizeof(mark), ".marks/%d-0-web-%d", (int)getpid(), i);
		assert_int_equal(unlinkat(cow->guests_fd, mark, 0), 0);
	}
	then[1].tv_sec = time(NULL) - 2;
	assert_int_equal(utimensat(cow->guests_fd, boot_mark, then, 0), 0);
	sweep(cow);
	scratch_write(cow->guests_fd, ".marks/4194303-0-dead", "");
	sweep(cow);
	assert_false(cow_has(cow, ".marks", "4194303-0-dead"));
	assert_int_equal(marks(cow), 10 + BOOT_MARK);
}

static void test_hostile_marks(void **state)
{
	static const char *const names[] = {
		"1",
		"-",
		"--",
		"x-0-web",
		"1-x-web",
		"99999999999999999999-0-web",
		"-1-0-web",
		"4194303-0-",
		"4194303-0-..",
		"4194303-0-.marks",
		"readme",
	};
	struct cow *cow = *state;
	char path[300];
	int n = sizeof(names) / sizeof(names[0]);

	sweep(cow);
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), ".marks/%s", names[i]);
		scratch_write(cow->guests_fd, path, "");
	}
	snprintf(path, sizeof(path), ".marks/4194303-0-%0200d", 0);
	scratch_write(cow->guests_fd, path, "");
	sweep(cow);
	/* not ours, not touched */
	assert_int_equal(marks(cow), BOOT_MARK + n + 1);
	/* of a guest that is gone, and of one that is broken: done with */
	scratch_write(cow->guests_fd, ".marks/4194303-0-gone", "");
	cow_create(cow, "broken");
	cow_write(cow, "broken", "card.json", "");
	scratch_write(cow->guests_fd, ".marks/4194303-0-broken", "");
	sweep(cow);
	assert_int_equal(marks(cow), BOOT_MARK + n + 1);
	assert_true(cow_has(cow, "broken", "card.json"));
}

/* One that cannot be swept does not keep the others. */
static void test_failure_is_told(void **state)
{
	struct cow *cow = *state;
	struct cs_err err = { .code = 0 };
	pid_t pid = cow_monitor();

	sweep(cow);
	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	add_sockets(cow, "web");
	cow_kill(pid);
	scratch_write(cow->guests_fd, ".marks/new-a-file", "");
	assert_int_equal(cs_overlay_sweep(cow->store, &err), -ENOTDIR);
	assert_non_null(strstr(err.text, "new-a-file"));
	assert_false(cow_has(cow, "web", "control.sock"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COW_TEST(test_nothing_to_do),
		COW_TEST(test_stale_sockets),
		COW_TEST(test_zombies),
		COW_TEST(test_running_guests_are_not_opened),
		COW_TEST(test_owner_died),
		COW_TEST(test_owner_died_before_the_start),
		COW_TEST(test_owner_lives),
		COW_TEST(test_nobody_waits),
		COW_TEST(test_reused_pids),
		COW_TEST(test_half_made_folders),
		COW_TEST(test_a_locked_guest_is_left_alone),
		COW_TEST(test_after_a_boot),
		COW_TEST(test_old_marks_after_a_boot),
		COW_TEST(test_many),
		COW_TEST(test_hostile_marks),
		COW_TEST(test_failure_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
