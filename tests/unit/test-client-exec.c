/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* exec: what comes out of a command, and what may go wrong. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/monitor.h"

/* ---- exec: output and status */

static void script_output(struct world *w, int fd)
{
	take_exec(w, fd);
	CHECK(cs_wire_send(fd, CS_WIRE_STDOUT, "out", 3) == 0);
	CHECK(cs_wire_send(fd, CS_WIRE_STDERR, "err", 3) == 0);
	CHECK(cs_wire_send(fd, CS_WIRE_STDOUT, NULL, 0) == 0);
	CHECK(cs_wire_send(fd, CS_WIRE_STDOUT, "put", 3) == 0);
	put_u32(w, fd, CS_WIRE_EXIT, 7);
}

static void test_output(void **state)
{
	struct world *w = *state;
	static char variable[] = "A=b";
	static char *const env[] = { variable, NULL };
	static const char strings[] = "joe\0/srv\0\2\0\0\0cat\0-n\0\1\0\0\0A=b";
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int out[2], diagnostics[2], status = -1;
	char buf[16];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(diagnostics, O_CLOEXEC), 0);
	spec.out_fd = out[1];
	spec.err_fd = diagnostics[1];
	spec.user = "joe";
	spec.folder = "/srv";
	spec.env = env;
	world_start(w, script_output);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	assert_int_equal(status, 7);
	assert_int_equal(read(out[0], buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "output", 6);
	assert_int_equal(read(diagnostics[0], buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "err", 3);
	assert_int_equal(w->exec.flags, 0);
	assert_int_equal(w->strings_bytes, sizeof(strings));
	assert_memory_equal(w->strings, strings, sizeof(strings));
	/* Nobody else's descriptors were touched. */
	assert_false(fcntl(out[1], F_GETFL) & O_NONBLOCK);
	close(out[0]);
	close(out[1]);
	close(diagnostics[0]);
	close(diagnostics[1]);
}

static void script_much_output(struct world *w, int fd)
{
	take_exec(w, fd);
	for (uint32_t i = 0; i < 200; i++) {
		for (uint32_t j = 0; j < CS_WIRE_MAX; j++)
			w->payload[j] = (char)((i + j) * 2654435761u >> 24);
		w->sum = sum_of(w->sum, w->payload, CS_WIRE_MAX - i);
		w->bytes += CS_WIRE_MAX - i;
		CHECK(cs_wire_send(fd, CS_WIRE_STDOUT, w->payload, CS_WIRE_MAX - i) == 0);
	}
	put_u32(w, fd, CS_WIRE_EXIT, 0);
}

static void *read_slowly(void *arg)
{
	struct world *w = arg;
	static char buf[5000];
	uint64_t *sum = malloc(2 * sizeof(*sum));
	ssize_t n;

	sum[0] = sum[1] = 0;
	while ((n = read(w->out_fd, buf, sizeof(buf))) > 0) {
		sum[0] = sum_of(sum[0], buf, (size_t)n);
		sum[1] += (uint64_t)n;
	}
	return sum;
}

/* Through a pipe and a socket. */
static void much_output(struct world *w, int in, int out)
{
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int status = -1;
	pthread_t reader;
	void *got;

	w->sum = w->bytes = 0;
	w->out_fd = in;
	spec.out_fd = out;
	assert_int_equal(pthread_create(&reader, NULL, read_slowly, w), 0);
	world_start(w, script_much_output);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	close(out);
	pthread_join(reader, &got);
	assert_int_equal(((uint64_t *)got)[1], w->bytes);
	assert_int_equal(((uint64_t *)got)[0], w->sum);
	free(got);
	close(in);
}

static void test_much_output(void **state)
{
	struct world *w = *state;
	int pair[2];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	much_output(w, pair[0], pair[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	much_output(w, pair[0], pair[1]);
}

static void test_output_to_file(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	struct stat st;
	int status = -1;
	FILE *file = tmpfile();

	spec.out_fd = fileno(file);
	world_start(w, script_much_output);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	assert_int_equal(fstat(spec.out_fd, &st), 0);
	assert_int_equal(st.st_size, w->bytes);
	fclose(file);
	/* A full device is an error, with words. */
	spec.out_fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	world_start(w, script_output);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), -ENOSPC);
	close(spec.out_fd);
	world_finish(w);
}

/* Nobody reads: the command gets a SIGPIPE. */
static void script_yes(struct world *w, int fd)
{
	struct cs_wire_head head;
	uint32_t signal_number;

	take_exec(w, fd);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0 && head.type == CS_WIRE_STDIN &&
	      head.bytes == 0);
	CHECK(cs_wire_send(fd, CS_WIRE_STDOUT, "y", 1) == 0);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0 && head.type == CS_WIRE_SIGNAL);
	memcpy(&signal_number, w->payload, sizeof(signal_number));
	CHECK(le32toh(signal_number) == SIGPIPE);
	if (w->number) {
		put_u32(w, fd, CS_WIRE_EXIT, 3); /* it has a handler */
		return;
	}
	/* It ignores the signal and goes on for ever. */
	while (cs_wire_send(fd, CS_WIRE_STDOUT, w->payload, 1000) == 0)
		continue;
}

static void test_closed_output(void **state)
{
	struct world *w = *state;

	for (w->number = 0; w->number < 2; w->number++) {
		struct cs_exec_spec spec = spec_of(w);
		struct cs_err err = { 0 };
		int out[2], status = -1;
		sigset_t pending;

		assert_int_equal(pipe2(out, O_CLOEXEC), 0);
		close(out[0]);
		spec.out_fd = out[1];
		world_start(w, script_yes);
		assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
		world_finish(w);
		assert_int_equal(status, w->number ? 3 : 128 + SIGPIPE);
		sigpending(&pending);
		assert_int_equal(sigismember(&pending, SIGPIPE), 0);
		close(out[1]);
	}
}

/* ---- exec: refusals and nonsense */

static void script_fail(struct world *w, int fd)
{
	static const char words[] = "\2\0\0\0sh: no such\33 command";
	struct cs_wire_head head;

	greet(w, fd);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	CHECK(cs_wire_send(fd, CS_WIRE_FAIL, words, sizeof(words)) == 0);
}

static void test_fail(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int status = -1;

	world_start(w, script_fail);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), -ENOENT);
	world_finish(w);
	assert_string_equal(err.text, "sh: no such? command");
	assert_int_equal(status, -1);
}

struct bad {
	uint32_t type, bytes;
	const char *payload;
	int rc;
};

static const struct bad bads[] = {
	{ CS_WIRE_EXIT, 4, "\0\1\0\0", -EPROTO },
	{ CS_WIRE_EXIT, 3, "\0\0\0", -EPROTO },
	{ CS_WIRE_EXIT, 5, "\0\0\0\0\0", -EPROTO },
	{ CS_WIRE_STARTED, 0, "", -EPROTO },
	{ CS_WIRE_CREDIT, 8, "12345678", -EPROTO },
	{ 0, 0, "", -EPROTO },
	{ CS_WIRE_STDIN, 1, "x", -EPROTO },
	{ CS_WIRE_PONG, 0, "", -EPROTO },
	{ CS_WIRE_STDOUT, 65537, "", -EPROTO },
	{ CS_WIRE_STDERR, UINT32_MAX, "", -EPROTO },
	{ CS_WIRE_FAIL, 4, "\2\0\0\0", -EPROTO },
	{ CS_WIRE_FAIL, 6, "\2\0\0\0ab", -EPROTO },
	{ CS_WIRE_FAIL, 6, "\0\0\0\0a\0", -EPROTO },
	{ CS_WIRE_FAIL, 6, "\0\0\1\0a\0", -EPROTO },
	{ CS_WIRE_STDOUT, 100, "short", -ECONNRESET },
	{ CS_WIRE_EXIT, 4, "\0", -ECONNRESET },
};

static void script_bad(struct world *w, int fd)
{
	const struct bad *bad = &bads[w->number];
	const struct cs_wire_head head = { htole32(bad->type), htole32(bad->bytes) };
	size_t bytes = bad->bytes <= 8 ? bad->bytes : strlen(bad->payload);

	take_exec(w, fd);
	CHECK(send(fd, &head, sizeof(head), MSG_NOSIGNAL) == sizeof(head));
	if (bad->rc == -ECONNRESET)
		bytes = 1;
	(void)send(fd, bad->payload, bytes, MSG_NOSIGNAL); /* it may be cut off already */
}

static void test_nonsense(void **state)
{
	struct world *w = *state;

	for (w->number = 0; w->number < (int)(sizeof(bads) / sizeof(bads[0])); w->number++) {
		struct cs_exec_spec spec = spec_of(w);
		struct cs_err err = { 0 };
		int status = -1;

		world_start(w, script_bad);
		assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err),
				 bads[w->number].rc);
		world_finish(w);
		assert_true(*err.text);
		assert_int_equal(status, -1);
	}
}

static void test_exec_nobody(void **state)
{
	struct world *w = *state;
	static char huge[CS_WIRE_MAX];
	char *const long_argv[] = { huge, NULL };
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int status;

	memset(huge, 'a', sizeof(huge) - 1);
	spec.argv = long_argv;
	world_start(w, script_hold);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), -E2BIG);
	world_finish(w);
	unlinkat(w->dirfd, "vsock.sock", 0);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), -ENOTCONN);
	assert_int_equal(err.code, ENOTCONN);
	assert_string_equal(err.text, "not running");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, world_open, world_close)
	const struct CMUnitTest tests[] = {
		TEST(output), TEST(much_output), TEST(output_to_file), TEST(closed_output),
		TEST(fail),   TEST(nonsense),    TEST(exec_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
