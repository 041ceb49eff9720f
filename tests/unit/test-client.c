/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands against monitors and agents that are there, or are not: connect, ping. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/monitor.h"

/* ---- connect */

static void test_connect(void **state)
{
	struct world *w = *state;
	struct cs_err err = { 0 };
	int fd = -1;

	w->refusals = 3; /* the guest boots */
	world_start(w, script_hold);
	assert_int_equal(cs_client_connect(w->dirfd, 1, 20000, &fd, &err), 0);
	assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	world_finish(w);
}

static void test_connect_nobody(void **state)
{
	struct world *w = *state;
	struct cs_err err = { 0 };
	uint64_t us;
	int fd = -1;

	/* Nobody accepts: it is in the backlog. */
	assert_int_equal(cs_client_connect(w->dirfd, 1, 50, &fd, &err), -ETIMEDOUT);
	close(w->listen_fd);
	w->listen_fd = -1;
	/* The rest is known at once, whatever the time. */
	assert_int_equal(cs_client_connect(w->dirfd, 1, UINT32_MAX, &fd, &err), -ECONNREFUSED);
	assert_string_equal(err.text, "not running");
	unlinkat(w->dirfd, "vsock.sock", 0);
	assert_int_equal(cs_client_connect(w->dirfd, 1, UINT32_MAX, &fd, &err), -ENOENT);
	assert_int_equal(cs_client_ping(w->dirfd, UINT32_MAX, &us, &err), -ENOENT);
	assert_int_equal(fd, -1);
}

static void test_connect_refused(void **state)
{
	struct world *w = *state;
	struct cs_err err = { 0 };
	int fd = -1;

	w->refusals = UINT32_MAX;
	world_start(w, NULL);
	assert_int_equal(cs_client_connect(w->dirfd, 1, 300, &fd, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "boot"));
	shutdown(w->listen_fd, SHUT_RDWR);
	world_finish(w);
}

static void script_nonsense(struct world *w, int fd)
{
	static const char *const lines[] = { "ERR\n", "OK\n", "OK x\n", "OK 4294967296\n",
					     "OK 11111111111111111111111111111\n" };

	CHECK(send(fd, lines[w->number], strlen(lines[w->number]), MSG_NOSIGNAL) > 0);
}

static void test_connect_nonsense(void **state)
{
	struct world *w = *state;

	for (w->number = 0; w->number < 5; w->number++) {
		struct cs_err err = { 0 };
		int fd = -1;

		world_start(w, script_nonsense);
		assert_true(cs_client_connect(w->dirfd, 1, 10000, &fd, &err) < 0);
		assert_true(err.code == EPROTO || err.code == EMSGSIZE);
		world_finish(w);
	}
}

/* ---- ping */

static void script_ping(struct world *w, int fd)
{
	struct cs_wire_head head;

	greet(w, fd);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	CHECK(head.type == CS_WIRE_PING && head.bytes <= 64);
	if (w->number == 1)
		w->payload[0]++;
	if (w->number == 2)
		head.bytes = 0;
	if (w->number == 3)
		return;
	if (w->number < 4)
		CHECK(cs_wire_send(fd, CS_WIRE_PONG, w->payload, head.bytes) == 0);
	if (w->number == 4) /* silence, until it gives up */
		CHECK(cs_wire_receive(fd, &head, w->payload) == -ENODATA);
}

static void test_ping(void **state)
{
	static const int rcs[] = { 0, -EPROTO, -ENODATA, -ENODATA, -ETIMEDOUT };
	struct world *w = *state;

	for (w->number = 0; w->number < 5; w->number++) {
		struct cs_err err = { 0 };
		uint64_t us = UINT64_MAX;

		world_start(w, script_ping);
		assert_int_equal(cs_client_ping(w->dirfd, w->number == 4 ? 100 : 20000, &us, &err),
				 rcs[w->number]);
		assert_int_equal(us == UINT64_MAX, w->number != 0);
		world_finish(w);
	}
}

/* ---- ping by the monitor */

struct desk { /* a control socket that gives one answer */
	int listen_fd;
	const char *answer; /* NULL: none */
	char line[32];
};

static void *serve_desk(void *arg)
{
	struct desk *desk = arg;
	int fd = accept4(desk->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	size_t n = 0;

	/* A line may come in parts. */
	while (n < 20 && (n == 0 || desk->line[n - 1] != '\n') &&
	       recv(fd, desk->line + n, 1, 0) == 1)
		n++;
	desk->line[n] = '\0';
	if (desk->answer)
		send(fd, desk->answer, strlen(desk->answer), MSG_NOSIGNAL);
	else
		recv(fd, desk->line + 20, 1, 0); /* until it gives up */
	close(fd);
	return NULL;
}

static void test_ping_by_monitor(void **state)
{
	static const struct {
		const char *answer;
		int rc, script;
	} rows[] = {
		{ "ok\n", 0, -1 },
		{ NULL, -ETIMEDOUT, -1 },
		/* Then by a connection of its own, which has the last word. */
		{ "error not a request\n", 0, 0 },
		{ "error its agent is too old\n", -EPROTO, 1 },
		{ "", 0, 0 },
	};
	struct world *w = *state;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct desk desk = { .answer = rows[i].answer };
		struct sockaddr_un addr = { .sun_family = AF_UNIX };
		struct cs_err err = { 0 };
		uint64_t us = UINT64_MAX;
		pthread_t thread;

		snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/control.sock",
			 w->dirfd);
		desk.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(desk.listen_fd, (const struct sockaddr *)&addr, sizeof(addr)),
				 0);
		assert_int_equal(listen(desk.listen_fd, 1), 0);
		assert_int_equal(pthread_create(&thread, NULL, serve_desk, &desk), 0);
		w->number = rows[i].script;
		if (rows[i].script >= 0)
			world_start(w, script_ping);
		assert_int_equal(cs_client_ping(w->dirfd, rows[i].answer ? 20000 : 100, &us, &err),
				 rows[i].rc);
		assert_int_equal(us == UINT64_MAX, rows[i].rc != 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		assert_string_equal(desk.line, "ping\n");
		if (rows[i].script >= 0)
			world_finish(w);
		close(desk.listen_fd);
		unlinkat(w->dirfd, "control.sock", 0);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, world_open, world_close)
	const struct CMUnitTest tests[] = {
		TEST(connect),          TEST(connect_nobody), TEST(connect_refused),
		TEST(connect_nonsense), TEST(ping),           TEST(ping_by_monitor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
