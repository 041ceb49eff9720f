/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/monitor.h"

#include <endian.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static void *play(void *arg)
{
	struct world *w = arg;
	char line[32] = "";
	int fd;

	for (; w->refusals; w->refusals--) {
		fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return NULL; /* the test is over */
		close(fd);
	}
	if (!w->script)
		return NULL;
	fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0 || recv(fd, line, sizeof(line) - 1, 0) <= 0 || strcmp(line, "CONNECT 1\n") != 0)
		w->wrong = __LINE__;
	else
		w->script(w, fd);
	close(fd);
	return NULL;
}

void world_start(struct world *w, void (*script)(struct world *w, int fd))
{
	w->script = script;
	assert_int_equal(pthread_create(&w->thread, NULL, play, w), 0);
	w->running = true;
}

void world_finish(struct world *w)
{
	pthread_join(w->thread, NULL);
	w->running = false;
	assert_int_equal(w->wrong, 0);
}

int world_open(void **state)
{
	struct world *w = test_calloc(1, sizeof(*w));
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	memset(w->folder, 'x', sizeof(w->folder) - 1);
	memcpy(w->folder, "/tmp/cs-client-", 15);
	memcpy(w->folder + sizeof(w->folder) - 7, "XXXXXX", 6);
	assert_non_null(mkdtemp(w->folder));
	w->dirfd = open(w->folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(w->dirfd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/vsock.sock", w->dirfd);
	w->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(w->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(w->listen_fd, 16), 0);
	w->payload = malloc(CS_WIRE_MAX);
	alarm(HANG_S);
	*state = w;
	return 0;
}

int world_close(void **state)
{
	struct world *w = *state;

	alarm(0);
	shutdown(w->listen_fd, SHUT_RDWR);
	if (w->running)
		pthread_join(w->thread, NULL);
	close(w->listen_fd);
	unlinkat(w->dirfd, "vsock.sock", 0);
	close(w->dirfd);
	rmdir(w->folder);
	free(w->payload);
	test_free(w);
	return 0;
}

/* ---- the agent's part */

void greet(struct world *w, int fd)
{
	CHECK(send(fd, "OK 1073741825\n", 14, MSG_NOSIGNAL) == 14);
}

void put_u32(struct world *w, int fd, enum cs_wire_type type, uint32_t value)
{
	value = htole32(value);
	CHECK(cs_wire_send(fd, type, &value, sizeof(value)) == 0);
}

void take_exec(struct world *w, int fd)
{
	struct cs_wire_head head;

	greet(w, fd);
	CHECK(cs_wire_receive(fd, &head, w->payload) == 0);
	CHECK(head.type == CS_WIRE_EXEC);
	CHECK(head.bytes >= sizeof(w->exec) && head.bytes - sizeof(w->exec) < sizeof(w->strings));
	memcpy(&w->exec, w->payload, sizeof(w->exec));
	w->strings_bytes = head.bytes - sizeof(w->exec);
	memcpy(w->strings, w->payload + sizeof(w->exec), w->strings_bytes);
	put_u32(w, fd, CS_WIRE_STARTED, 100);
}

static char words[][4] = { "cat", "-n" };
static char *const argv[] = { words[0], words[1], NULL };

struct cs_exec_spec spec_of(struct world *w)
{
	return (struct cs_exec_spec){
		.argv = argv, .in_fd = -1, .out_fd = -1, .err_fd = -1, .timeout_ms = 10000
	};
}

void script_hold(struct world *w, int fd)
{
	char byte;

	greet(w, fd);
	CHECK(recv(fd, &byte, 1, 0) == 0);
}

uint64_t sum_of(uint64_t sum, const char *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		sum = sum * 31 + (unsigned char)at[i];
	return sum;
}
