/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control socket: its server against clients of all sorts, its client against servers. */
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/settle.h"
#include "vmm/control.h"

struct world {
	pthread_mutex_t lock;
	struct cs_loop *loop;
	struct cs_control *control;
	char folder[128];
	int dirfd, listen_fd;
	unsigned calls;
	char last[32];
	uint32_t grace_ms;
	uint64_t balloon_bytes;
	int console_fd;
	bool refuse;
};

static int note(struct world *w, const char *what, struct cs_err *err)
{
	w->calls++;
	snprintf(w->last, sizeof(w->last), "%s", what);
	return w->refuse ? cs_fail(err, EBUSY, "not now:\n\33[1m%s", what) : 0;
}

static int do_status(void *arg, char *text, size_t bytes, struct cs_err *err)
{
	snprintf(text, bytes, "state=ready vcpus=2");
	return note(arg, "status", err);
}

static int do_stop(void *arg, uint32_t grace_ms, struct cs_err *err)
{
	((struct world *)arg)->grace_ms = grace_ms;
	return note(arg, "stop", err);
}

static int do_reboot(void *arg, struct cs_err *err)
{
	return note(arg, "reboot", err);
}

static int do_pause(void *arg, struct cs_err *err)
{
	return note(arg, "pause", err);
}

static int do_enroll(void *arg, bool on, int ranges_fd, uint64_t *ret_bytes, struct cs_err *err)
{
	*ret_bytes = on ? 4096 : 8192;
	return note(arg, on ? "on" : "off", err);
}

static int do_balloon(void *arg, uint64_t bytes, struct cs_err *err)
{
	((struct world *)arg)->balloon_bytes = bytes;
	return note(arg, "balloon", err);
}

static int do_quit(void *arg, struct cs_err *err)
{
	return note(arg, "quit", err);
}

static int do_console(void *arg, int fd, struct cs_err *err)
{
	struct world *w = arg;

	if (!w->refuse)
		w->console_fd = fd;
	return note(w, "console", err);
}

/* resume is not served. */
static const struct cs_control_ops ops = { .status = do_status,
					   .stop = do_stop,
					   .reboot = do_reboot,
					   .pause = do_pause,
					   .enroll = do_enroll,
					   .balloon = do_balloon,
					   .quit = do_quit,
					   .console = do_console };

static int listen_in(const char *folder)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char cwd[256];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* The folder's name may be too long for an address. */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "control.sock");
	assert_true(fd >= 0);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(folder), 0);
	unlink(addr.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 128), 0);
	assert_int_equal(chmod(addr.sun_path, 0666), 0);
	assert_int_equal(chdir(cwd), 0);
	return fd;
}

static int open_world(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	struct cs_control_spec spec = { .ops = &ops, .arg = w };
	struct cs_err err = { 0 };

	memset(w->folder, 'x', sizeof(w->folder) - 1);
	memcpy(w->folder, "/tmp/cs-control-", 16);
	memcpy(w->folder + sizeof(w->folder) - 7, "XXXXXX", 6);
	w->console_fd = -1;
	assert_non_null(mkdtemp(w->folder));
	assert_int_equal(chmod(w->folder, 0755), 0);
	w->dirfd = open(w->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	w->listen_fd = spec.listen_fd = listen_in(w->folder);
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
	if (w->console_fd >= 0)
		close(w->console_fd);
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

	snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/control.sock", w->dirfd);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -1;
	return fd;
}

static void put(struct world *w, int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	settle(w->loop);
}

static void assert_reads(int fd, const char *text)
{
	char buf[CS_CONTROL_LINE + 1] = "";

	assert_int_equal(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT), strlen(text));
	assert_string_equal(buf, text);
}

static void assert_error(int fd)
{
	char buf[CS_CONTROL_LINE + 1] = "";

	assert_true(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT) > 6);
	assert_memory_equal(buf, "error ", 6);
	assert_ptr_equal(strchr(buf, '\n'), buf + strlen(buf) - 1);
}

static void assert_eof(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

/* ---- the server */

static void test_requests(void **state)
{
	struct world *w = *state;
	int fd = client(w);

	put(w, fd, "status\n");
	assert_reads(fd, "ok state=ready vcpus=2\n");
	put(w, fd, "stop\n");
	assert_reads(fd, "ok\n");
	assert_int_equal(w->grace_ms, CS_CONTROL_GRACE_MS);
	put(w, fd, "stop 250\n");
	assert_reads(fd, "ok\n");
	assert_int_equal(w->grace_ms, 250);
	put(w, fd, "balloon 67108864\n");
	assert_reads(fd, "ok\n");
	assert_int_equal(w->balloon_bytes, 67108864);
	put(w, fd, "reboot\n");
	assert_reads(fd, "ok\n");
	assert_string_equal(w->last, "reboot");
	put(w, fd, "pause\n");
	assert_reads(fd, "ok\n");
	put(w, fd, "resume\n");
	assert_error(fd);
	put(w, fd, "quit\n");
	assert_reads(fd, "ok\n");
	assert_string_equal(w->last, "quit");
	assert_int_equal(w->calls, 7);
	put(w, fd, "enroll on\n");
	assert_reads(fd, "ok bytes=4096\n");
	put(w, fd, "enroll off\n");
	assert_reads(fd, "ok bytes=8192\n");
	assert_int_equal(w->calls, 9);
	put(w, fd, "enroll\n");
	assert_error(fd);
	put(w, fd, "enroll on off\n");
	assert_error(fd);
	assert_int_equal(w->calls, 9);
	/* Several at once, and one in pieces. */
	put(w, fd, "pause\nstatus\nreb");
	assert_reads(fd, "ok\nok state=ready vcpus=2\n");
	put(w, fd, "oot\n");
	assert_reads(fd, "ok\n");
	close(fd);
}

static void test_refusals(void **state)
{
	struct world *w = *state;
	int fd = client(w);

	w->refuse = true;
	put(w, fd, "status\n");
	assert_reads(fd, "error not now: ?[1mstatus\n");
	put(w, fd, "pause\n");
	assert_error(fd);
	/* The socket is still the client's. */
	put(w, fd, "quit\n");
	assert_reads(fd, "ok\n");
	close(fd);
}

static void test_garbage(void **state)
{
	static const char *const lines[] = {
		"\n",           " \n",           " status\n",  "STATUS\n",
		"status now\n", "stop soon\n",   "stop -1\n",  "stop 3600001\n",
		"stop 1 2\n",   "stop  1\n",     "status\r\n", "GET / HTTP/1.0\n",
		"quit quit\n",  "consol\n",      "\xff\xfe\n", "balloon\n",
		"balloon -1\n", "balloon 64M\n",
	};
	struct world *w = *state;
	int fd = client(w);

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		put(w, fd, lines[i]);
		assert_error(fd);
	}
	assert_int_equal(send(fd, "quit\0quit\n", 10, 0), 10);
	settle(w->loop);
	assert_int_equal(w->calls, 1); /* a NUL ends the word; no harm */
	assert_reads(fd, "ok\n");
	close(fd);
}

static void test_long_line(void **state)
{
	struct world *w = *state;
	static char line[3 * CS_CONTROL_LINE];
	int fd = client(w);
	char buf[100] = "";

	memset(line, 's', sizeof(line) - 1);
	put(w, fd, line);
	assert_true(recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT) > 0);
	assert_memory_equal(buf, "error ", 6);
	errno = 0;
	assert_true(recv(fd, buf, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN);
	close(fd);
	/* The longest that is none. */
	fd = client(w);
	line[CS_CONTROL_LINE - 2] = '\n';
	line[CS_CONTROL_LINE - 1] = '\0';
	put(w, fd, line);
	assert_error(fd);
	put(w, fd, "pause\n");
	assert_reads(fd, "ok\n");
	close(fd);
}

/* Silent ones, half lines, those that ask and never read. */
static void test_bad_clients(void **state)
{
	struct world *w = *state;
	int silent[40], asks = client(w), fd;
	ssize_t n;

	for (int i = 0; i < 40; i++) {
		silent[i] = client(w);
		assert_true(silent[i] >= 0);
		put(w, silent[i], "sta");
	}
	/* Who was silent for longest made room. */
	assert_eof(silent[0]);
	do {
		n = send(asks, "status\n", 7, MSG_NOSIGNAL | MSG_DONTWAIT);
		settle(w->loop);
	} while (n == 7);
	assert_int_equal(errno, EPIPE);

	fd = client(w);
	put(w, fd, "status\n");
	assert_reads(fd, "ok state=ready vcpus=2\n");
	close(fd);
	put(w, silent[39], "tus\n");
	assert_reads(silent[39], "ok state=ready vcpus=2\n");
	for (int i = 0; i < 40; i++)
		close(silent[i]);
	close(asks);
	settle(w->loop);
}

static void test_console(void **state)
{
	struct world *w = *state;
	int fd = client(w);
	char buf[16];

	put(w, fd, "console\nls\n");
	assert_reads(fd, "ok\n");
	assert_true(w->console_fd >= 0);
	/* What came behind the line is the console's, and so is the socket from now on. */
	assert_int_equal(recv(w->console_fd, buf, sizeof(buf), MSG_DONTWAIT), 3);
	assert_memory_equal(buf, "ls\n", 3);
	put(w, fd, "quit\n");
	assert_string_equal(w->last, "console");
	assert_int_equal(send(w->console_fd, "login: ", 7, 0), 7);
	assert_reads(fd, "login: ");
	assert_true(fcntl(w->console_fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(w->console_fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	/* A console that refuses: the client sees its end. */
	w->refuse = true;
	fd = client(w);
	put(w, fd, "console\n");
	assert_reads(fd, "ok\n");
	assert_eof(fd);
	close(fd);
}

static void test_stranger(void **state)
{
	struct world *w = *state;
	int status, fd;
	pid_t pid;

	if (getuid() != 0)
		skip(); /* only root can be somebody else */
	pid = fork();
	if (pid == 0) {
		char byte;
		int end;

		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(2);
		end = client(w);
		if (end < 0 || fcntl(end, F_SETFL, 0) < 0)
			_exit(3);
		if (send(end, "quit\n", 5, MSG_NOSIGNAL) < 0 && errno != EPIPE)
			_exit(4);
		_exit(recv(end, &byte, 1, 0) <= 0 ? 0 : 5);
	}
	assert_true(pid > 0);
	/* Its connection is in the backlog before the loop looks, or is seen by a later round. */
	while (waitpid(pid, &status, WNOHANG) == 0) {
		settle(w->loop);
		poll(NULL, 0, 1);
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(w->calls, 0);
	fd = client(w);
	put(w, fd, "pause\n");
	assert_reads(fd, "ok\n");
	close(fd);
}

/* ---- the client */

static void *run_loop(void *arg)
{
	struct cs_err err = { 0 };

	cs_loop_run(((struct world *)arg)->loop, &err);
	return NULL;
}

static void test_call(void **state)
{
	struct world *w = *state;
	struct cs_err err = { 0 };
	char *text = NULL;
	pthread_t thread;
	int fd = -1;

	assert_int_equal(pthread_create(&thread, NULL, run_loop, w), 0);
	assert_int_equal(cs_control_call(w->dirfd, "status", 10000, &text, &err), 0);
	assert_string_equal(text, "state=ready vcpus=2");
	free(text);
	text = NULL;
	assert_int_equal(cs_control_call(w->dirfd, "pause", 10000, &text, &err), 0);
	assert_string_equal(text, "");
	free(text);
	assert_int_equal(cs_control_call(w->dirfd, "stop 5", 10000, NULL, &err), 0);
	text = NULL;
	assert_int_equal(cs_control_call(w->dirfd, "nonsense", 10000, &text, &err), -EREMOTEIO);
	assert_non_null(strstr(err.text, "not a request"));
	assert_null(text);
	assert_int_equal(cs_control_call(w->dirfd, "a\nb", 10000, &text, &err), -EINVAL);
	assert_int_equal(cs_control_console(w->dirfd, &fd, &err), 0);
	assert_int_equal(send(fd, "x", 1, 0), 1);
	close(fd);
	cs_loop_stop(w->loop);
	pthread_join(thread, NULL);
}

static void test_call_nobody(void **state)
{
	struct world *w = *state;
	struct cs_err err = { 0 };
	int fd;

	/* A monitor that does not come round to it. */
	assert_int_equal(cs_control_call(w->dirfd, "status", 50, NULL, &err), -ETIMEDOUT);
	/* A dead one: its socket is still there. */
	w->control = cs_control_free(w->control);
	close(w->listen_fd);
	assert_int_equal(cs_control_call(w->dirfd, "status", 10000, NULL, &err), -ECONNREFUSED);
	assert_string_equal(err.text, "not running");
	unlinkat(w->dirfd, "control.sock", 0);
	assert_int_equal(cs_control_call(w->dirfd, "status", 10000, NULL, &err), -ENOENT);
	assert_string_equal(err.text, "not running");
	assert_int_equal(cs_control_console(w->dirfd, &fd, &err), -ENOENT);
	w->listen_fd = listen_in(w->folder);
}

struct answer {
	const char *text;
	int rc;
};

static void *give_answer(void *arg)
{
	struct world *w = ((void **)arg)[0];
	const char *text = ((void **)arg)[1];
	int fd = accept(w->listen_fd, NULL, NULL);
	char byte = 0;

	if (fd < 0)
		return NULL;
	/* All of the question: what is left unread when it is closed resets the connection. */
	while (byte != '\n' && recv(fd, &byte, 1, 0) == 1)
		;
	send(fd, text, strlen(text), MSG_NOSIGNAL);
	close(fd);
	return NULL;
}

static void test_call_liars(void **state)
{
	static char huge[2 * CS_CONTROL_LINE];
	static const struct answer answers[] = {
		{ "", -ECONNRESET },      { "ok", -ECONNRESET },  { "okay\n", -EPROTO },
		{ "\n", -EPROTO },        { "error\n", -EPROTO }, { "error no\n", -EREMOTEIO },
		{ "ok fine\nmore\n", 0 }, { huge, -EMSGSIZE },
	};
	struct world *w = *state;

	memset(huge, 'o', sizeof(huge) - 1);
	w->control = cs_control_free(w->control);
	assert_int_equal(fcntl(w->listen_fd, F_SETFL, 0), 0);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		void *arg[2] = { w, (void *)(uintptr_t)answers[i].text };
		struct cs_err err = { 0 };
		char *text = NULL;
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, give_answer, arg), 0);
		assert_int_equal(cs_control_call(w->dirfd, "status", 10000, &text, &err),
				 answers[i].rc);
		assert_int_equal(text != NULL, answers[i].rc == 0);
		assert_int_equal(*err.text != '\0', answers[i].rc != 0);
		if (text)
			assert_string_equal(text, "fine");
		free(text);
		pthread_join(thread, NULL);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, open_world, close_world)
	const struct CMUnitTest tests[] = {
		TEST(requests), TEST(refusals), TEST(garbage), TEST(long_line),   TEST(bad_clients),
		TEST(console),  TEST(stranger), TEST(call),    TEST(call_nobody), TEST(call_liars),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
