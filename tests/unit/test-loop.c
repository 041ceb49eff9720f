/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The event loop: watches freed at bad moments, timers, stopping, and that a quiet loop sleeps. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/loop.h"

#define FDS 8

/* How often the loop went to sleep (wrapped at link time). */
static unsigned waits;

int __real_epoll_wait(int fd, struct epoll_event *events, int max, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int max, int timeout);

int __wrap_epoll_wait(int fd, struct epoll_event *events, int max, int timeout)
{
	waits++;
	return __real_epoll_wait(fd, events, max, timeout);
}

struct world {
	pthread_mutex_t lock;
	struct cs_loop *loop;
	int fd[FDS];
	struct cs_watch *watch[FDS];
	struct cs_timer *timer[FDS];
	unsigned calls[FDS];
	unsigned total;
	uint32_t events;
};

static void ring(int fd)
{
	const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void unring(int fd)
{
	uint64_t count;

	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct cs_err err;

	assert_non_null(w);
	pthread_mutex_init(&w->lock, NULL);
	assert_int_equal(cs_loop_create(&w->lock, &w->loop, &err), 0);
	for (unsigned i = 0; i < FDS; i++) {
		w->fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_true(w->fd[i] >= 0);
	}
	alarm(60);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	alarm(0);
	for (unsigned i = 0; i < FDS; i++) {
		cs_watch_free(w->watch[i]);
		cs_timer_free(w->timer[i]);
		close(w->fd[i]);
	}
	cs_loop_free(w->loop);
	free(w);
	return 0;
}

/* The lock must be held in a callback, and by the loop's thread. */
static void check_locked(struct world *w)
{
	assert_int_equal(pthread_mutex_trylock(&w->lock), EBUSY);
}

static void run(struct world *w)
{
	struct cs_err err = { 0 };

	assert_int_equal(cs_loop_run(w->loop, &err), 0);
}

static void watch(struct world *w, unsigned i, cs_loop_fn fn)
{
	assert_int_equal(cs_loop_add(w->loop, w->fd[i], EPOLLIN, fn, w, &w->watch[i]), 0);
}

/* ---- watches */

static void on_first_stops(void *arg, uint32_t events)
{
	struct world *w = arg;

	check_locked(w);
	w->events = events;
	unring(w->fd[0]);
	w->calls[0]++;
	cs_loop_stop(w->loop);
}

static void one_event(void **state)
{
	struct world *w = *state;

	watch(w, 0, on_first_stops);
	ring(w->fd[0]);
	run(w);
	assert_int_equal(w->calls[0], 1);
	assert_int_equal(w->events, EPOLLIN);
	ring(w->fd[0]); /* and again, behind a stop */
	run(w);
	assert_int_equal(w->calls[0], 2);
}

static void on_last_stops(void *arg, uint32_t events)
{
	struct world *w = arg;

	cs_loop_stop(w->loop);
}

/* All watches but the last are ready in one batch; whoever comes first frees all the others. */
static void on_any_frees_all(void *arg, uint32_t events)
{
	struct world *w = arg;

	w->total++;
	for (unsigned i = 0; i < FDS - 1; i++) {
		w->watch[i] = cs_watch_free(w->watch[i]);
		close(w->fd[i]);
		w->fd[i] = -1;
	}
	ring(w->fd[FDS - 1]);
}

static void freed_in_a_batch(void **state)
{
	struct world *w = *state;

	watch(w, FDS - 1, on_last_stops);
	for (unsigned i = 0; i < FDS - 1; i++) {
		watch(w, i, on_any_frees_all);
		ring(w->fd[i]);
	}
	run(w);
	assert_int_equal(w->total, 1);
}

/* Whoever is called gives the second descriptor a new watch, so that the old one's event, which is
 * out already, finds a dead watch, and perhaps a new one at its place in memory. */
static void on_renew(void *arg, uint32_t events)
{
	struct world *w = arg;

	cs_watch_free(w->watch[1]);
	assert_int_equal(cs_loop_add(w->loop, w->fd[1], EPOLLIN, on_renew, w, &w->watch[1]), 0);
	if (++w->total == 20)
		cs_loop_stop(w->loop);
}

static void renewed_in_a_batch(void **state)
{
	struct world *w = *state;

	watch(w, 0, on_renew);
	watch(w, 1, on_renew);
	ring(w->fd[0]);
	ring(w->fd[1]);
	run(w);
	assert_int_equal(w->total, 20);
}

static void on_first_puts_second_asleep(void *arg, uint32_t events)
{
	struct world *w = arg;

	w->calls[0]++;
	unring(w->fd[0]);
	assert_int_equal(cs_watch_set(w->watch[1], 0), 0);
	ring(w->fd[2]);
}

static void on_second(void *arg, uint32_t events)
{
	struct world *w = arg;

	w->calls[1]++;
	cs_loop_stop(w->loop);
}

static void on_third_stops(void *arg, uint32_t events)
{
	struct world *w = arg;

	unring(w->fd[2]);
	w->calls[2]++;
	cs_loop_stop(w->loop);
}

static void asleep_in_a_batch(void **state)
{
	struct world *w = *state;

	watch(w, 0, on_first_puts_second_asleep);
	watch(w, 1, on_second);
	watch(w, 2, on_third_stops);
	ring(w->fd[0]); /* epoll reports in the order in which they became ready */
	ring(w->fd[1]);
	run(w);
	assert_int_equal(w->calls[0], 1);
	assert_int_equal(w->calls[1], 0);
	assert_int_equal(w->calls[2], 1);
	assert_int_equal(cs_watch_set(w->watch[1], EPOLLIN), 0); /* still ready */
	run(w);
	assert_int_equal(w->calls[1], 1);
}

static void refused_descriptors(void **state)
{
	struct world *w = *state;
	struct cs_watch *none = NULL;
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	assert_int_equal(cs_loop_add(w->loop, -1, EPOLLIN, on_second, w, &none), -EBADF);
	assert_int_equal(cs_loop_add(w->loop, file, EPOLLIN, on_second, w, &none), -EPERM);
	watch(w, 0, on_second);
	assert_int_equal(cs_loop_add(w->loop, w->fd[0], EPOLLIN, on_second, w, &none), -EEXIST);
	assert_null(none);
	assert_null(cs_watch_free(NULL));
	close(file);
}

static void on_hangup(void *arg, uint32_t events)
{
	struct world *w = arg;

	w->events = events;
	w->watch[0] = cs_watch_free(w->watch[0]);
	cs_loop_stop(w->loop);
}

static void hangup_while_asleep(void **state)
{
	struct world *w = *state;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(cs_loop_add(w->loop, pair[0], 0, on_hangup, w, &w->watch[0]), 0);
	close(pair[1]);
	run(w);
	assert_true(w->events & EPOLLHUP);
	close(pair[0]);
}

/* ---- another thread frees what the loop has in its hands */

static void on_victim(void *arg, uint32_t events)
{
	struct world *w = arg;

	w->total++; /* level-triggered: called all the time */
}

/* As a vCPU thread would: with the lock held, at no particular moment. */
static void *free_and_add(void *arg)
{
	struct world *w = arg;

	for (unsigned round = 0; round < 2000; round++) {
		pthread_mutex_lock(&w->lock);
		w->watch[0] = cs_watch_free(w->watch[0]);
		pthread_mutex_unlock(&w->lock);
		pthread_mutex_lock(&w->lock);
		watch(w, 0, on_victim);
		pthread_mutex_unlock(&w->lock);
	}
	cs_loop_stop(w->loop);
	return NULL;
}

static void freed_by_another_thread(void **state)
{
	struct world *w = *state;
	pthread_t thread;

	watch(w, 0, on_victim);
	ring(w->fd[0]);
	assert_int_equal(pthread_create(&thread, NULL, free_and_add, w), 0);
	run(w);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_non_null(w->watch[0]);
}

/* ---- timers */

static void on_timer_stops(void *arg, uint32_t events)
{
	struct world *w = arg;

	check_locked(w);
	assert_int_equal(events, EPOLLIN);
	w->total++;
	cs_loop_stop(w->loop);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void timer_fires_once(void **state)
{
	struct world *w = *state;
	uint64_t before = now_ms();

	assert_int_equal(cs_timer_create(w->loop, on_timer_stops, w, &w->timer[0]), 0);
	cs_timer_set(w->timer[0], 20);
	run(w);
	assert_true(now_ms() - before >= 19); /* never early; how late is the host's affair */
	assert_int_equal(w->total, 1);
}

static void on_timer_marks(void *arg, uint32_t events)
{
	*(unsigned *)arg = 1 + *(unsigned *)arg;
}

static void timer_moved_and_disarmed(void **state)
{
	struct world *w = *state;

	for (unsigned i = 1; i < 4; i++)
		assert_int_equal(
			cs_timer_create(w->loop, on_timer_marks, &w->calls[i], &w->timer[i]), 0);
	assert_int_equal(cs_timer_create(w->loop, on_timer_stops, w, &w->timer[0]), 0);
	cs_timer_set(w->timer[1], 1);
	cs_timer_set(w->timer[1], 0); /* disarmed */
	cs_timer_set(w->timer[2], 1);
	cs_timer_set(w->timer[2], UINT64_MAX); /* moved far away: no wrap into the past */
	cs_timer_set(w->timer[3], UINT64_MAX);
	cs_timer_set(w->timer[3], 1); /* moved near */
	cs_timer_set(w->timer[0], 30);
	run(w);
	assert_int_equal(w->calls[1], 0);
	assert_int_equal(w->calls[2], 0);
	assert_int_equal(w->calls[3], 1);
}

/* One timer of those that are due frees the others, and itself. */
static void on_timer_frees_all(void *arg, uint32_t events)
{
	struct world *w = arg;

	w->total++;
	for (unsigned i = 0; i < FDS; i++)
		w->timer[i] = cs_timer_free(w->timer[i]);
	cs_loop_stop(w->loop);
}

static void timers_freed_in_a_callback(void **state)
{
	struct world *w = *state;
	const struct timespec nap = { .tv_nsec = 5000000 };

	for (unsigned i = 0; i < FDS; i++) {
		assert_int_equal(cs_timer_create(w->loop, on_timer_frees_all, w, &w->timer[i]), 0);
		cs_timer_set(w->timer[i], 1);
	}
	nanosleep(&nap, NULL); /* so that all are due at once */
	run(w);
	assert_int_equal(w->total, 1);
}

static void on_timer_again(void *arg, uint32_t events)
{
	struct world *w = arg;

	if (++w->total == 5)
		cs_loop_stop(w->loop);
	else
		cs_timer_set(w->timer[0], 1);
}

static void timer_sets_itself(void **state)
{
	struct world *w = *state;

	assert_int_equal(cs_timer_create(w->loop, on_timer_again, w, &w->timer[0]), 0);
	cs_timer_set(w->timer[0], 1);
	run(w);
	assert_int_equal(w->total, 5);
}

/* ---- stopping, and sleeping */

static void stop_before_run(void **state)
{
	struct world *w = *state;

	watch(w, 0, on_first_stops);
	ring(w->fd[0]);
	cs_loop_stop(w->loop);
	cs_loop_stop(w->loop);
	run(w); /* at once, and nothing was served */
	assert_int_equal(w->calls[0], 0);
	run(w);
	assert_int_equal(w->calls[0], 1);
}

static struct cs_loop *signalled; /* a test may have state; a handler has no argument */

static void on_signal(int signal)
{
	cs_loop_stop(signalled);
}

static void *sleep_and_kill(void *arg)
{
	const struct timespec nap = { .tv_nsec = 20000000 };

	nanosleep(&nap, NULL);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static void stopped_by_a_signal(void **state)
{
	struct world *w = *state;
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t self = pthread_self(), thread;

	signalled = w->loop;
	sigaction(SIGUSR1, &action, NULL);
	assert_int_equal(pthread_create(&thread, NULL, sleep_and_kill, &self), 0);
	run(w);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static void *sleep_and_stop(void *arg)
{
	const struct timespec nap = { .tv_nsec = 50000000 };

	nanosleep(&nap, NULL);
	cs_loop_stop(arg);
	return NULL;
}

/* After a stop that left its eventfd set, and with timers that were used and disarmed, a loop with
 * nothing to do sleeps until it is stopped. */
static void quiet_loop_sleeps(void **state)
{
	struct world *w = *state;
	pthread_t thread;

	watch(w, 0, on_first_stops);
	assert_int_equal(cs_timer_create(w->loop, on_timer_stops, w, &w->timer[0]), 0);
	cs_timer_set(w->timer[0], 1);
	run(w);
	cs_timer_set(w->timer[0], 1);
	cs_timer_set(w->timer[0], 0);
	assert_int_equal(pthread_create(&thread, NULL, sleep_and_stop, w->loop), 0);
	waits = 0;
	run(w);
	assert_int_equal(pthread_join(thread, NULL), 0);
	/* Woken by the eventfd that the first stop left, and by the second stop. */
	assert_true(waits <= 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_event, setup, teardown),
		cmocka_unit_test_setup_teardown(freed_in_a_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(renewed_in_a_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(asleep_in_a_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(refused_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(hangup_while_asleep, setup, teardown),
		cmocka_unit_test_setup_teardown(freed_by_another_thread, setup, teardown),
		cmocka_unit_test_setup_teardown(timer_fires_once, setup, teardown),
		cmocka_unit_test_setup_teardown(timer_moved_and_disarmed, setup, teardown),
		cmocka_unit_test_setup_teardown(timers_freed_in_a_callback, setup, teardown),
		cmocka_unit_test_setup_teardown(timer_sets_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(stop_before_run, setup, teardown),
		cmocka_unit_test_setup_teardown(stopped_by_a_signal, setup, teardown),
		cmocka_unit_test_setup_teardown(quiet_loop_sleeps, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
