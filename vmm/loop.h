/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The event loop of a monitor: one thread (the process's first) serves every device, socket and
 * timer. Register accesses come from vCPU threads meanwhile; so each callback runs with the
 * machine's lock held, and so does each register access: device code needs no locks of its own.
 *
 * Everything below but cs_loop_run() and cs_loop_stop() is called with the lock held, or before the
 * second thread exists. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

struct cs_loop;

/* (events): EPOLLIN, EPOLLOUT, ... as reported; EPOLLHUP and EPOLLERR come unasked. */
typedef void (*cs_loop_fn)(void *arg, uint32_t events);

struct cs_watch; /* one watched descriptor */

/* (lock) is taken around callbacks; lent. */
int cs_loop_create(pthread_mutex_t *lock, struct cs_loop **ret, struct cs_err *err);

/* Watch (fd), which stays the caller's: -errno, 0 and *ret. A device that gets its loop keeps its
 * watches and removes them before it closes the descriptor; removing is allowed inside any
 * callback, the watch's own included, and from a vCPU thread: no callback comes after it. */
int cs_loop_add(struct cs_loop *loop, int fd, uint32_t events, cs_loop_fn fn, void *arg,
		struct cs_watch **ret);
int cs_watch_set(struct cs_watch *watch,
		 uint32_t events); /* 0 events: asleep (but HUP and ERR come) */
struct cs_watch *cs_watch_free(struct cs_watch *watch); /* NULL is fine; returns NULL */

/* A one-shot timer, (ms) from now; setting again moves it, 0 disarms. Timers of a quiet machine are
 * disarmed: an idle guest must not wake its monitor. (fn) gets EPOLLIN. A loop has one timerfd for
 * all of them, made with the first. */
struct cs_timer;
int cs_timer_create(struct cs_loop *loop, cs_loop_fn fn, void *arg, struct cs_timer **ret);
void cs_timer_set(struct cs_timer *timer, uint64_t ms);
struct cs_timer *cs_timer_free(struct cs_timer *timer); /* NULL is fine; returns NULL */

/* Serve until cs_loop_stop(), also one that came before. May be run again afterwards. */
int cs_loop_run(struct cs_loop *loop, struct cs_err *err);

/* From any thread, callback or signal handler, lock held or not. */
void cs_loop_stop(struct cs_loop *loop);

struct cs_loop *cs_loop_free(struct cs_loop *loop);
CS_DEFINE_AUTO(cs_loop);
