/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"

int cs_watch_set(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = w };
	/* Not "modify to nothing": epoll reports a hang-up to whoever is registered, and a loop
	 * that cannot act on it would spin. */
	int op = !w->armed ? EPOLL_CTL_ADD : !events ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;

	if (w->fd < 0 || events == w->armed)
		return 0;
	if (epoll_ctl(a->epoll, op, w->fd, &event) < 0)
		return -errno;

	w->armed = events;
	return 0;
}

void cs_watch_close(struct cs_agent *a, struct cs_watch *w)
{
	if (w->fd < 0)
		return;
	/* Closing alone does not unregister while the open file has another user: a twin of a
	 * terminal's master, or a child that has not yet got as far as closing its copies. */
	cs_watch_set(a, w, 0);

	close(w->fd);
	w->fd = -1;
	w->armed = 0;
}

uint64_t cs_agent_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void cs_deadline_set(struct cs_agent *a, struct cs_deadline *d, uint64_t at_ms)
{
	a->deadlines += (at_ms != 0);
	a->deadlines -= (d->at_ms != 0);
	d->at_ms = at_ms;
}
