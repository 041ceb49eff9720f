/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How an exec ends, in each of the ways there are; and terminals, which end in a way of their own.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/agent/peer.h"

/* ---- the end ---- */

/* What a process leaves behind with its output open does not keep the exec waiting. */
static void test_background(void **state)
{
	struct peer_result r = peer_shell(*state, "sleep 987 & echo $!");
	char path[64];

	assert_int_equal(r.status, 0);
	snprintf(path, sizeof(path), "/proc/%.20s", (char *)r.out);
	path[strcspn(path, "\n")] = 0;
	assert_int_equal(access(path, F_OK), 0);
	kill((pid_t)strtol((char *)r.out, NULL, 10), SIGKILL);
	peer_result_free(&r);

	/* One that never stops talking neither; and it does not cost the process's own words. */
	r = peer_shell(*state, "yes & P=$!; (sleep 4; kill $P) >&- 2>&- & echo last >&2; exit 3");
	assert_int_equal(r.status, 3);
	assert_string_equal(r.err, "last\n");
	assert_true(r.n_out > 0);
	peer_result_free(&r);
}

/* Output that comes a little later, from a child that is just ending, is still there. */
static void test_late_output(void **state)
{
	struct peer_result r = peer_shell(*state, "(sleep 0.1; echo late) & exit 0");

	assert_string_equal(r.out, "late\n");
	peer_result_free(&r);
}

static void wait_gone(pid_t pid)
{
	const struct timespec nap = { .tv_nsec = 20000000 };

	for (int i = 0; i < PEER_PATIENCE_MS / 20; i++) {
		if (kill(pid, 0) < 0 && errno == ESRCH)
			return;
		nanosleep(&nap, NULL);
	}
	fail_msg("process %d is still there", pid);
}

/* (script) runs until it has said something; then the host is gone. */
static pid_t cut_off(void **state, const char *script, bool tty)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	int fd = peer_connect(*state);
	uint32_t pid;

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sh", "-c", script), .tty = tty });
	peer_expect(fd, CS_WIRE_STARTED, payload);
	memcpy(&pid, payload, 4);
	peer_expect(fd, CS_WIRE_STDOUT, payload);
	close(fd);
	return (pid_t)pid;
}

static void test_cut_connection(void **state)
{
	char path[64], script[160];
	struct stat st;

	snprintf(path, sizeof(path), "%s/hup", ((struct peer_agent *)*state)->folder);
	snprintf(script, sizeof(script),
		 "trap 'touch %s; exit' HUP; echo ready; while :; do sleep 0.1; done", path);
	wait_gone(cut_off(state, script, false));
	assert_int_equal(stat(path, &st), 0);
	unlink(path);
	wait_gone(cut_off(state, script, true));
	assert_int_equal(stat(path, &st), 0);
	unlink(path);
	/* It will not listen. */
	wait_gone(cut_off(state, "trap '' HUP; echo ready; exec sleep 986", false));
}

/* ---- terminals ---- */

/* Read STDOUT until (text) has come. */
static void expect_text(int fd, const char *text)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	char all[4096] = "";

	while (!strstr(all, text)) {
		size_t n = peer_expect(fd, CS_WIRE_STDOUT, payload), have = strlen(all);

		assert_true(have + n < sizeof(all));
		memcpy(all + have, payload, n + 1);
	}
}

static uint32_t expect_exit(int fd)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	struct cs_wire_head head;
	uint32_t status;

	do
		head = peer_receive(fd, payload);
	while (head.type == CS_WIRE_STDOUT);
	assert_int_equal(head.type, CS_WIRE_EXIT);
	memcpy(&status, payload, 4);
	peer_expect_end(fd);
	close(fd);
	return status;
}

static int start_terminal(void **state, const char *const *argv)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	int fd = peer_connect(*state);

	peer_exec(fd, &(struct peer_exec){ .argv = argv, .tty = true, .rows = 33, .columns = 77 });
	peer_expect(fd, CS_WIRE_STARTED, payload);
	return fd;
}

static void test_terminal(void **state)
{
	const struct cs_wire_size size = { .rows = 40, .columns = 100 };
	int fd = start_terminal(state, ARGV("sh", "-c",
					    "stty size; test -t 0 -a -t 1 -a -t 2 && echo all; "
					    "trap 'stty size; exit 4' WINCH; echo go; "
					    "while :; do sleep 0.1; done"));

	expect_text(fd, "33 77\r\nall\r\ngo\r\n");
	peer_send(fd, CS_WIRE_RESIZE, &size, sizeof(size));
	expect_text(fd, "40 100\r\n");
	assert_int_equal(expect_exit(fd), 4);
}

static void test_terminal_keys(void **state)
{
	int fd = start_terminal(state, ARGV("cat"));

	peer_send(fd, CS_WIRE_STDIN, "hello\r", 6);
	expect_text(fd, "hello\r\nhello\r\n");
	peer_send(fd, CS_WIRE_STDIN, "\x03", 1);
	assert_int_equal(expect_exit(fd), 128 + SIGINT);

	/* The end of input is a key there. */
	fd = start_terminal(state, ARGV("cat"));
	peer_send(fd, CS_WIRE_STDIN, "bye\r", 4);
	expect_text(fd, "bye\r\nbye\r\n");
	peer_send(fd, CS_WIRE_STDIN, NULL, 0);
	assert_int_equal(expect_exit(fd), 0);
}

static void test_terminal_output_is_whole(void **state)
{
	int fd = start_terminal(state,
				ARGV("sh", "-c", "stty -opost; seq 1 60000; sleep 900 & exit 2"));
	struct peer_result r = peer_finish(fd, NULL, 0);

	assert_int_equal(r.status, 2);
	assert_int_equal(r.n_out, 348894);
	assert_string_equal(r.out + r.n_out - 6, "60000\n");
	peer_result_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_background),
		cmocka_unit_test(test_late_output),
		cmocka_unit_test(test_cut_connection),
		cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_terminal_keys),
		cmocka_unit_test(test_terminal_output_is_whole),
	};

	return cmocka_run_group_tests(tests, peer_agent_start, peer_agent_stop);
}
