/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BATCH 16

struct cs_watch {
	struct cs_loop *loop;
	int fd;
	uint32_t events;
	cs_loop_fn fn;
	void *arg;
	bool dead;
	struct cs_watch *next; /* of the dead */
};

struct cs_timer {
	struct cs_loop *loop;
	cs_loop_fn fn;
	void *arg;
	uint64_t deadline; /* ns of CLOCK_MONOTONIC; 0: disarmed */
	struct cs_timer *next, **link;
};

struct cs_loop {
	pthread_mutex_t *lock;
	int epoll_fd, stop_fd;
	atomic_bool stop;
	/* A watch may be removed while epoll_wait() has already handed out an event of it, to be
	 * dispatched as soon as the remover gives the lock back. So its memory stays until a batch
	 * is through. */
	struct cs_watch *dead;
	struct cs_timer *timers;
	int timer_fd;
	struct cs_watch *timer_watch;
	uint64_t armed; /* deadline the timerfd stands at; 0: disarmed */
};

/* ---- watches */

int cs_loop_add(struct cs_loop *loop, int fd, uint32_t events, cs_loop_fn fn, void *arg,
		struct cs_watch **ret)
{
	cs_auto(cs_mem_freep) struct cs_watch *watch = calloc(1, sizeof(*watch));
	struct epoll_event event = { .events = events, .data.ptr = watch };

	if (!watch)
		return -ENOMEM;
	*watch =
		(struct cs_watch){ .loop = loop, .fd = fd, .events = events, .fn = fn, .arg = arg };
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	*ret = cs_steal(watch);
	return 0;
}

int cs_watch_set(struct cs_watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	if (watch->events == events)
		return 0;
	if (epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) < 0)
		return -errno;
	watch->events = events;
	return 0;
}

struct cs_watch *cs_watch_free(struct cs_watch *watch)
{
	int saved = errno;

	if (!watch)
		return NULL;
	epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	errno = saved;
	watch->dead = true;
	watch->next = watch->loop->dead;
	watch->loop->dead = watch;
	return NULL;
}

/* No batch is under way: what is dead now was out of the epoll set before the next one. */
static void bury(struct cs_loop *loop)
{
	struct cs_watch *watch;

	while ((watch = loop->dead)) {
		loop->dead = watch->next;
		free(watch);
	}
}

/* ---- timers */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Let the timerfd stand at the earliest deadline, or nowhere. */
static void arm(struct cs_loop *loop)
{
	struct itimerspec spec = { 0 };
	uint64_t first = 0;

	for (const struct cs_timer *t = loop->timers; t; t = t->next) {
		if (t->deadline && (!first || t->deadline < first))
			first = t->deadline;
	}
	if (first == loop->armed)
		return;

	spec.it_value.tv_sec = (time_t)(first / 1000000000u);
	spec.it_value.tv_nsec = (long)(first % 1000000000u);
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
	loop->armed = first;
}

static struct cs_timer *due(const struct cs_loop *loop, uint64_t now)
{
	for (struct cs_timer *t = loop->timers; t; t = t->next) {
		if (t->deadline && t->deadline <= now)
			return t;
	}
	return NULL;
}

/* A callback may free or set any timer: look from the start after each. It ends because a timer set
 * meanwhile is due after (now). */
static void on_timer(void *arg, uint32_t events)
{
	struct cs_loop *loop = arg;
	uint64_t now = now_ns();
	struct cs_timer *timer;
	uint64_t expirations;

	if (read(loop->timer_fd, &expirations, sizeof(expirations)) < 0)
		return; /* moved since the event was reported */
	loop->armed = 0;
	while ((timer = due(loop, now))) {
		timer->deadline = 0;
		timer->fn(timer->arg, EPOLLIN);
	}
	arm(loop);
}

static int make_timerfd(struct cs_loop *loop)
{
	cs_auto(cs_fd_closep) int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int r;

	if (fd < 0)
		return -errno;
	r = cs_loop_add(loop, fd, EPOLLIN, on_timer, loop, &loop->timer_watch);
	if (r < 0)
		return r;
	loop->timer_fd = cs_steal_fd(&fd);
	return 0;
}

int cs_timer_create(struct cs_loop *loop, cs_loop_fn fn, void *arg, struct cs_timer **ret)
{
	struct cs_timer *timer;
	int r;

	if (loop->timer_fd < 0) {
		r = make_timerfd(loop);
		if (r < 0)
			return r;
	}
	timer = calloc(1, sizeof(*timer));
	if (!timer)
		return -ENOMEM;

	*timer = (struct cs_timer){
		.loop = loop, .fn = fn, .arg = arg, .next = loop->timers, .link = &loop->timers
	};
	if (timer->next)
		timer->next->link = &timer->next;
	loop->timers = timer;
	*ret = timer;
	return 0;
}

void cs_timer_set(struct cs_timer *timer, uint64_t ms)
{
	const uint64_t century = UINT64_C(100) * 366 * 86400 * 1000;

	if (ms > century)
		ms = century; /* the sum below must not wrap */
	timer->deadline = ms ? now_ns() + ms * 1000000u : 0;
	arm(timer->loop);
}

struct cs_timer *cs_timer_free(struct cs_timer *timer)
{
	if (!timer)
		return NULL;
	*timer->link = timer->next;
	if (timer->next)
		timer->next->link = timer->link;
	arm(timer->loop);
	free(timer);
	return NULL;
}

/* ---- the loop */

int cs_loop_create(pthread_mutex_t *lock, struct cs_loop **ret, struct cs_err *err)
{
	cs_auto(cs_loop_freep) struct cs_loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };

	if (!loop)
		return cs_fail_errno(err, ENOMEM, "cannot make an event loop");
	loop->lock = lock;
	loop->timer_fd = -1;
	loop->stop_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return cs_fail_errno(err, errno, "cannot make an event loop: epoll");
	loop->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->stop_fd < 0)
		return cs_fail_errno(err, errno, "cannot make an event loop: eventfd");
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->stop_fd, &event) < 0)
		return cs_fail_errno(err, errno, "cannot make an event loop: epoll");
	*ret = cs_steal(loop);
	return 0;
}

static void drain(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0)
		return; /* somebody was faster */
}

static void dispatch(struct cs_loop *loop, const struct epoll_event *event)
{
	struct cs_watch *watch = event->data.ptr;
	uint32_t events;

	if (!watch) {
		drain(loop->stop_fd); /* the flag says the rest */
		return;
	}
	pthread_mutex_lock(loop->lock);
	/* An earlier callback of this batch may have put the watch to sleep. */
	events = event->events & (watch->events | EPOLLHUP | EPOLLERR);
	if (!watch->dead && events)
		watch->fn(watch->arg, events);
	pthread_mutex_unlock(loop->lock);
}

int cs_loop_run(struct cs_loop *loop, struct cs_err *err)
{
	struct epoll_event events[BATCH];

	while (!atomic_load(&loop->stop)) {
		int n = epoll_wait(loop->epoll_fd, events, BATCH, -1);

		if (n < 0 && errno != EINTR)
			return cs_fail_errno(err, errno, "cannot wait for events");
		for (int i = 0; i < n && !atomic_load(&loop->stop); i++)
			dispatch(loop, &events[i]);
		pthread_mutex_lock(loop->lock);
		bury(loop);
		pthread_mutex_unlock(loop->lock);
	}
	atomic_store(&loop->stop, false);
	return 0;
}

void cs_loop_stop(struct cs_loop *loop)
{
	const uint64_t one = 1;
	int saved = errno;

	atomic_store(&loop->stop, true);
	if (write(loop->stop_fd, &one, sizeof(one)) < 0)
		errno = EAGAIN; /* full: it is readable, which is all it is for */
	errno = saved;
}

struct cs_loop *cs_loop_free(struct cs_loop *loop)
{
	if (!loop)
		return NULL;
	cs_watch_free(loop->timer_watch);
	cs_fd_closep(&loop->timer_fd);
	cs_fd_closep(&loop->stop_fd);
	cs_fd_closep(&loop->epoll_fd);
	bury(loop);
	free(loop);
	return NULL;
}
