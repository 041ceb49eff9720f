/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A save over the control socket: descriptors that come along, an answer that comes late, a client
 * that does not wait for it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/settle.h"
#include "vmm/control.h"

struct world {
	pthread_mutex_t lock;
	struct cs_loop *loop;
	struct cs_control *control;
	char folder[32];
	int dirfd, listen_fd;

	bool refuse;
	struct cs_control_client *client; /* waits */
	int fd[CS_CONTROL_FDS];
	size_t fds;
	char words[64];
	unsigned saves, gone, enrolls, sketches;
};

static int do_save(void *arg, struct cs_control_client *client, const int fds[], size_t n,
		   const char *words, struct cs_err *err)
{
	struct world *w = arg;

	w->saves++;
	w->fds = n;
	snprintf(w->words, sizeof(w->words), "%s", words);
	if (w->refuse)
		return cs_fail(err, EBUSY, "not now");
	w->client = client;
	memcpy(w->fd, fds, n * sizeof(fds[0]));
	return 0;
}

static void do_gone(void *arg, struct cs_control_client *client)
{
	struct world *w = arg;

	assert_ptr_equal(client, w->client);
	w->gone++;
	w->client = NULL;
}

static int do_pause(void *arg, struct cs_err *err)
{
	return 0;
}

/* What was said, into the descriptor that came along. */
static int do_enroll(void *arg, bool on, int ranges_fd, uint64_t *ret_bytes, struct cs_err *err)
{
	struct world *w = arg;

	w->enrolls++;
	*ret_bytes = on ? 8192 : 4096;
	return ranges_fd >= 0 && write(ranges_fd, "E", 1) != 1 ? -EIO : 0;
}

static int do_sketch(void *arg, int fd, uint64_t *ret_pages, struct cs_err *err)
{
	struct world *w = arg;

	w->sketches++;
	if (w->refuse)
		return cs_fail(err, EFBIG, "too much");
	*ret_pages = 5;
	return write(fd, "S", 1) == 1 ? 0 : -EIO;
}

static int do_own(void *arg, int fd, uint64_t *ret_ranges, struct cs_err *err)
{
	*ret_ranges = 3;
	return write(fd, "O", 1) == 1 ? 0 : -EIO;
}

static const struct cs_control_ops ops = { .pause = do_pause,
					   .enroll = do_enroll,
					   .sketch = do_sketch,
					   .own = do_own,
					   .save = do_save,
					   .save_gone = do_gone };

static int open_world(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct cs_control_spec spec = { .ops = &ops, .arg = w };
	struct cs_err err = { 0 };

	snprintf(w->folder, sizeof(w->folder), "/tmp/cs-save-XXXXXX");
	assert_non_null(mkdtemp(w->folder));
	w->dirfd = open(w->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control.sock", w->folder);
	w->listen_fd = spec.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(w->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(w->listen_fd, 64), 0);
	pthread_mutex_init(&w->lock, NULL);
	assert_int_equal(cs_loop_create(&w->lock, &w->loop, &err), 0);
	assert_int_equal(cs_control_create(&spec, w->loop, &w->control, &err), 0);
	*state = w;
	return 0;
}

static int close_world(void **state)
{
	struct world *w = *state;

	cs_control_free(w->control);
	cs_loop_free(w->loop);
	close(w->listen_fd);
	unlinkat(w->dirfd, "control.sock", 0);
	close(w->dirfd);
	rmdir(w->folder);
	pthread_mutex_destroy(&w->lock);
	test_free(w);
	return 0;
}

static int client(struct world *w)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control.sock", w->folder);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

/* (text), and with its first byte the writing ends of (n) pipes, of which (read_fd) gets the other
 * ends: who holds a writing end can so be seen. */
static void put(struct world *w, int fd, const char *text, unsigned n, int read_fd[])
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	int write_fd[8];

	for (unsigned i = 0; i < n; i++) {
		int ends[2];

		assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
		read_fd[i] = ends[0];
		write_fd[i] = ends[1];
	}
	if (n) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(&control.head), write_fd, n * sizeof(int));
	}
	assert_int_equal(sendmsg(fd, &msg, MSG_NOSIGNAL), strlen(text));
	for (unsigned i = 0; i < n; i++)
		close(write_fd[i]);
	settle(w->loop);
}

/* Nobody holds the other end of the pipe. */
static bool is_closed(int read_fd)
{
	struct pollfd item = { .fd = read_fd, .events = POLLIN };

	poll(&item, 1, 0);
	return item.revents & POLLHUP;
}

static void close_all(const int fd[], unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(fd[i]);
}

static void assert_reads(int fd, const char *text)
{
	char buf[CS_CONTROL_LINE + 1] = "";

	assert_int_equal(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT), strlen(text));
	assert_string_equal(buf, text);
}

static void assert_silent(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static void test_late_answer(void **state)
{
	struct world *w = *state;
	const struct cs_err why = { .code = EIO, .text = "the disk is full\nof eels" };
	int fd = client(w), pipes[2];

	put(w, fd, "save drop sync\n", 2, pipes);
	assert_int_equal(w->saves, 1);
	assert_int_equal(w->fds, 2);
	assert_string_equal(w->words, "drop sync");
	assert_silent(fd);
	/* What it says meanwhile waits with it. */
	put(w, fd, "pause\n", 0, NULL);
	assert_silent(fd);
	assert_false(is_closed(pipes[0]));
	close_all(w->fd, 2);
	assert_true(is_closed(pipes[0]) && is_closed(pipes[1]));
	cs_control_answer(w->client, "pages=1", NULL);
	settle(w->loop);
	assert_reads(fd, "ok pages=1\nok\n");
	close_all(pipes, 2);

	put(w, fd, "save\n", 1, pipes);
	assert_string_equal(w->words, "");
	close_all(w->fd, 1);
	cs_control_answer(w->client, "", &why);
	assert_reads(fd, "error the disk is full of eels\n");
	assert_int_equal(w->gone, 0);
	close_all(pipes, 1);
	close(fd);
}

static void assert_got(int fd, char byte)
{
	char got = 0;

	assert_int_equal(read(fd, &got, 1), 1);
	assert_int_equal(got, byte);
	/* and nobody keeps it */
	assert_true(is_closed(fd));
	close(fd);
}

static void test_one_descriptor(void **state)
{
	struct world *w = *state;
	int fd = client(w), pipes[2];

	put(w, fd, "sketch\n", 1, pipes);
	assert_reads(fd, "ok pages=5\n");
	assert_got(pipes[0], 'S');
	put(w, fd, "own\n", 1, pipes);
	assert_reads(fd, "ok ranges=3\n");
	assert_got(pipes[0], 'O');
	put(w, fd, "own\n", 0, NULL);
	assert_reads(fd, "error own: one descriptor goes with it\n");
	put(w, fd, "enroll on\n", 1, pipes);
	assert_reads(fd, "ok bytes=8192\n");
	assert_got(pipes[0], 'E');
	put(w, fd, "enroll on\n", 0, NULL);
	assert_reads(fd, "ok bytes=8192\n");
	put(w, fd, "enroll off\n", 0, NULL);
	assert_reads(fd, "ok bytes=4096\n");
	w->refuse = true;
	put(w, fd, "sketch\n", 1, pipes);
	assert_reads(fd, "error too much\n");
	assert_true(is_closed(pipes[0]));
	close(pipes[0]);
	assert_int_equal(w->sketches, 2);
	assert_int_equal(w->enrolls, 3);

	put(w, fd, "sketch\n", 0, NULL);
	assert_reads(fd, "error sketch: one descriptor goes with it\n");
	put(w, fd, "sketch\n", 2, pipes);
	assert_reads(fd, "error sketch: one descriptor goes with it\n");
	assert_true(is_closed(pipes[0]) && is_closed(pipes[1]));
	close_all(pipes, 2);
	put(w, fd, "enroll off\n", 1, pipes);
	assert_reads(fd, "error enroll: one descriptor goes with 'on', at most\n");
	close_all(pipes, 1);
	assert_int_equal(w->sketches + w->enrolls, 5);
	close(fd);
}

static void test_client_leaves(void **state)
{
	struct world *w = *state;
	int fd = client(w), pipes[2];

	put(w, fd, "save\n", 2, pipes);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->gone, 1);
	/* They are the machine's all the same. */
	assert_false(is_closed(pipes[0]));
	close_all(w->fd, 2);
	close_all(pipes, 2);

	fd = client(w);
	put(w, fd, "save\n", 1, pipes);
	w->control = cs_control_free(w->control);
	assert_int_equal(w->gone, 2);
	close_all(w->fd, 1);
	close_all(pipes, 1);
	close(fd);
}

/* One that holds the machine is served on, and its end is told. */
static void test_holds(void **state)
{
	struct world *w = *state;
	int fd = client(w), others[40], pipes[3];

	put(w, fd, "save park sync\n", 3, pipes);
	assert_string_equal(w->words, "park sync");
	close_all(w->fd, 3);
	cs_control_answer_held(w->client, "bytes=1");
	settle(w->loop);
	assert_reads(fd, "ok bytes=1\n");
	for (unsigned i = 0; i < 40; i++) {
		others[i] = client(w);
		settle(w->loop);
	}
	put(w, fd, "pause\n", 0, NULL);
	assert_reads(fd, "ok\n");
	assert_int_equal(w->gone, 0);
	close(fd);
	settle(w->loop);
	assert_int_equal(w->gone, 1);
	close_all(others, 40);
	close_all(pipes, 3);
}

/* What is not taken is closed: with other words, too many, refused, half a line. */
static void test_descriptors_are_not_kept(void **state)
{
	struct world *w = *state;
	int fd = client(w), pipes[8];

	put(w, fd, "pause\n", 2, pipes);
	assert_reads(fd, "ok\n");
	assert_true(is_closed(pipes[0]) && is_closed(pipes[1]));
	close_all(pipes, 2);

	w->refuse = true;
	put(w, fd, "save\n", 2, pipes);
	assert_reads(fd, "error not now\n");
	assert_true(is_closed(pipes[0]) && is_closed(pipes[1]));
	close_all(pipes, 2);

	put(w, fd, "save\n", 8, pipes);
	assert_reads(fd, "error not now\n");
	for (unsigned i = 0; i < 8; i++)
		assert_true(is_closed(pipes[i]));
	close_all(pipes, 8);

	put(w, fd, "sa", 3, pipes);
	assert_false(is_closed(pipes[0]));
	close(fd);
	settle(w->loop);
	assert_true(is_closed(pipes[0]) && is_closed(pipes[2]));
	close_all(pipes, 3);
}

/* Forty others do not push out the one that waits. */
static void test_keeps_its_place(void **state)
{
	struct world *w = *state;
	int fd = client(w), others[40], pipe_fd;

	put(w, fd, "save\n", 1, &pipe_fd);
	for (unsigned i = 0; i < 40; i++) {
		others[i] = client(w);
		settle(w->loop);
	}
	assert_int_equal(w->gone, 0);
	close_all(w->fd, 1);
	cs_control_answer(w->client, "", NULL);
	assert_reads(fd, "ok\n");
	close_all(others, 40);
	close(pipe_fd);
	close(fd);
}

/* ---- the client's side */

static void *serve(void *arg)
{
	struct world *w = arg;
	struct cs_err err = { 0 };

	cs_loop_run(w->loop, &err);
	return NULL;
}

static int answer_at_once(void *arg, struct cs_control_client *who, const int fds[], size_t n,
			  const char *words, struct cs_err *err)
{
	struct world *w = arg;

	do_save(arg, who, fds, n, words, err);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(write(fds[i], "x", 1), 1);
	close_all(w->fd, (unsigned)n);
	return cs_fail(err, ENOSPC, "no room for '%s'", words);
}

static void test_client_call(void **state)
{
	static const struct cs_control_ops refusing = { .save = answer_at_once };
	struct world *w = *state;
	struct cs_control_spec spec = { .listen_fd = w->listen_fd, .ops = &refusing, .arg = w };
	int fd = memfd_create("memory", MFD_CLOEXEC), fds[4] = { fd, fd, fd, fd };
	struct cs_err err = { 0 };
	pthread_t thread;
	char byte, *text = NULL;

	cs_control_free(w->control);
	assert_int_equal(cs_control_create(&spec, w->loop, &w->control, &err), 0);
	assert_int_equal(pthread_create(&thread, NULL, serve, w), 0);
	assert_int_equal(cs_control_save(w->dirfd, fds, 1, "drop", 5000, &text, &err), -EREMOTEIO);
	assert_string_equal(err.text, "no room for 'drop'");
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	assert_int_equal(cs_control_save(w->dirfd, fds, 4, "", 5000, &text, &err), -EINVAL);
	assert_null(text);
	cs_loop_stop(w->loop);
	pthread_join(thread, NULL);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_late_answer, open_world, close_world),
		cmocka_unit_test_setup_teardown(test_one_descriptor, open_world, close_world),
		cmocka_unit_test_setup_teardown(test_client_leaves, open_world, close_world),
		cmocka_unit_test_setup_teardown(test_descriptors_are_not_kept, open_world,
						close_world),
		cmocka_unit_test_setup_teardown(test_holds, open_world, close_world),
		cmocka_unit_test_setup_teardown(test_keeps_its_place, open_world, close_world),
		cmocka_unit_test_setup_teardown(test_client_call, open_world, close_world),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
