/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is alive, how the others ended, and who may start a guest. */
#include <errno.h>

#include "tests/unit/cow-guest.h"

static void check_state(struct cow *cow, enum cs_guest_state want, const char *reason, int status)
{
	struct cs_card *card = cow_load(cow, "web");

	assert_int_equal(card->state, want);
	assert_string_equal(card->stop_reason, reason);
	assert_int_equal(card->exit_status, status);
	cs_card_free(card);
}

static bool is_paused(struct cow *cow)
{
	cs_auto(cs_card_freep) struct cs_card *card = cow_load(cow, "web");

	return card->paused;
}

static void test_runs_and_stops(void **state)
{
	static const struct {
		const char *line;
		enum cs_guest_state state;
		const char *reason;
		int status;
	} rows[] = {
		{ "poweroff 0\n", CS_GUEST_STOPPED, "poweroff", 0 },
		{ "poweroff 7\n", CS_GUEST_STOPPED, "poweroff", 7 },
		{ "poweroff 255\n", CS_GUEST_STOPPED, "poweroff", 255 },
		{ "reboot 0\n", CS_GUEST_STOPPED, "reboot", 0 },
		{ "request -1\n", CS_GUEST_STOPPED, "request", -1 },
		{ "crash -1\n", CS_GUEST_CRASHED, "crash", -1 },
		{ "", CS_GUEST_CRASHED, "killed", -1 },
		{ "paused\n", CS_GUEST_CRASHED, "killed", -1 },
		/* from a monitor that was taken over */
		{ "poweroff 0", CS_GUEST_CRASHED, "crash", -1 },
		{ "poweroff\n", CS_GUEST_CRASHED, "crash", -1 },
		{ "poweroff 256\n", CS_GUEST_CRASHED, "crash", -1 },
		{ "poweroff -2\n", CS_GUEST_CRASHED, "crash", -1 },
		{ "poweroff 0\nx", CS_GUEST_CRASHED, "crash", -1 },
		{ "\npoweroff 0", CS_GUEST_CRASHED, "crash", -1 },
		{ "\033[2J 0\n", CS_GUEST_CRASHED, "crash", -1 },
		{ " 0\n", CS_GUEST_CRASHED, "crash", -1 },
		{ "poweroff 0                                                             \n",
		  CS_GUEST_CRASHED, "crash", -1 },
	};
	struct cow *cow = *state;
	pid_t pid = cow_monitor();

	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	check_state(cow, CS_GUEST_RUNNING, "", -1);
	/* while it runs the line does not count */
	cow_write(cow, "web", "exit", "poweroff 0\n");
	check_state(cow, CS_GUEST_RUNNING, "", -1);
	assert_false(is_paused(cow));
	cow_write(cow, "web", "exit", "paused\n");
	check_state(cow, CS_GUEST_RUNNING, "", -1);
	assert_true(is_paused(cow));
	cow_kill(pid);
	assert_false(is_paused(cow));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cow_write(cow, "web", "exit", rows[i].line);
		check_state(cow, rows[i].state, rows[i].reason, rows[i].status);
	}
	assert_int_equal(unlinkat(cow->guests_fd, "web/exit", 0), 0);
	check_state(cow, CS_GUEST_CRASHED, "killed", -1);
}

static void test_reused_pid(void **state)
{
	struct cow *cow = *state;
	pid_t pid = cow_monitor();
	struct cs_card *card;

	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	card = cow_load(cow, "web");
	card->pid_start_ticks++;
	assert_int_equal(cs_card_save(cow->store, card, NULL), 0);
	check_state(cow, CS_GUEST_CRASHED, "killed", -1);
	/* the same pid and time, of another boot */
	card->pid_start_ticks--;
	assert_int_equal(cs_card_save(cow->store, card, NULL), 0);
	check_state(cow, CS_GUEST_RUNNING, "", -1);
	snprintf(card->boot, sizeof(card->boot), "0-1-2");
	assert_int_equal(cs_card_save(cow->store, card, NULL), 0);
	check_state(cow, CS_GUEST_CRASHED, "killed", -1);
	cs_card_free(card);
	cow_kill(pid);
}

static void test_zombie_is_dead(void **state)
{
	struct cow *cow = *state;
	pid_t pid = cow_monitor();
	uint64_t ticks;
	siginfo_t info;

	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(cs_process_start(pid, &ticks), -ESRCH);
	check_state(cow, CS_GUEST_CRASHED, "killed", -1);
	waitpid(pid, NULL, 0);
	assert_int_equal(cs_process_start(pid, &ticks), -ESRCH);
	assert_int_equal(cs_process_start(0, &ticks), -ESRCH);
	assert_int_equal(cs_process_start(getpid(), &ticks), 0);
	assert_true(cs_process_alive(getpid(), ticks));
	assert_false(cs_process_alive(getpid(), ticks + 1));
	assert_false(cs_process_alive(0, 0));
	assert_false(cs_process_alive(-1, 0));
}

static void test_start_forgets_the_last_run(void **state)
{
	struct cow *cow = *state;
	pid_t first = cow_monitor(), second;
	struct cs_card *card;

	cow_create(cow, "web");
	cow_start(cow, "web", first);
	cow_kill(first);
	cow_write(cow, "web", "exit", "poweroff 0\n");
	cow_write(cow, "web", "control.sock", "");
	cow_write(cow, "web", "vsock.sock", "");
	cow_write(cow, "web", "console.log", "kept");
	second = cow_monitor();
	card = cow_load(cow, "web");
	assert_int_equal(cs_card_start(cow->store, card, second, NULL), 0);
	assert_int_equal(card->pid, second);
	assert_int_equal(card->state, CS_GUEST_RUNNING);
	assert_true(card->started > 1700000000);
	cs_card_free(card);
	assert_int_equal(scratch_count(cow->guests_fd, ".marks"), 1);
	assert_false(cow_has(cow, "web", "exit"));
	assert_false(cow_has(cow, "web", "control.sock"));
	assert_false(cow_has(cow, "web", "vsock.sock"));
	assert_true(cow_has(cow, "web", "console.log"));
	cow_kill(second);
	check_state(cow, CS_GUEST_CRASHED, "killed", -1);
}

/* Whoever starts a guest need not know how it was spawned. */
static void test_start_keeps_the_card(void **state)
{
	struct cow *cow = *state;
	struct cs_card card = cow_card("web"), other = { .guest = "web" }, *got;
	pid_t pid = cow_monitor();

	card.persist = true;
	card.vcpus = 3;
	assert_int_equal(cs_overlay_create(cow->store, cow->t, &card, NULL), 0);
	assert_int_equal(cs_card_start(cow->store, &other, pid, NULL), 0);
	assert_int_equal(other.disk_bytes, DISK_BYTES);
	assert_int_equal(other.created, card.created);
	got = cow_load(cow, "web");
	assert_true(got->persist);
	assert_int_equal(got->vcpus, 3);
	assert_int_equal(got->disk_bytes, DISK_BYTES);
	assert_int_equal(got->created, card.created);
	assert_int_equal(got->started, other.started);
	assert_int_equal(got->pid, pid);
	cs_card_free(got);
	cow_kill(pid);
}

static void test_start_refuses(void **state)
{
	struct cow *cow = *state;
	pid_t first = cow_monitor(), second = cow_monitor(), dead = cow_monitor();
	struct cs_err err = { .code = 0 };
	struct cs_card *card, *late;

	cow_kill(dead);
	cow_create(cow, "web");
	card = cow_load(cow, "web");
	late = cow_load(cow, "web");
	assert_int_equal(cs_card_start(cow->store, card, dead, &err), -ESRCH);
	assert_int_equal(card->pid, 0);
	assert_int_equal(card->started, 0);
	check_state(cow, CS_GUEST_STOPPED, "new", -1);
	assert_int_equal(cs_card_start(cow->store, card, first, &err), 0);
	/* one who looked before: the other start was faster */
	assert_int_equal(cs_card_start(cow->store, late, second, &err), -EBUSY);
	assert_non_null(strstr(err.text, "runs already"));
	assert_int_equal(late->pid, 0);
	cow_kill(first);
	assert_int_equal(cs_overlay_remove(cow->store, "web", &err), 0);
	assert_int_equal(cs_card_start(cow->store, late, second, &err), -ENOENT);
	cow_kill(second);
	cs_card_free(card);
	cs_card_free(late);
}

/* Many start the same guest at once: one does. */
static void test_start_race(void **state)
{
	struct cow *cow = *state;
	pid_t pid[6];
	int won = 0, status;

	cow_create(cow, "web");
	for (int i = 0; i < 6; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (!pid[i]) {
			struct cs_card *card = NULL;
			int r = cs_card_load(cow->store, "web", &card, NULL);

			if (r == 0)
				r = cs_card_start(cow->store, card, getpid(), NULL);
			if (r == 0) {
				alarm(300);
				for (;;)
					pause();
			}
			_exit(r == -EBUSY ? 0 : 1);
		}
	}
	/* five lose and say so; the sixth stays */
	for (int i = 0; i < 5; i++) {
		assert_true(waitpid(-1, &status, 0) > 0);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	for (int i = 0; i < 6; i++) {
		if (waitpid(pid[i], NULL, WNOHANG) == 0) {
			struct cs_card *card = cow_load(cow, "web");

			assert_int_equal(card->pid, pid[i]);
			assert_int_equal(card->state, CS_GUEST_RUNNING);
			cs_card_free(card);
			cow_kill(pid[i]);
			won++;
		}
	}
	assert_int_equal(won, 1);
}

static void test_exit_file(void **state)
{
	struct cow *cow = *state;
	pid_t pid = cow_monitor();
	int dirfd, fd = -1, other = -1;

	cow_create(cow, "web");
	cow_start(cow, "web", pid);
	cow_write(cow, "web", "exit", "poweroff 0 and much more than will be written now\n");
	dirfd = openat(cow->guests_fd, "web", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cs_card_open_exit(dirfd, &fd), 0);
	assert_int_equal(cs_card_open_exit(dirfd, &other), -EBUSY);
	assert_int_equal(other, -1);
	assert_int_equal(cs_card_write_exit(fd, "poweroff", 7), 0);
	close(fd);
	cow_kill(pid);
	check_state(cow, CS_GUEST_STOPPED, "poweroff", 7);
	/* a link in its place is not followed */
	assert_int_equal(unlinkat(dirfd, "exit", 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", dirfd, "exit"), 0);
	assert_int_equal(cs_card_open_exit(dirfd, &fd), -ELOOP);
	check_state(cow, CS_GUEST_CRASHED, "crash", -1);
	close(dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		COW_TEST(test_runs_and_stops),       COW_TEST(test_reused_pid),
		COW_TEST(test_zombie_is_dead),       COW_TEST(test_start_forgets_the_last_run),
		COW_TEST(test_start_keeps_the_card), COW_TEST(test_start_refuses),
		COW_TEST(test_start_race),           COW_TEST(test_exit_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
