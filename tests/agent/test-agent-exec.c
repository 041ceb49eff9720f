/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent's exec service as it is, without a machine around it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/agent/peer.h"

static struct peer_result run(void **state, const char *const *argv)
{
	int fd = peer_connect(*state);

	peer_exec(fd, &(struct peer_exec){ .argv = argv });
	return peer_finish(fd, NULL, 0);
}

static void test_echo(void **state)
{
	struct peer_result r = run(state, ARGV("echo", "one two", "", "three"));

	assert_false(r.failed);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.out, "one two  three\n");
	assert_int_equal(r.n_err, 0);
	peer_result_free(&r);
}

static void test_status(void **state)
{
	struct peer_result r = peer_shell(*state, "exit 7");

	assert_int_equal(r.status, 7);
	peer_result_free(&r);

	r = peer_shell(*state, "kill -9 $$");
	assert_int_equal(r.status, 128 + 9);
	peer_result_free(&r);
}

static void test_stderr_is_separate(void **state)
{
	struct peer_result r = peer_shell(*state, "echo out; echo err >&2; echo out2");

	assert_string_equal(r.out, "out\nout2\n");
	assert_string_equal(r.err, "err\n");
	peer_result_free(&r);
}

static void test_environment(void **state)
{
	int fd = peer_connect(*state);
	struct peer_result r;

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("env"),
					   .env = ARGV("A=1 2", "HOME=/elsewhere") });
	r = peer_finish(fd, NULL, 0);
	assert_non_null(strstr((char *)r.out, "A=1 2\n"));
	assert_non_null(strstr((char *)r.out, "HOME=/elsewhere\n"));
	assert_null(strstr((char *)r.out, "HOME=/root\n"));
	assert_non_null(strstr((char *)r.out, "PATH=/usr/local/sbin:"));
	assert_non_null(strstr((char *)r.out, "TERM=linux\n"));
	peer_result_free(&r);

	fd = peer_connect(*state);
	peer_exec(fd,
		  &(struct peer_exec){ .argv = ARGV("true"), .env = ARGV("PATH=/nonexistent") });
	r = peer_finish(fd, NULL, 0);
	assert_true(r.failed);
	assert_int_equal(r.status, ENOENT);
	peer_result_free(&r);
}

static void test_folder(void **state)
{
	int fd = peer_connect(*state);
	struct peer_result r;

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("pwd"), .folder = "/usr" });
	r = peer_finish(fd, NULL, 0);
	assert_string_equal(r.out, "/usr\n");
	peer_result_free(&r);

	fd = peer_connect(*state);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("pwd"), .folder = "/nonexistent" });
	r = peer_finish(fd, NULL, 0);
	assert_true(r.failed);
	assert_int_equal(r.status, ENOENT);
	assert_string_equal(r.words, "folder /nonexistent: No such file or directory");
	peer_result_free(&r);
}

static void test_user(void **state)
{
	int fd = peer_connect(*state);
	struct peer_result r;

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("id"), .user = "no-such-user" });
	r = peer_finish(fd, NULL, 0);
	assert_true(r.failed);
	assert_int_equal(r.status, ENOENT);
	assert_string_equal(r.words, "user no-such-user: no such user in the guest");
	peer_result_free(&r);

	if (getuid() != 0) {
		print_message("not root: cannot become another user\n");
		skip();
	}
	fd = peer_connect(*state);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sh", "-c", "id -u; id -g; id -G"),
					   .user = "4321:1234" });
	r = peer_finish(fd, NULL, 0);
	assert_string_equal(r.out, "4321\n1234\n1234\n");
	peer_result_free(&r);
}

/* The process is to find the descriptors, signals and limits that any program expects. */
static void test_clean_process(void **state)
{
	static const char script[] = "ls /proc/self/fd | tr '\\n' ' '; "
				     "grep -E '^Sig(Blk|Ign)' /proc/self/status; ulimit -n";
	struct peer_result r = peer_shell(*state, script);
	struct rlimit ours;
	char limit[64];

	/* 3 is the folder that ls reads. */
	if (strncmp((char *)r.out, "0 1 2 3 Sig", 11))
		fail_msg("descriptors and signals: %s", (char *)r.out);
	assert_non_null(strstr((char *)r.out, "SigBlk:\t0000000000000000\n"));
	/* 32 and 33 are the C library's: its posix_spawn(), by which make starts this, ignores
	 * them. */
	assert_true(strstr((char *)r.out, "SigIgn:\t0000000000000000\n") ||
		    strstr((char *)r.out, "SigIgn:\t0000000180000000\n"));
	/* The agent may not raise its own everywhere; then it is that of the test. */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &ours), 0);
	snprintf(limit, sizeof(limit), "\n%lu\n", (unsigned long)ours.rlim_cur);
	assert_true(strstr((char *)r.out, "\n1024\n") || strstr((char *)r.out, limit));
	peer_result_free(&r);
}

/* ---- what cannot be run ---- */

static void make_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void assert_refused(void **state, const char *program, int error, const char *words)
{
	struct peer_result r = run(state, ARGV(program));

	assert_true(r.failed);
	assert_int_equal(r.status, error);
	if (!strstr(r.words, words))
		fail_msg("said '%s', not '%s'", r.words, words);
	peer_result_free(&r);
}

static void test_cannot_run(void **state)
{
	const struct peer_agent *a = *state;
	char path[64];

	assert_refused(state, "no-such-program", ENOENT, "no-such-program: not found in the guest");
	assert_refused(state, "/no/such/program", ENOENT, "not found in the guest");
	assert_refused(state, "", ENOENT, "not found in the guest");
	assert_refused(state, "/tmp", EACCES, "no permission");

	snprintf(path, sizeof(path), "%s/file", a->folder);
	make_file(path, "#!/no/such/interpreter -x\n", 0755);
	assert_refused(state, path, ENOENT,
		       "its interpreter /no/such/interpreter is not there (is there a libc");
	unlink(path);
	make_file(path, "#!/bin/sh\n", 0644);
	assert_refused(state, path, EACCES, "no permission");
	unlink(path);
	make_file(path, "what is this\n", 0755);
	assert_refused(state, path, ENOEXEC, "not a program for this machine");
	unlink(path);
}

static void test_no_command(void **state)
{
	struct peer_result r = run(state, (const char *const[]){ NULL });

	assert_true(r.failed);
	assert_int_equal(r.status, EINVAL);
	peer_result_free(&r);
}

/* ---- bytes ---- */

static uint8_t *pattern(size_t bytes)
{
	uint8_t *data = malloc(bytes);
	uint32_t x = 1;

	assert_non_null(data);
	for (size_t i = 0; i < bytes; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (uint8_t)(x >> 24);
	}

	return data;
}

static void test_much_through_cat(void **state)
{
	size_t bytes = 20 << 20;
	uint8_t *data = pattern(bytes);
	int fd = peer_connect(*state);
	struct peer_result r;

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("cat") });
	r = peer_finish(fd, data, bytes);
	assert_int_equal(r.status, 0);
	assert_int_equal(r.n_out, bytes);
	assert_memory_equal(r.out, data, bytes);
	/* The window has been kept open, and no further. */
	assert_in_range(r.credit, bytes - CS_WIRE_STDIN_CREDIT, bytes + 4 * CS_WIRE_STDIN_CREDIT);
	peer_result_free(&r);
	free(data);
}

static void test_much_digest(void **state)
{
	size_t bytes = (20 << 20) + 12345;
	uint8_t *data = pattern(bytes);
	int fd = peer_connect(*state);
	struct peer_result in_guest, here;
	char path[64];
	FILE *f;

	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sha256sum") });
	in_guest = peer_finish(fd, data, bytes);

	snprintf(path, sizeof(path), "%s/data", ((struct peer_agent *)*state)->folder);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, bytes, f), bytes);
	fclose(f);
	fd = peer_connect(*state);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sha256sum", path) });
	here = peer_finish(fd, NULL, 0);
	unlink(path);
	assert_memory_equal(in_guest.out, here.out, 64);
	peer_result_free(&in_guest);
	peer_result_free(&here);
	free(data);
}

/* A process that does not want its input ends all the same, and the host gets rid of it. */
static void test_input_nobody_reads(void **state)
{
	size_t bytes = 1 << 20;
	uint8_t *data = pattern(bytes);
	int fd = peer_connect(*state);
	struct peer_result r;

	peer_exec(fd,
		  &(struct peer_exec){ .argv = ARGV("sh", "-c", "exec <&-; sleep 0.3; exit 5") });
	r = peer_finish(fd, data, bytes);
	assert_int_equal(r.status, 5);
	peer_result_free(&r);
	free(data);
}

static void test_signal_passes_waiting_input(void **state)
{
	uint8_t *data = pattern(CS_WIRE_STDIN_CREDIT), *payload = malloc(CS_WIRE_MAX + 1);
	int fd = peer_connect(*state);
	uint32_t signal = SIGTERM, status;

	assert_non_null(payload);
	peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sleep", "1000") });
	peer_expect(fd, CS_WIRE_STARTED, payload);
	/* As much as is allowed: it all waits in the agent and the pipe. */
	peer_send(fd, CS_WIRE_STDIN, data, CS_WIRE_STDIN_CREDIT);
	peer_send(fd, CS_WIRE_SIGNAL, &signal, sizeof(signal));
	while (peer_receive(fd, payload).type == CS_WIRE_CREDIT)
		;
	memcpy(&status, payload, 4);
	assert_int_equal(status, 128 + SIGTERM);
	peer_expect_end(fd);
	close(fd);
	free(payload);
	free(data);
}

static size_t agent_pages(const struct peer_agent *a)
{
	char path[64];
	unsigned long total, resident = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", a->pid);
	f = fopen(path, "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu %lu", &total, &resident), 2);
	fclose(f);
	return resident;
}

/* A host that does not read stops the writer, costs the agent no memory, and nobody else waits. */
static void test_host_that_does_not_read(void **state)
{
	uint8_t payload[CS_WIRE_MAX + 1];
	size_t before = agent_pages(*state);
	uint32_t signal = SIGKILL;
	int blocked[4], other;

	for (int i = 0; i < 4; i++) {
		blocked[i] = peer_connect(*state);
		peer_exec(blocked[i], &(struct peer_exec){ .argv = ARGV("yes") });
	}
	other = peer_connect(*state);
	for (int i = 0; i < 200; i++) {
		peer_send(other, CS_WIRE_PING, &i, sizeof(i));
		assert_int_equal(peer_expect(other, CS_WIRE_PONG, payload), sizeof(i));
		assert_memory_equal(payload, &i, sizeof(i));
	}
	close(other);
	assert_true(agent_pages(*state) < before + 4096);

	for (int i = 0; i < 4; i++) {
		struct cs_wire_head head;

		/* SIGNAL does not wait behind the output. */
		peer_send(blocked[i], CS_WIRE_SIGNAL, &signal, sizeof(signal));
		while ((head = peer_receive(blocked[i], payload)).type != CS_WIRE_EXIT)
			;
		close(blocked[i]);
	}
}

/* ---- many at once ---- */

static void test_fifty_at_once(void **state)
{
	int fd[50];

	for (int i = 0; i < 50; i++) {
		char text[16];

		snprintf(text, sizeof(text), "%d", i);
		fd[i] = peer_connect(*state);
		peer_exec(fd[i], &(struct peer_exec){
					 .argv = ARGV("sh", "-c", "read x; echo $0 $x", text) });
	}
	for (int i = 49; i >= 0; i--) {
		struct peer_result r = peer_finish(fd[i], "line\n", 5);
		char text[32];

		snprintf(text, sizeof(text), "%d line\n", i);
		assert_string_equal(r.out, text);
		assert_int_equal(r.status, 0);
		peer_result_free(&r);
	}
}

/* ---- a host that errs ---- */

static void assert_cut(void **state, uint32_t type, const void *payload, size_t bytes)
{
	int fd = peer_connect(*state);

	peer_send(fd, type, payload, bytes);
	peer_expect_end(fd);
	close(fd);
}

static void test_messages_that_are_none(void **state)
{
	uint8_t zeroes[100] = { 0 }, payload[CS_WIRE_MAX + 1];
	struct cs_wire_head huge = { .type = CS_WIRE_PING, .bytes = CS_WIRE_MAX + 1 };
	uint32_t number = 1000;
	int fd;

	assert_cut(state, 0, NULL, 0);
	assert_cut(state, CS_WIRE_HELLO, zeroes, 4);
	assert_cut(state, CS_WIRE_PONG, NULL, 0);
	assert_cut(state, 0xffffffff, zeroes, 10);
	assert_cut(state, CS_WIRE_PING, zeroes, 65);
	assert_cut(state, CS_WIRE_STDIN, zeroes, 1);
	assert_cut(state, CS_WIRE_STDIN, NULL, 0);
	assert_cut(state, CS_WIRE_SIGNAL, zeroes, 3);
	assert_cut(state, CS_WIRE_SIGNAL, &number, 4);
	assert_cut(state, CS_WIRE_RESIZE, zeroes, 5);
	for (size_t n = 0; n < 18; n++)
		assert_cut(state, CS_WIRE_EXEC, zeroes, n);
	assert_cut(state, CS_WIRE_EXEC, zeroes, 19);

	fd = peer_connect(*state);
	assert_int_equal(send(fd, &huge, sizeof(huge), MSG_NOSIGNAL), sizeof(huge));
	peer_expect_end(fd);
	close(fd);

	/* More input than was asked for; a second exec. */
	for (int i = 0; i < 2; i++) {
		fd = peer_connect(*state);
		peer_exec(fd, &(struct peer_exec){ .argv = ARGV("sleep", "985") });
		peer_expect(fd, CS_WIRE_STARTED, payload);
		if (i == 0) {
			/* The pipe and the window together take half of this. */
			for (int n = 0; n < 16; n++)
				peer_send(fd, CS_WIRE_STDIN, payload, CS_WIRE_MAX);
		} else {
			peer_exec(fd, &(struct peer_exec){ .argv = ARGV("true") });
		}
		peer_expect_end(fd);
		close(fd);
	}
}

/* However the stream is cut into pieces, the messages are the same. */
static void test_byte_by_byte(void **state)
{
	static const uint8_t ping[] = "\x10\0\0\0\x05\0\0\0hello\x10\0\0\0\0\0\0\0";
	uint8_t payload[CS_WIRE_MAX + 1];
	int fd = peer_connect(*state);

	for (size_t i = 0; i < sizeof(ping) - 1; i++)
		assert_int_equal(send(fd, ping + i, 1, MSG_NOSIGNAL), 1);
	assert_int_equal(peer_expect(fd, CS_WIRE_PONG, payload), 5);
	assert_memory_equal(payload, "hello", 5);
	assert_int_equal(peer_expect(fd, CS_WIRE_PONG, payload), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_echo),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_stderr_is_separate),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_folder),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_clean_process),
		cmocka_unit_test(test_cannot_run),
		cmocka_unit_test(test_no_command),
		cmocka_unit_test(test_much_through_cat),
		cmocka_unit_test(test_much_digest),
		cmocka_unit_test(test_input_nobody_reads),
		cmocka_unit_test(test_signal_passes_waiting_input),
		cmocka_unit_test(test_host_that_does_not_read),
		cmocka_unit_test(test_fifty_at_once),
		cmocka_unit_test(test_messages_that_are_none),
		cmocka_unit_test(test_byte_by_byte),
	};

	return cmocka_run_group_tests(tests, peer_agent_start, peer_agent_stop);
}
