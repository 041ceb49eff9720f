/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /etc/clearstore/wake.d: what runs when a restored guest wakes up, and nothing else does. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/agent/guest.h"

#define COUNT "n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.01; done"
#define HOOKS "/etc/clearstore/wake.d/"

static const struct guest_config second = { .hostname = "second", .env = ARGV("A=b c") };

static struct guest *boot(void **state, const char *const *files)
{
	const struct guest_config config = { .hostname = "first", .argv = ARGV("sh", "-c", COUNT) };

	guest_boot(*state, &config, files);
	return *state;
}

static void assert_text(const struct guest *g, const char *path, const char *text)
{
	char *now = guest_read(g, path);

	assert_string_equal(now, text);
	free(now);
}

static void expect_trouble(struct guest *g, const char *words)
{
	char payload[CS_WIRE_MAX + 1];

	peer_expect(g->control, CS_WIRE_TROUBLE, payload);
	if (!strstr(payload, words))
		fail_msg("'%s' instead of '%s'", payload, words);
}

/* In order, as another guest already, with CONFIG's environment; and only what is a hook. */
static void test_hooks(void **state)
{
	static const char say[] = "#!/bin/sh\n"
				  "echo ${0##*/} $CLEARSTORE_WOKEN $CLEARSTORE_HOSTNAME \"$A\" "
				  "$(uname -n) $(pwd) >>/run/said\n";
	static const char *const files[] = {
		HOOKS "20-b*",        say, HOOKS "10-a*",  say, HOOKS "30-no",          say,
		HOOKS ".hidden*",     say, HOOKS "40-c~*", say, HOOKS "50-d.dpkg-old*", say,
		HOOKS "60-folder/x*", say, NULL,
	};
	struct guest *g = boot(state, files);

	guest_freeze(g, 0);
	assert_text(g, "/run/said", "");
	guest_thaw(g);
	guest_freeze(g, 0);
	guest_wake(g, &second);
	assert_text(g, "/run/said", "10-a 1 second b c second /\n20-b 1 second b c second /\n");
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* Nobody else runs before the last hook is done. */
static void test_others_are_frozen(void **state)
{
	static const char *const files[] = {
		HOOKS "a*",
		"#!/bin/sh\na=$(cat /run/count); sleep 0.3; b=$(cat /run/count)\n"
		"[ \"$a\" = \"$b\" ] && echo still >/run/said\n",
		NULL
	};
	struct guest *g = boot(state, files);

	guest_assert_changes(g, "/run/count");
	guest_freeze(g, 0);
	guest_wake(g, &second);
	assert_text(g, "/run/said", "still\n");
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* What a hook leaves running is a process of the guest like any other, also at the next save. */
static void test_leftovers(void **state)
{
	static const char *const files[] = {
		HOOKS "a*",
		"#!/bin/sh\nsetsid sh -c 'n=0; while :; do n=$((n+1)); echo $n >/run/left; "
		"sleep 0.01; done' </dev/null >/dev/null 2>&1 &\n",
		NULL
	};
	struct guest *g = boot(state, files);
	char path[128], text[64] = "";
	FILE *file;

	guest_freeze(g, 0);
	guest_wake(g, &second);
	guest_assert_changes(g, "/run/left");
	guest_freeze(g, 0);
	guest_assert_still(g, "/run/left");
	guest_thaw(g);
	guest_assert_changes(g, "/run/left");

	snprintf(path, sizeof(path), "%s/wake/cgroup.procs", g->cgroup);
	file = fopen(path, "re");
	assert_non_null(file);
	assert_null(fgets(text, sizeof(text), file));
	fclose(file);
	guest_end(g);
}

/* A hook that fails, that cannot be run, that is killed: the user hears of it, and the guest wakes
 * up all the same. */
static void test_failures(void **state)
{
	static const char *const files[] = { HOOKS "1*", "#!/bin/sh\nexit 3\n",
					     HOOKS "2*", "#!/no/such/shell\n",
					     HOOKS "3*", "#!/bin/sh\nkill -9 $$\n",
					     HOOKS "4*", "#!/bin/sh\necho ran >/run/said\n",
					     NULL };
	struct guest *g = boot(state, files);
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_freeze(g, 0);
	guest_cut(g);
	guest_send_config(g, &second);
	expect_trouble(g, "wake.d/1: ended with status 3");
	expect_trouble(g, "its interpreter /no/such/shell is not there");
	expect_trouble(g, "wake.d/3: ended by signal 9");
	peer_expect(g->control, CS_WIRE_READY, payload);
	assert_text(g, "/run/said", "ran\n");
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* One that does not end is ended, with all that it has started. */
static void test_timeout(void **state)
{
	static const char *const files[] = { HOOKS "1*",
					     "#!/bin/sh\ntrap '' TERM HUP INT\n"
					     "setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n "
					     ">/run/left; sleep 0.01; done' &\n"
					     "sleep 0.1; >/run/impatient\nsleep 900\n",
					     NULL };
	struct guest *g = boot(state, files);
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_freeze(g, 0);
	guest_cut(g);
	guest_send_config(g, &second);
	expect_trouble(g, "wake.d/1: not done within 30 s, ended");
	peer_expect(g->control, CS_WIRE_READY, payload);
	guest_assert_still(g, "/run/left");
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

/* COMMAND ends while a hook runs, which waits for its own end: neither is lost. */
static void test_command_ends_meanwhile(void **state)
{
	static const char *const files[] = {
		HOOKS "a*",
		"#!/bin/sh\necho here >/run/here; while [ ! -e /run/go ]; do sleep 0.02; done\n",
		NULL
	};
	struct guest *g = boot(state, files);
	uint8_t payload[CS_WIRE_MAX + 1];
	pid_t command = guest_child(g);

	guest_freeze(g, 0);
	guest_cut(g);
	guest_send_config(g, &second);
	guest_wait_text(g, "/run/here", "here");
	assert_int_equal(kill(command, SIGKILL), 0);
	guest_assert_still(g, "/run/count");
	guest_write(g, "/run/go", "");
	peer_expect(g->control, CS_WIRE_READY, payload);
	assert_int_equal(peer_expect(g->control, CS_WIRE_EXITED, payload), 4);
	assert_int_equal(payload[0], 128 + SIGKILL);
	guest_end(g);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, guest_make, guest_unmake)
	const struct CMUnitTest tests[] = {
		TEST(hooks),    TEST(others_are_frozen), TEST(leftovers),
		TEST(failures), TEST(timeout),           TEST(command_ends_meanwhile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
