/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The console: a log that stays small, clients that come, stall and go, a guest that talks too much
 * or gives no buffers. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fake/driver.h"
#include "vmm/virtio-devices.h"

#define SIZE     8
#define LOG_MAX  16384u
#define RECEIVE  0
#define TRANSMIT 1

static unsigned waits; /* epoll_wait() calls */

int __real_epoll_wait(int fd, struct epoll_event *events, int max, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int max, int timeout);

int __wrap_epoll_wait(int fd, struct epoll_event *events, int max, int timeout)
{
	waits++;
	return __real_epoll_wait(fd, events, max, timeout);
}

struct world {
	struct fake_guest guest;
	struct fake_queue in, out;
	int log_fd, client;  /* client: our end */
	uint64_t data, room; /* 4 KiB each */
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct cs_virtio_console_spec spec = { .log_max = LOG_MAX };
	struct cs_virtio *console;
	struct cs_err err;

	assert_non_null(w);
	fake_open(&w->guest);
	w->client = -1;
	w->log_fd = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(w->log_fd >= 0);
	spec.log_fd = w->log_fd;
	assert_int_equal(cs_virtio_console_create(&spec, &console, &err), 0);
	fake_plug(&w->guest, console);
	w->data = fake_alloc(&w->guest, 4096);
	w->room = fake_alloc(&w->guest, 4096);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	fake_close(&w->guest);
	close(w->log_fd);
	if (w->client >= 0)
		close(w->client);
	free(w);
	return 0;
}

static void boot(struct world *w)
{
	fake_features(&w->guest, 0);
	fake_queue(&w->guest, RECEIVE, SIZE, &w->in);
	fake_queue(&w->guest, TRANSMIT, SIZE, &w->out);
	fake_driver_ok(&w->guest);
	fake_settle(&w->guest);
}

static void attach(struct world *w)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	if (w->client >= 0)
		close(w->client);
	w->client = pair[0];
	assert_int_equal(cs_virtio_console_attach(w->guest.dev, pair[1]), 0);
	fake_settle(&w->guest);
}

static void say(struct world *w, const char *text)
{
	const struct fake_buf buf = { w->data, (uint32_t)strlen(text), false };
	uint32_t id, len;

	memcpy(fake_at(&w->guest, w->data), text, strlen(text));
	fake_send(&w->out, &buf, 1);
	fake_kick(&w->out);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->out, &id, &len));
	assert_int_equal(len, 0);
}

static void give_buffer(struct world *w, uint32_t bytes)
{
	const struct fake_buf buf = { w->room, bytes, true };

	fake_send(&w->in, &buf, 1);
	fake_kick(&w->in);
	fake_settle(&w->guest);
}

static void assert_heard(struct world *w, const char *text)
{
	uint32_t id, len;

	assert_true(fake_take(&w->in, &id, &len));
	assert_int_equal(len, strlen(text));
	assert_memory_equal(fake_at(&w->guest, w->room), text, strlen(text));
}

static void assert_client_got(struct world *w, const char *text)
{
	char got[256];
	ssize_t n = recv(w->client, got, sizeof(got), MSG_DONTWAIT);

	assert_int_equal(n, strlen(text));
	assert_memory_equal(got, text, strlen(text));
}

static void assert_log(struct world *w, const char *text)
{
	char got[256];
	ssize_t n = pread(w->log_fd, got, sizeof(got), 0);

	assert_int_equal(n, strlen(text));
	assert_memory_equal(got, text, strlen(text));
}

static void *nap_and_stop(void *arg)
{
	const struct timespec nap = { .tv_nsec = 30000000 };

	nanosleep(&nap, NULL);
	cs_loop_stop(arg);
	return NULL;
}

/* Nothing in the loop is ready all the time. */
static void assert_quiet(struct world *w)
{
	struct cs_err err;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, nap_and_stop, w->guest.loop), 0);
	waits = 0;
	assert_int_equal(cs_loop_run(w->guest.loop, &err), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(waits <= 3);
}

/* ---- output */

static void to_log_and_client(void **state)
{
	struct world *w = *state;

	boot(w);
	say(w, "one\n");
	attach(w);
	say(w, "two\n");
	assert_client_got(w, "two\n");
	assert_log(w, "one\ntwo\n");
	assert_quiet(w);
}

static void in_pieces(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[SIZE];
	uint32_t id, len;

	boot(w);
	memcpy(fake_at(&w->guest, w->data), "abcdefgh", SIZE);
	for (unsigned i = 0; i < SIZE; i++)
		buf[i] = (struct fake_buf){ w->data + i, i == 3 ? 0 : 1, i == SIZE - 1 };
	fake_send(&w->out, buf, SIZE); /* one empty, the last to be written to: not put out */
	fake_kick(&w->out);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->out, &id, &len));
	assert_log(w, "abcefg");
	assert_int_equal(((char *)fake_at(&w->guest, w->data))[7], 'h');
}

static void log_keeps_the_newest(void **state)
{
	struct world *w = *state;
	char line[80], all[LOG_MAX + 1];
	ssize_t n;

	boot(w);
	for (unsigned i = 0; i < 3000; i++) {
		snprintf(line, sizeof(line), "line %06u of what the guest has to say\n", i);
		say(w, line);
		assert_true(lseek(w->log_fd, 0, SEEK_END) <= LOG_MAX);
	}
	n = pread(w->log_fd, all, LOG_MAX, 0);
	assert_true(n > (ssize_t)LOG_MAX / 2 - 80);
	all[n] = '\0';
	assert_int_equal(n % (ssize_t)strlen(line), 0); /* whole lines */
	assert_memory_equal(all, "line ", 5);
	assert_string_equal(all + n - strlen(line), line);
	for (ssize_t at = 0; at + 41 < n; at += 41) /* none lost in between */
		assert_int_equal(atol(all + at + 5) + 1, atol(all + at + 46));
}

static void log_without_lines(void **state)
{
	struct world *w = *state;
	char text[2001];

	boot(w);
	memset(text, 'x', 2000);
	text[2000] = '\0';
	for (unsigned i = 0; i < 50; i++) {
		say(w, text);
		assert_true(lseek(w->log_fd, 0, SEEK_END) <= LOG_MAX);
	}
	assert_true(lseek(w->log_fd, 0, SEEK_END) >= LOG_MAX / 2);
}

static void log_cannot_grow(void **state)
{
	struct world *w = *state;

	boot(w);
	say(w, "first\n");
	assert_int_equal(fcntl(w->log_fd, F_ADD_SEALS, F_SEAL_GROW), 0); /* a full disk */
	attach(w);
	for (unsigned i = 0; i < 3 * SIZE; i++)
		say(w, "lost\n");
	assert_log(w, "first\n");
	assert_int_equal(recv(w->client, fake_at(&w->guest, w->room), 4096, MSG_DONTWAIT),
			 3 * SIZE * 5);
}

/* One request of 4 MiB, out of the same RAM again and again, takes many turns. */
static void huge_request(void **state)
{
	struct world *w = *state;
	struct fake_buf buf[SIZE];
	uint32_t id, len;

	boot(w);
	memset(w->guest.mem.ram.seg[1].host, 'z', FAKE_SEG_BYTES);
	for (unsigned i = 0; i < SIZE; i++)
		buf[i] = (struct fake_buf){ FAKE_SEG_BYTES, FAKE_SEG_BYTES, false };
	w->guest.mem.ram.seg[1].gpa = FAKE_SEG_BYTES;
	fake_send(&w->out, buf, SIZE);
	fake_kick(&w->out);
	waits = 0;
	fake_wait(&w->out, 1);
	assert_true(waits >= SIZE * FAKE_SEG_BYTES / 65536);
	assert_true(fake_take(&w->out, &id, &len));
	assert_true(lseek(w->log_fd, 0, SEEK_END) <= LOG_MAX);
	assert_true(w->guest.dev->running);
}

static void reset_in_a_request(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { FAKE_SEG_BYTES, FAKE_SEG_BYTES, false };

	boot(w);
	fake_send(&w->out, &buf, 1);
	w->guest.dev->ops->kick(w->guest.dev, TRANSMIT); /* a turn of it */
	assert_true(lseek(w->log_fd, 0, SEEK_END) > 0);
	assert_int_equal(ftruncate(w->log_fd, 0), 0);
	w->guest.next_gpa = 0x1000;
	boot(w);
	w->data = fake_alloc(&w->guest, 4096);
	attach(w);
	say(w, "from the start\n");
	assert_client_got(w, "from the start\n");
}

/* ---- clients */

static void client_that_does_not_read(void **state)
{
	struct world *w = *state;
	char text[4001];

	boot(w);
	attach(w);
	memset(text, 'y', 4000);
	text[4000] = '\0';
	for (unsigned i = 0; i < 500; i++)
		say(w, text); /* each is answered */
	while (recv(w->client, text, sizeof(text), MSG_DONTWAIT) > 0)
		;
	say(w, "still here\n");
	assert_client_got(w, "still here\n");
}

static void input(void **state)
{
	struct world *w = *state;

	boot(w);
	attach(w);
	give_buffer(w, 64);
	assert_int_equal(write(w->client, "ls\n", 3), 3);
	fake_settle(&w->guest);
	assert_heard(w, "ls\n");
	assert_quiet(w);
	assert_int_equal(write(w->client, "id\n", 3), 3); /* and no buffer for it */
	assert_quiet(w);
	give_buffer(w, 64);
	assert_heard(w, "id\n");
}

static void input_waits_for_room(void **state)
{
	struct world *w = *state;

	attach(w); /* before the driver is there */
	assert_int_equal(write(w->client, "early bird\n", 11), 11);
	assert_quiet(w);
	boot(w);
	assert_quiet(w);
	give_buffer(w, 6);
	assert_heard(w, "early ");
	assert_quiet(w);
	give_buffer(w, 64);
	assert_heard(w, "bird\n");
	give_buffer(w, 64);
	assert_false(fake_used_idx(&w->in) != w->in.used);
	assert_quiet(w);
}

static void buffers_of_nothing(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf[] = { { w->room, 8, false }, { w->room, 0, true } };
	uint32_t id, len;

	boot(w);
	attach(w);
	fake_send(&w->in, buf, 1);
	fake_send(&w->in, buf, 2);
	fake_kick(&w->in);
	assert_int_equal(write(w->client, "ls\n", 3), 3);
	fake_settle(&w->guest);
	assert_true(fake_take(&w->in, &id, &len) && len == 0);
	assert_true(fake_take(&w->in, &id, &len) && len == 0);
	give_buffer(w, 64);
	assert_heard(w, "ls\n");
}

static void hang_up_with_input_left(void **state)
{
	struct world *w = *state;

	boot(w);
	attach(w);
	assert_int_equal(write(w->client, "last words\n", 11), 11);
	close(w->client);
	w->client = -1;
	fake_settle(&w->guest);
	assert_quiet(w); /* HUP cannot be unwatched: it must not wake us for ever */
	say(w, "to nobody\n");
	give_buffer(w, 5);
	assert_heard(w, "last ");
	give_buffer(w, 64);
	assert_heard(w, "words\n");
	give_buffer(w, 64);
	assert_quiet(w);
	attach(w);
	say(w, "to somebody\n");
	assert_client_got(w, "to somebody\n");
}

static void hang_up_seen_by_output(void **state)
{
	struct world *w = *state;
	const struct fake_buf buf = { w->data, 5, false };
	int before = dup(0);

	close(before);
	boot(w);
	attach(w);
	close(w->client);
	w->client = -1;
	fake_send(&w->out, &buf, 1);
	w->guest.dev->ops->kick(w->guest.dev, TRANSMIT); /* EPIPE, and no signal */
	fake_settle(&w->guest);
	give_buffer(w, 64);
	fake_settle(&w->guest);
	assert_int_equal(dup(0), before); /* its descriptor is closed */
	close(before);
	assert_quiet(w);
}

static void half_closed(void **state)
{
	struct world *w = *state;

	boot(w);
	attach(w);
	give_buffer(w, 64);
	assert_int_equal(write(w->client, "cmd\n", 4), 4);
	assert_int_equal(shutdown(w->client, SHUT_WR), 0);
	fake_settle(&w->guest);
	assert_heard(w, "cmd\n");
	give_buffer(w, 64);
	assert_quiet(w);
	say(w, "answer\n");
	assert_client_got(w, "answer\n");
	close(w->client);
	w->client = -1;
	fake_settle(&w->guest);
	assert_quiet(w);
}

static void replaced(void **state)
{
	struct world *w = *state;
	char byte;
	int first;

	boot(w);
	attach(w);
	first = dup(w->client);
	attach(w);
	say(w, "new\n");
	assert_client_got(w, "new\n");
	assert_int_equal(read(first, &byte, 1), 0); /* end of file, and none of it */
	close(first);
}

static void hostile_receive_queue(void **state)
{
	struct world *w = *state;
	const struct fake_buf bad = { FAKE_SHARED_GPA, 64, true };

	boot(w);
	attach(w);
	fake_send(&w->in, &bad, 1);
	fake_kick(&w->in);
	assert_int_equal(write(w->client, "ls\n", 3), 3);
	fake_settle(&w->guest);
	assert_false(w->guest.dev->running);
	assert_quiet(w);
	boot(w);
	give_buffer(w, 64);
	assert_heard(w, "ls\n"); /* the client did not lose a byte by it */
}

/* ---- making */

static int create(int fd, uint64_t max)
{
	const struct cs_virtio_console_spec spec = { .log_fd = fd, .log_max = max };
	struct cs_virtio *console = NULL;
	struct cs_err err = { 0 };
	int r = cs_virtio_console_create(&spec, &console, &err);

	assert_int_equal(r == 0, err.text[0] == '\0');
	assert_int_equal(r == 0, console != NULL);
	if (console)
		assert_int_equal(cs_virtio_console_attach(console, 0), -ENODEV);
	cs_virtio_free(console);
	return r;
}

static void logs_refused(void **state)
{
	struct world *w = *state;
	char path[64];
	int pipes[2], fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", w->log_fd);
	assert_int_equal(create(-1, 0), 0);
	assert_int_equal(create(w->log_fd, LOG_MAX), 0);
	assert_int_equal(create(w->log_fd, 100), -EINVAL);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(create(fd, LOG_MAX), -EINVAL);
	close(fd);
	fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
	assert_int_equal(create(fd, LOG_MAX), -EINVAL);
	close(fd);
	assert_int_equal(create(fd, LOG_MAX), -EBADF);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(create(pipes[0], LOG_MAX), -EINVAL);
	close(pipes[0]);
	close(pipes[1]);
}

static void log_of_before(void **state)
{
	struct world *w = *state;
	char tail[8];

	assert_int_equal(ftruncate(w->log_fd, 10 * LOG_MAX), 0);
	assert_int_equal(pwrite(w->log_fd, "\nthe end", 8, 10 * LOG_MAX - 8), 8);
	assert_int_equal(create(w->log_fd, LOG_MAX), 0);
	assert_int_equal(lseek(w->log_fd, 0, SEEK_END), LOG_MAX / 2);
	assert_int_equal(pread(w->log_fd, tail, 8, LOG_MAX / 2 - 8), 8);
	assert_memory_equal(tail, "\nthe end", 8);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(to_log_and_client),
		T(in_pieces),
		T(log_keeps_the_newest),
		T(log_without_lines),
		T(log_cannot_grow),
		T(huge_request),
		T(reset_in_a_request),
		T(client_that_does_not_read),
		T(input),
		T(input_waits_for_room),
		T(buffers_of_nothing),
		T(hang_up_with_input_left),
		T(hang_up_seen_by_output),
		T(half_closed),
		T(replaced),
		T(hostile_receive_queue),
		T(logs_refused),
		T(log_of_before),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
