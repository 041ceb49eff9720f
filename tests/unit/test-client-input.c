/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* exec: what goes into a command; signals and terminals. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/base/io.h"
#include "tests/fake/monitor.h"

/* ---- exec: input */

/* Count it, hand out credit as an agent does: never more than a little ahead. */
static void script_input(struct world *w, int fd)
{
	uint64_t allowed = CS_WIRE_STDIN_CREDIT;
	struct cs_wire_head head;

	take_exec(w, fd);
	do {
		CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
		CHECK(head.type == CS_WIRE_STDIN);
		w->sum = sum_of(w->sum, w->payload, head.bytes);
		w->bytes += head.bytes;
		CHECK(w->bytes <= allowed);
		if (allowed - w->bytes < 10000) {
			allowed += 30000;
			put_u32(w, fd, CS_WIRE_CREDIT, 30000);
		}
	} while (head.bytes);
	put_u32(w, fd, CS_WIRE_EXIT, 0);
}

static void *write_input(void *arg)
{
	struct world *w = arg;
	static char buf[70001];
	uint64_t *sum = calloc(1, sizeof(*sum));

	for (uint32_t i = 0; i < 50; i++) {
		for (uint32_t j = 0; j < sizeof(buf); j++)
			buf[j] = (char)((i * 7 + j) * 2654435761u >> 24);
		*sum = sum_of(*sum, buf, sizeof(buf));
		if (cs_write_full(w->in_fd, buf, sizeof(buf)) < 0)
			break;
	}
	close(w->in_fd);
	return sum;
}

static void test_input(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int in[2], status = -1;
	pthread_t writer;
	void *sum;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	w->in_fd = in[1];
	spec.in_fd = in[0];
	assert_int_equal(pthread_create(&writer, NULL, write_input, w), 0);
	world_start(w, script_input);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	pthread_join(writer, &sum);
	assert_int_equal(w->bytes, 50 * 70001);
	assert_int_equal(w->sum, *(uint64_t *)sum);
	free(sum);
	close(in[0]);
}

static void test_input_kinds(void **state)
{
	struct world *w = *state;
	FILE *file = tmpfile();
	const int fds[] = { -1, open("/dev/null", O_RDONLY | O_CLOEXEC), 1 << 20, fileno(file) };

	assert_true(fputs("some text", file) > 0);
	rewind(file);
	for (unsigned i = 0; i < 4; i++) {
		struct cs_exec_spec spec = spec_of(w);
		struct cs_err err = { 0 };
		int status = -1;

		w->bytes = 0;
		spec.in_fd = fds[i];
		world_start(w, script_input);
		assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
		world_finish(w);
		assert_int_equal(status, 0);
		assert_int_equal(w->bytes, i == 3 ? 9 : 0);
	}
	close(fds[1]);
	fclose(file);
}

/* No credit: just the first 64 KiB come, and a signal is not behind the rest. */
static void script_no_credit(struct world *w, int fd)
{
	struct cs_wire_head head;

	take_exec(w, fd);
	while (w->bytes < CS_WIRE_STDIN_CREDIT) {
		CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
		CHECK(head.type == CS_WIRE_STDIN);
		w->bytes += head.bytes;
	}
	CHECK(w->bytes == CS_WIRE_STDIN_CREDIT);
	kill(getpid(), SIGTERM);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	CHECK(head.type == CS_WIRE_SIGNAL && w->payload[0] == SIGTERM);
	put_u32(w, fd, CS_WIRE_EXIT, 128 + SIGTERM);
}

static void test_no_credit(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	sigset_t set, before, after;
	int status = -1;

	/* The played side must not be the one that takes it. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	spec.in_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	world_start(w, script_no_credit);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	close(spec.in_fd);
	assert_int_equal(status, 128 + SIGTERM);
	pthread_sigmask(SIG_SETMASK, &before, &after);
	assert_int_equal(sigismember(&after, SIGTERM), 1);
	assert_int_equal(sigismember(&after, SIGINT), 0);
}

/* The command has ended without reading its input. */
static void script_deaf(struct world *w, int fd)
{
	take_exec(w, fd);
	put_u32(w, fd, CS_WIRE_CREDIT, 1u << 30);
	put_u32(w, fd, CS_WIRE_CREDIT, UINT32_MAX);
	shutdown(fd, SHUT_RD);
	poll(NULL, 0, 20);
	(void)cs_wire_send(fd, CS_WIRE_STDOUT, "bye", 3);
	put_u32(w, fd, CS_WIRE_EXIT, 5);
}

static void test_input_not_read(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int status = -1;

	spec.in_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	world_start(w, script_deaf);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	close(spec.in_fd);
	assert_int_equal(status, 5);
}

/* Output that nobody takes now does not keep signals from the command. */
static void script_stuck(struct world *w, int fd)
{
	struct cs_wire_head head;
	int flags = fcntl(fd, F_GETFL);

	take_exec(w, fd);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0 && head.type == CS_WIRE_STDIN);
	CHECK(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
	/* As much as goes; what does not was cut in the middle, so it ends here. */
	for (int i = 0; i < 100; i++) {
		const struct cs_wire_head out = { htole32(CS_WIRE_STDOUT), htole32(CS_WIRE_MAX) };

		if (send(fd, &out, sizeof(out), MSG_NOSIGNAL) < 0)
			break;
		if (send(fd, w->payload, CS_WIRE_MAX, MSG_NOSIGNAL) < CS_WIRE_MAX)
			break;
	}
	CHECK(fcntl(fd, F_SETFL, flags) == 0);
	poll(NULL, 0, 50);
	kill(getpid(), SIGINT);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	CHECK(head.type == CS_WIRE_SIGNAL && w->payload[0] == SIGINT);
	close(w->out_fd); /* the reader goes: the client must end, not hang */
}

static void test_stuck_output(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	sigset_t set, before;
	int out[2], status = -1, r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	w->out_fd = out[0];
	spec.out_fd = out[1];
	world_start(w, script_stuck);
	r = cs_client_exec(w->dirfd, &spec, &status, &err);
	assert_true(r == -ECONNRESET || (r == 0 && status == 128 + SIGPIPE));
	world_finish(w);
	close(out[1]);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- exec: waiting, terminals */

/* A signal while the guest still boots: at once, and the signal has its way. */
static void test_interrupted_wait(void **state)
{
	struct world *w = *state;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct cs_exec_spec spec = spec_of(w);
		struct cs_err err = { 0 };

		spec.timeout_ms = HANG_S * 1000;
		cs_client_exec(w->dirfd, &spec, &status, &err); /* nobody accepts */
		_exit(9);
	}
	assert_true(pid > 0);
	close(accept(w->listen_fd, NULL, NULL)); /* it has started */
	kill(pid, SIGINT);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGINT);
}

static void script_terminal(struct world *w, int fd)
{
	const struct winsize window = { .ws_row = 50, .ws_col = 132 };
	struct cs_wire_head head;
	struct cs_wire_size size;
	struct termios mode;

	take_exec(w, fd);
	CHECK(cs_wire_send(fd, CS_WIRE_STDOUT, "\n", 1) == 0);
	do
		CHECK(tcgetattr(w->in_fd, &mode) == 0);
	while (mode.c_lflag & ICANON);
	CHECK(!(mode.c_lflag & (ECHO | ISIG)));
	/* In raw mode Ctrl-C is a byte. */
	CHECK(write(w->in_fd, "\3q", 2) == 2);
	w->bytes = 0;
	while (w->bytes < 2) {
		CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
		CHECK(head.type == CS_WIRE_STDIN);
		CHECK(memcmp(w->payload, w->bytes ? "q" : "\3q", head.bytes) == 0);
		w->bytes += head.bytes;
	}
	CHECK(ioctl(w->in_fd, TIOCSWINSZ, &window) == 0);
	kill(getpid(), SIGWINCH);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	CHECK(head.type == CS_WIRE_RESIZE && head.bytes == sizeof(size));
	memcpy(&size, w->payload, sizeof(size));
	CHECK(le16toh(size.rows) == 50 && le16toh(size.columns) == 132);
	if (w->number)
		return; /* the guest goes away */
	put_u32(w, fd, CS_WIRE_EXIT, 0);
}

static void test_terminal(void **state)
{
	struct world *w = *state;
	struct winsize window = { .ws_row = 24, .ws_col = 80 };
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	for (w->number = 0; w->number < 2; w->number++) {
		struct cs_exec_spec spec = spec_of(w);
		struct cs_err err = { 0 };
		struct termios mode = { 0 }, now = { 0 };
		int master, slave, status = -1;
		char byte;

		assert_int_equal(openpty(&master, &slave, NULL, NULL, &window), 0);
		assert_int_equal(tcgetattr(slave, &mode), 0);
		w->in_fd = master;
		spec.in_fd = spec.out_fd = spec.err_fd = slave;
		spec.tty = true;
		world_start(w, script_terminal);
		assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err),
				 w->number ? -ECONNRESET : 0);
		world_finish(w);
		assert_int_equal(le32toh(w->exec.flags), CS_WIRE_EXEC_TTY);
		assert_int_equal(le16toh(w->exec.size.rows), 24);
		assert_int_equal(le16toh(w->exec.size.columns), 80);
		assert_int_equal(tcgetattr(slave, &now), 0);
		assert_memory_equal(&mode, &now, sizeof(mode));
		assert_int_equal(read(master, &byte, 1), 1);
		assert_int_equal(byte, '\n'); /* and no '\r' before it: it was raw */
		assert_false(fcntl(slave, F_GETFL) & O_NONBLOCK);
		close(master);
		close(slave);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void script_stopped(struct world *w, int fd)
{
	struct cs_wire_head head;

	take_exec(w, fd);
	do
		CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	while (head.type == CS_WIRE_STDIN);
	CHECK(head.type == CS_WIRE_RESIZE);
	put_u32(w, fd, CS_WIRE_EXIT, 4);
}

static bool is_raw(int fd)
{
	struct termios mode = { 0 };

	assert_int_equal(tcgetattr(fd, &mode), 0);
	return !(mode.c_lflag & ICANON);
}

/* Stopped from elsewhere, the terminal is given back meanwhile, and taken again. */
static void test_stopped(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	int master, slave, status = -1;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	spec.in_fd = slave;
	spec.tty = true;
	pid = fork();
	if (pid == 0) {
		struct cs_err err = { 0 };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(cs_client_exec(w->dirfd, &spec, &status, &err) == 0 ? status : 99);
	}
	assert_true(pid > 0);
	world_start(w, script_stopped);
	while (!is_raw(slave))
		poll(NULL, 0, 1);
	kill(pid, SIGTSTP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_false(is_raw(slave));
	kill(pid, SIGCONT);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 4);
	world_finish(w);
	assert_false(is_raw(slave));
	close(master);
	close(slave);
}

/* tty, but no terminal here: a size of nothing, and the rest as usual. */
static void test_no_terminal(void **state)
{
	struct world *w = *state;
	struct cs_exec_spec spec = spec_of(w);
	struct cs_err err = { 0 };
	int status = -1;

	spec.tty = true;
	spec.in_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	world_start(w, script_input);
	assert_int_equal(cs_client_exec(w->dirfd, &spec, &status, &err), 0);
	world_finish(w);
	close(spec.in_fd);
	assert_int_equal(w->exec.size.rows, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, world_open, world_close)
	const struct CMUnitTest tests[] = {
		TEST(input),          TEST(input_kinds),  TEST(no_credit),
		TEST(input_not_read), TEST(stuck_output), TEST(interrupted_wait),
		TEST(terminal),       TEST(stopped),      TEST(no_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
