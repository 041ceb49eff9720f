/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/settle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include <cmocka.h>

#define BATCHES 200000ul

/* epoll_wait() knows no object of the test's. */
static struct cs_loop *settling;
static unsigned long batches;

int __real_epoll_wait(int fd, struct epoll_event *events, int n, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int n, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int n, int timeout)
{
	int r;

	if (!settling)
		return __real_epoll_wait(fd, events, n, timeout);
	r = __real_epoll_wait(fd, events, n, 0);
	if (r == 0)
		cs_loop_stop(settling);
	if (++batches > BATCHES)
		fail_msg("the loop is never quiet");
	return r;
}

void settle(struct cs_loop *loop)
{
	struct cs_err err = { 0 };

	batches = 0;
	settling = loop;
	assert_int_equal(cs_loop_run(loop, &err), 0);
	settling = NULL;
}
