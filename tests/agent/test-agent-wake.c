/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent of a guest that has been restored: it finds its monitor's connection lost, and is
 * another guest before anybody in it runs on. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/agent/guest.h"

#define COUNT  "n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.01; done"
#define ID     "/etc/machine-id"
#define BOOT   "/proc/sys/kernel/random/boot_id"
#define OLD_ID "0123456789abcdef0123456789abcdef\n"

static const struct guest_config second = { .hostname = "second-guest",
					    .realtime_ns = 2000000000123456789 };

static struct guest *boot(void **state, const struct guest_config *config, const char *const *files)
{
	guest_boot(*state, config, files);
	return *state;
}

static struct guest *boot_counting(void **state, const char *const *files)
{
	const struct guest_config config = { .hostname = "first", .argv = ARGV("sh", "-c", COUNT) };

	guest_boot(*state, &config, files);
	guest_assert_changes(*state, "/run/count");
	return *state;
}

static void assert_text(const struct guest *g, const char *path, const char *text)
{
	char *now = guest_read(g, path);

	assert_string_equal(now, text);
	free(now);
}

static void assert_run(const struct guest *g, const char *script, const char *text)
{
	char *now = guest_run(g, script);

	assert_string_equal(now, text);
	free(now);
}

static void expect_status(struct guest *g, uint32_t status)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	uint32_t got;

	assert_int_equal(peer_expect(g->control, CS_WIRE_EXITED, payload), 4);
	memcpy(&got, payload, 4);
	assert_int_equal(got, status);
}

static void expect_trouble(struct guest *g, const char *words)
{
	char payload[CS_WIRE_MAX + 1];

	peer_expect(g->control, CS_WIRE_TROUBLE, payload);
	if (!strstr(payload, words))
		fail_msg("'%s' instead of '%s'", payload, words);
}

static void boot_id_is(const struct guest *g, const char *text, bool same)
{
	char *now = guest_run(g, "cat " BOOT);

	assert_int_equal(strlen(now), 37);
	assert_int_equal(strspn(now, "0123456789abcdef-"), 36);
	assert_int_equal(strcmp(now, text) == 0, same);
	free(now);
}

/* ---- who it is ---- */

static void test_another_guest(void **state)
{
	static const char *const files[] = {
		ID,        OLD_ID,       "/etc/hostname",
		"first\n", "/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tfirst\n::1\tip6\n",
		NULL
	};
	struct guest *g = boot_counting(state, files);
	uint8_t payload[CS_WIRE_MAX + 1];
	char *before = guest_run(g, "cat " BOOT), *now;

	guest_freeze(g, 0);
	guest_cut(g);
	guest_assert_still(g, "/run/count");
	assert_text(g, ID, OLD_ID);
	assert_text(g, BOOT, before);
	guest_send_config(g, &second);
	peer_expect(g->control, CS_WIRE_READY, payload);
	guest_assert_changes(g, "/run/count");

	assert_run(g, "uname -n; echo $HOSTNAME", "second-guest\nsecond-guest\n");
	assert_text(g, "/etc/hostname", "second-guest\n");
	assert_text(g, "/etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tsecond-guest\n::1\tip6\n");
	assert_text(g, "/run/clock", "0 2000000000.123456789\n");
	now = guest_read(g, ID);
	assert_int_equal(strlen(now), 33);
	assert_int_equal(strspn(now, "0123456789abcdef"), 32);
	assert_int_equal(now[12], '4');
	assert_string_not_equal(now, OLD_ID);
	free(now);
	boot_id_is(g, before, false);
	free(before);
	guest_end(g);
}

/* The source of the picture notices nothing. */
static void test_source_stays(void **state)
{
	static const char *const files[] = { ID, OLD_ID, "/etc/hosts", "127.0.1.1\tfirst\n", NULL };
	struct guest *g = boot_counting(state, files);
	char *before = guest_run(g, "cat " BOOT);

	for (int i = 0; i < 2; i++) {
		guest_freeze(g, 0);
		guest_thaw(g);
		guest_assert_changes(g, "/run/count");
		assert_text(g, ID, OLD_ID);
		assert_text(g, "/etc/hosts", "127.0.1.1\tfirst\n");
		assert_text(g, "/etc/hostname", "");
		assert_text(g, "/run/clock", "");
		boot_id_is(g, before, true);
	}
	free(before);
	guest_end(g);
}

/* Parked, and woken up under its own name: the same guest with another clock. */
static void test_same_guest(void **state)
{
	static const char *const files[] = { ID, OLD_ID, NULL };
	const struct guest_config same = { .hostname = "first",
					   .flags = CS_WIRE_CONFIG_SAME,
					   .realtime_ns = 1000000000 };
	struct guest *g = boot_counting(state, files);
	char *before = guest_run(g, "cat " BOOT);

	guest_freeze(g, 0);
	guest_wake(g, &same);
	guest_assert_changes(g, "/run/count");
	assert_text(g, ID, OLD_ID);
	assert_text(g, "/run/clock", "0 1.000000000\n");
	boot_id_is(g, before, true);
	free(before);
	guest_end(g);
}

static uint64_t raw_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The first CONFIG took 20 seconds, the FREEZE came at once: so that is how late the next is, which
 * has waited for 5. One of a clock that cannot be compared counts as of now. */
static void test_late_config(void **state)
{
	static const uint64_t second_ns = 1000000000;
	const struct guest_config first = { .hostname = "first",
					    .clock_ns = raw_clock() - 20 * second_ns };
	struct guest_config late = { .hostname = "late", .realtime_ns = 2000 * second_ns };
	struct guest *g = boot(state, &first, NULL);
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_send_freeze(g, 0, raw_clock());
	assert_int_equal(peer_expect(g->control, CS_WIRE_FROZEN, payload), 4);
	late.clock_ns = raw_clock() - 5 * second_ns;
	guest_resume(g, &late);
	assert_in_range(guest_clock(g), 2005 - 1, 2005 + PEER_PATIENCE_MS / 1000);

	late.clock_ns = 1 + raw_clock() / 2;
	late.realtime_ns = 3000 * second_ns + 500000000;
	guest_freeze(g, 0);
	guest_resume(g, &late);
	assert_in_range(guest_clock(g), 3000, 3000);
	guest_end(g);
}

/* What the root does not have it does not get; a name that is there is not written again. */
static void test_hosts(void **state)
{
	static const char *const none[] = { "/etc/motd", "", NULL };
	static const char *const open_end[] = { "/etc/hosts", "127.0.0.1 localhost", NULL };
	static const char *const there[] = { "/etc/hosts", "127.0.0.1 localhost second-guest\n",
					     NULL };
	static const char *const longer[] = { "/etc/hosts", "127.0.1.1 first x\n# first\n", NULL };
	static const struct {
		const char *const *files;
		const char *text;
	} cases[] = {
		{ none, "" },
		{ open_end, "127.0.0.1 localhost\n127.0.1.1\tsecond-guest\n" },
		{ there, "127.0.0.1 localhost second-guest\n" },
		{ longer, "127.0.1.1 second-guest x\n# first\n" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct guest *g = boot(state, NULL, cases[i].files);

		guest_freeze(g, 0);
		guest_wake(g, &second);
		assert_run(g, "uname -n", "second-guest\n");
		assert_text(g, "/etc/hosts", cases[i].text);
		assert_text(g, "/etc/hostname", "");
		assert_text(g, ID, "");
		/* A shorter name leaves nothing of the longer one. */
		guest_freeze(g, 0);
		guest_wake(g, &(struct guest_config){ .hostname = "x3" });
		assert_run(g, "uname -n", "x3\n");
		if (i == 1)
			assert_text(g, "/etc/hosts", "127.0.0.1 localhost\n127.0.1.1\tx3\n");
		guest_end(g);
	}
}

/* Of the agent, when it has nothing to do. */
static size_t open_files(const struct guest *g)
{
	char name[64];
	size_t n = 0;
	DIR *folder;

	snprintf(name, sizeof(name), "/proc/%d/fd", (int)g->peer.pid);
	folder = opendir(name);
	assert_non_null(folder);
	while (readdir(folder))
		n++;
	closedir(folder);
	return n;
}

static size_t mounts(const struct guest *g)
{
	char name[32], *text;
	size_t n = 0;

	snprintf(name, sizeof(name), "/proc/1/mounts");
	text = guest_read(g, name);
	for (const char *at = text; (at = strchr(at, '\n')); at++)
		n++;
	free(text);
	return n;
}

/* A clone of a clone of a clone. Nothing is left behind by any. */
static void test_generations(void **state)
{
	static const char *const files[] = { ID, OLD_ID, "/etc/hosts", "127.0.1.1\tfirst\n", NULL };
	struct guest *g = boot_counting(state, files);
	size_t files_open = 0, mounted = 0;
	char name[32], text[64];

	for (int i = 0; i < 6; i++) {
		char *id = guest_read(g, ID), *now;

		guest_freeze(g, i % 2 ? CS_WIRE_FREEZE_SYNC : 0);
		snprintf(name, sizeof(name), "clone-%d", i);
		if (i % 3)
			guest_wake(g, &(struct guest_config){ .hostname = name });
		else
			guest_resume(g, &(struct guest_config){ .hostname = name });
		snprintf(text, sizeof(text), "127.0.1.1\t%s\n", name);
		assert_text(g, "/etc/hosts", text);
		now = guest_read(g, ID);
		assert_string_not_equal(now, id);
		free(now);
		free(id);

		guest_freeze(g, 0);
		if (i == 0) {
			files_open = open_files(g);
			mounted = mounts(g);
		}
		assert_int_equal(open_files(g), files_open);
		assert_int_equal(mounts(g), mounted);
		guest_thaw(g);
	}
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* The last exec has ended for the kernel, too. */
static void wait_empty(const struct guest *g)
{
	const struct timespec nap = { .tv_nsec = 10000000 };
	char path[128], text[64] = "";

	snprintf(path, sizeof(path), "%s/guest/cgroup.events", g->cgroup);
	for (int i = 0; i < PEER_PATIENCE_MS / 10 && !strstr(text, "populated 0"); i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = read(fd, text, sizeof(text) - 1);

		text[n > 0 ? n : 0] = 0;
		close(fd);
		nanosleep(&nap, NULL);
	}
	assert_non_null(strstr(text, "populated 0"));
}

/* Nobody runs who could see it: names and ids are written when somebody comes. */
static void test_empty_guest(void **state)
{
	static const char *const files[] = { ID, OLD_ID, "/etc/hosts", "127.0.1.1\tfirst\n", NULL };
	struct guest *g = boot(state, NULL, files);
	char *before;

	before = guest_run(g, "cat " BOOT);
	wait_empty(g);
	for (int i = 0; i < 2; i++) {
		guest_freeze(g, 0);
		if (i)
			guest_resume(g, &second);
		else
			guest_wake(g, &(struct guest_config){ .hostname = "between" });
		assert_text(g, ID, OLD_ID);
		assert_text(g, BOOT, before);
		/* A clone of it that nobody has been in either. */
	}
	assert_run(g, "uname -n; cat /etc/hosts", "second-guest\n127.0.1.1\tsecond-guest\n");
	boot_id_is(g, before, false);
	free(before);
	before = guest_read(g, ID);
	assert_string_not_equal(before, OLD_ID);
	free(before);
	guest_end(g);
}

/* ---- what runs ---- */

/* Without a new COMMAND the old one is what the guest lives for. */
static void test_command_stays(void **state)
{
	struct guest *g = boot_counting(state, NULL);

	guest_freeze(g, 0);
	guest_wake(g, &second);
	assert_int_equal(kill(guest_child(g), SIGTERM), 0);
	expect_status(g, 128 + SIGTERM);
	guest_end(g);
}

static void test_new_command(void **state)
{
	const struct guest_config config = {
		.hostname = "second",
		.argv = ARGV("sh", "-c",
			     "echo $A >/run/a; while [ ! -e /run/end ]; do sleep 0.02; done; "
			     "exit 9"),
		.env = ARGV("A=from config"),
	};
	struct guest *g = boot_counting(state, NULL);
	struct pollfd p = { .fd = -1, .events = POLLIN };
	pid_t old = guest_child(g);

	guest_freeze(g, 0);
	guest_wake(g, &config);
	guest_wait_text(g, "/run/a", "from config\n");
	guest_assert_changes(g, "/run/count");
	p.fd = g->control;
	assert_int_equal(kill(old, SIGKILL), 0);
	assert_int_equal(poll(&p, 1, 300), 0);
	guest_write(g, "/run/end", "");
	expect_status(g, 9);
	guest_end(g);
}

static void test_command_fails(void **state)
{
	struct guest *g = boot(state, NULL, NULL);

	guest_freeze(g, 0);
	guest_cut(g);
	guest_send_config(g, &(struct guest_config){ .hostname = "second",
						     .argv = ARGV("/no/such/program") });
	expect_trouble(g, "/no/such/program: not found in the guest");
	peer_expect(g->control, CS_WIRE_READY, (uint8_t[CS_WIRE_MAX + 1]){ 0 });
	expect_status(g, 127);
	guest_end(g);
}

/* COMMAND has ended in the picture already. */
static void test_command_ended_frozen(void **state)
{
	struct guest *g = boot_counting(state, NULL);

	guest_freeze(g, 0);
	assert_int_equal(kill(guest_child(g), SIGKILL), 0);
	guest_assert_still(g, "/run/count");
	guest_wake(g, &second);
	expect_status(g, 128 + SIGKILL);
	guest_end(g);
}

/* The picture was taken while an exec waited for its end: it belongs to the source, and in the
 * clone nobody has asked for anything. */
static void test_waiting_exec_is_not_cloned(void **state)
{
	struct guest *g = boot(state, NULL, NULL);
	int fd;

	guest_freeze(g, 0);
	fd = peer_connect(&g->peer);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sh", "-c", "echo ran >/run/ran") });
	guest_assert_still(g, "/run/ran");
	close(fd);
	guest_wake(g, &second);
	assert_run(g, "sleep 0.2; [ -e /run/ran ] || echo no", "no\n");
	/* One that came to the clone itself is another matter. */
	guest_freeze(g, 0);
	guest_cut(g);
	fd = peer_connect(&g->peer);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sh", "-c", "uname -n >/run/ran") });
	guest_send_config(g, &(struct guest_config){ .hostname = "third" });
	guest_wait_text(g, "/run/ran", "third\n");
	close(fd);
	guest_end(g);
}

/* ---- the monitor ---- */

/* Nobody had asked for a freeze: a live guest was restored. It is the same to the agent. */
static void test_lost_while_running(void **state)
{
	static const char *const files[] = { ID, OLD_ID, "/etc/hostname", "first\n", NULL };
	struct guest *g = boot_counting(state, files);
	uint8_t payload[CS_WIRE_MAX + 1];
	char *now;

	guest_cut(g);
	guest_assert_still(g, "/run/count");
	guest_send_config(g, &second);
	peer_expect(g->control, CS_WIRE_READY, payload);
	guest_assert_changes(g, "/run/count");
	assert_run(g, "uname -n; cat /etc/hostname", "second-guest\nsecond-guest\n");
	now = guest_read(g, ID);
	assert_string_not_equal(now, OLD_ID);
	free(now);
	guest_end(g);
}

/* Frozen, it waits for its CONFIG, and for nothing less. */
static void test_monitor_refuses(void **state)
{
	struct guest *g = boot_counting(state, NULL);
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_freeze(g, 0);
	for (int i = 0; i < 3; i++)
		guest_cut(g);
	peer_send(g->control, CS_WIRE_STOP, "\0\0\0\0\0\0\0\0", 8);
	guest_accept(g);
	guest_assert_still(g, "/run/count");
	guest_send_config(g, &second);
	peer_expect(g->control, CS_WIRE_READY, payload);
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* Not frozen and never restored, and the monitor has just gone: a guest without one. */
static void test_monitor_is_gone(void **state)
{
	struct guest *g = boot_counting(state, NULL);

	shutdown(g->listener, SHUT_RDWR);
	close(g->control);
	g->control = -1;
	guest_assert_changes(g, "/run/count");
	assert_run(g, "uname -n", "before\n");
	guest_end(g);
}

/* The connection was restored with the guest: the monitor just says who it is now. */
static void test_connection_lives_on(void **state)
{
	static const char *const files[] = { ID, OLD_ID, "/etc/hostname", "first\n", NULL };
	struct guest *g = boot_counting(state, files);
	uint8_t payload[CS_WIRE_MAX + 1];
	char *before = guest_run(g, "cat " BOOT), *now;

	guest_freeze(g, 0);
	guest_resume(g, &second);
	guest_assert_changes(g, "/run/count");
	assert_run(g, "uname -n; cat /etc/hostname", "second-guest\nsecond-guest\n");
	assert_text(g, "/run/clock", "0 2000000000.123456789\n");
	now = guest_read(g, ID);
	assert_string_not_equal(now, OLD_ID);
	free(now);
	boot_id_is(g, before, false);
	free(before);

	/* Byte by byte; and one that is none changes nothing. */
	guest_freeze(g, 0);
	guest_send_config_slowly(g, &(struct guest_config){ .hostname = "third",
							    .argv = ARGV("sh", "-c", "exit 3") });
	peer_expect(g->control, CS_WIRE_READY, payload);
	expect_status(g, 3);
	guest_end(g);
}

static void test_bad_config(void **state)
{
	struct guest *g = boot_counting(state, NULL);
	uint8_t payload[200] = { 0 };

	guest_freeze(g, 0);
	peer_send(g->control, CS_WIRE_CONFIG, payload, sizeof(payload));
	expect_trouble(g, "cannot wake up: CONFIG: Protocol error");
	guest_assert_still(g, "/run/count");
	guest_resume(g, &second);
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* What comes right behind CONFIG is not lost. */
static void test_freeze_at_once(void **state)
{
	struct guest *g = boot_counting(state, NULL);
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_freeze(g, 0);
	guest_cut(g);
	guest_send_config(g, &second);
	guest_send_freeze(g, 0, 0);
	peer_expect(g->control, CS_WIRE_READY, payload);
	assert_int_equal(peer_expect(g->control, CS_WIRE_FROZEN, payload), 4);
	assert_memory_equal(payload, "\0\0\0\0", 4);
	guest_assert_still(g, "/run/count");
	guest_thaw(g);
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* The monitor asks by the connection that is there; also a guest that is frozen answers. */
static void test_ping(void **state)
{
	struct guest *g = boot(state, NULL, NULL);
	uint8_t payload[CS_WIRE_MAX + 1];

	peer_send(g->control, CS_WIRE_PING, NULL, 0);
	assert_int_equal(peer_expect(g->control, CS_WIRE_PONG, payload), 0);
	guest_freeze(g, 0);
	peer_send(g->control, CS_WIRE_PING, "7 bytes", 7);
	assert_int_equal(peer_expect(g->control, CS_WIRE_PONG, payload), 7);
	assert_memory_equal(payload, "7 bytes", 7);
	guest_resume(g, &second);
	peer_send(g->control, CS_WIRE_PING, NULL, 0);
	assert_int_equal(peer_expect(g->control, CS_WIRE_PONG, payload), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, guest_make, guest_unmake)
	const struct CMUnitTest tests[] = {
		TEST(another_guest),
		TEST(source_stays),
		TEST(same_guest),
		TEST(late_config),
		TEST(hosts),
		TEST(generations),
		TEST(empty_guest),
		TEST(command_stays),
		TEST(new_command),
		TEST(command_fails),
		TEST(command_ended_frozen),
		TEST(waiting_exec_is_not_cloned),
		TEST(lost_while_running),
		TEST(monitor_refuses),
		TEST(monitor_is_gone),
		TEST(connection_lives_on),
		TEST(bad_config),
		TEST(freeze_at_once),
		TEST(ping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
