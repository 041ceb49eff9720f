/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent freezes what runs beside it, and lets it go on. The same tests by cgroups and, as in a
 * kernel without, by signals. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/agent/guest.h"

/* Counts into /run/count, without a process for it. */
#define COUNT "n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.01; done"

static struct guest *boot(void **state, const char *script)
{
	const struct guest_config config = { .hostname = "first",
					     .argv = script ? ARGV("sh", "-c", script) : NULL };

	guest_boot(*state, &config, NULL);
	return *state;
}

static void expect_u32(struct guest *g, enum cs_wire_type type, uint32_t value)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	uint32_t got;

	assert_int_equal(peer_expect(g->control, type, payload), 4);
	memcpy(&got, payload, 4);
	assert_int_equal(got, value);
}

static void ping(struct guest *g)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	int fd = peer_connect(&g->peer);

	peer_send(fd, CS_WIRE_PING, "hello", 5);
	assert_int_equal(peer_expect(fd, CS_WIRE_PONG, payload), 5);
	close(fd);
}

static void test_freeze_and_thaw(void **state)
{
	struct guest *g = boot(state, COUNT);

	for (int i = 0; i < 3; i++) {
		guest_assert_changes(g, "/run/count");
		guest_freeze(g, 0);
		guest_assert_still(g, "/run/count");
		ping(g);
		guest_thaw(g);
	}
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

static void test_flags(void **state)
{
	struct guest *g = boot(state, NULL);
	char *text;

	guest_freeze(g, CS_WIRE_FREEZE_SYNC | CS_WIRE_FREEZE_DROP);
	text = guest_read(g, "/run/sync");
	assert_string_equal(text, "sync\n");
	free(text);
	text = guest_read(g, "/run/drop");
	assert_string_equal(text, "3");
	free(text);
	guest_thaw(g);

	guest_send_freeze(g, 64, 0);
	expect_u32(g, CS_WIRE_FROZEN, EINVAL);
	guest_freeze(g, 0);
	/* A monitor that has lost count: not frozen any more, and it is told so. */
	guest_send_freeze(g, 0, 0);
	expect_u32(g, CS_WIRE_FROZEN, EINVAL);
	free(guest_run(g, "true"));
	guest_end(g);
}

/* Whoever starts processes all the time is caught as well, with all of them. */
static void test_forks(void **state)
{
	struct guest *g = boot(
		state, "f() { n=0; while :; do n=$((n+1)); sh -c \"echo $n >/run/$1\"; done; }; "
		       "f a & f b & f count");
	static const char *const files[] = { "/run/a", "/run/b", "/run/count" };

	for (int i = 0; i < 5; i++) {
		guest_assert_changes(g, files[i % 3]);
		guest_freeze(g, 0);
		for (size_t j = 0; j < 3; j++)
			guest_assert_still(g, files[j]);
		guest_thaw(g);
	}
	for (size_t j = 0; j < 3; j++)
		guest_assert_changes(g, files[j]);
	guest_end(g);
}

/* What an exec started in the background, in a session of its own. */
static void test_daemons(void **state)
{
	struct guest *g = boot(state, NULL);

	free(guest_run(g, "setsid sh -c '" COUNT "' </dev/null >/dev/null 2>&1 &"));
	guest_assert_changes(g, "/run/count");
	guest_freeze(g, 0);
	guest_assert_still(g, "/run/count");
	guest_thaw(g);
	guest_assert_changes(g, "/run/count");
	guest_end(g);
}

static void test_stopped_stays_stopped(void **state)
{
	struct guest *g = boot(state, NULL);
	char *out;

	free(guest_run(g, "sleep 900 & echo $! >/run/pid; kill -STOP $!"));
	guest_freeze(g, 0);
	guest_thaw(g);
	out = guest_run(g, "while read -r a b; do [ $a = State: ] && echo $b; done "
			   "</proc/$(cat /run/pid)/status; kill -9 $(cat /run/pid)");
	assert_memory_equal(out, "T", 1);
	free(out);
	guest_end(g);
}

/* A vfork's parent sleeps in the kernel until the child executes, which is frozen. */
static void test_vfork(void **state)
{
	struct guest *g = boot(state, NULL);

	free(guest_run(g, "command -v python3 >/dev/null || exit 0; setsid python3 -c '\n"
			  "import ctypes, time\n"
			  "libc = ctypes.CDLL(None)\n"
			  "if libc.vfork() == 0:\n"
			  "    for n in range(10**9):\n"
			  "        open(\"/run/count\", \"w\").write(str(n)); time.sleep(0.01)\n"
			  "' </dev/null >/dev/null 2>&1 & "
			  "for i in $(seq 500); do [ -s /run/count ] && break; sleep 0.01; done"));
	guest_freeze(g, 0);
	guest_assert_still(g, "/run/count");
	guest_thaw(g);
	guest_end(g);
}

/* An exec that comes meanwhile is neither refused nor run: it waits. */
static void test_exec_waits(void **state)
{
	struct guest *g = boot(state, NULL);
	struct peer_result r;
	int fd;

	guest_freeze(g, 0);
	fd = peer_connect(&g->peer);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sh", "-c", "echo ran >/run/ran; cat") });
	guest_assert_still(g, "/run/ran");
	guest_thaw(g);
	r = peer_finish(fd, "input", 5);
	assert_string_equal(r.out, "input");
	assert_int_equal(r.status, 0);
	peer_result_free(&r);
	guest_wait_text(g, "/run/ran", "ran");
	guest_end(g);
}

/* One that runs goes on where it was, with what was said to it meanwhile. */
static void test_exec_goes_on(void **state)
{
	struct guest *g = boot(state, NULL);
	uint8_t payload[CS_WIRE_MAX + 1];
	struct peer_result r;
	int fd = peer_connect(&g->peer);

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sh", "-c", "echo go; cat; exit 5") });
	peer_expect(fd, CS_WIRE_STARTED, payload);
	peer_expect(fd, CS_WIRE_STDOUT, payload);
	guest_freeze(g, 0);
	peer_send(fd, CS_WIRE_STDIN, "one ", 4);
	ping(g);
	guest_thaw(g);
	r = peer_finish(fd, "two", 3);
	assert_string_equal(r.out, "one two");
	assert_int_equal(r.status, 5);
	peer_result_free(&r);
	guest_end(g);
}

/* The thaw is there before the answer could be, or is meant for nothing. */
static void test_thaw_at_once(void **state)
{
	struct guest *g = boot(state, COUNT);
	uint8_t payload[CS_WIRE_MAX + 1];

	guest_thaw(g);
	guest_send_freeze(g, 0, 0);
	guest_thaw(g);
	peer_expect(g->control, CS_WIRE_FROZEN, payload);
	guest_assert_changes(g, "/run/count");
	guest_freeze(g, 0);
	guest_thaw(g);
	guest_end(g);
}

/* COMMAND is killed from outside while it is frozen: its end is told after the thaw, since there
 * may be a picture in between. */
static void test_command_ends_frozen(void **state)
{
	struct guest *g = boot(state, "echo go >/run/go; exec sleep 900");
	struct pollfd p = { .fd = g->control, .events = POLLIN };

	guest_wait_text(g, "/run/go", "go");
	guest_freeze(g, 0);
	assert_int_equal(kill(guest_child(g), SIGKILL), 0);
	assert_int_equal(poll(&p, 1, 300), 0);
	ping(g);
	guest_thaw(g);
	expect_u32(g, CS_WIRE_EXITED, 128 + SIGKILL);
	guest_end(g);
}

int main(void)
{
#define BOTH(name)                                                                                 \
	cmocka_unit_test_setup_teardown(test_##name, guest_make, guest_unmake),                    \
		cmocka_unit_test_setup_teardown(test_##name, guest_make_by_signals, guest_unmake)
	const struct CMUnitTest tests[] = {
		BOTH(freeze_and_thaw),
		BOTH(flags),
		BOTH(forks),
		BOTH(daemons),
		BOTH(stopped_stays_stopped),
		BOTH(vfork),
		BOTH(exec_waits),
		BOTH(exec_goes_on),
		BOTH(thaw_at_once),
		BOTH(command_ends_frozen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
