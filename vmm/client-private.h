/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands' side of a machine's two sockets shares. Times are ms of CLOCK_MONOTONIC. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

uint64_t cs_client_now_ms(void);

/* How long something may take. */
struct cs_patience {
	uint64_t deadline_ms; /* -ETIMEDOUT from then on */
	int interrupt_fd;     /* -EINTR when it is readable; -1: nothing interrupts */
};

/* Wait for (events) of poll(2) at (fd), or with -1 for nothing. 0: some are there, or HUP;
 * -ETIMEDOUT, -EINTR. */
int cs_client_wait(int fd, short events, const struct cs_patience *patience);

/* Connect to the unix stream socket (name) in the folder (dirfd): *ret_fd is non-blocking and the
 * caller's. Goes through /proc/self/fd, so the folder's path may be longer than a socket's name.
 * -ENOENT, -ECONNREFUSED: not running; -EACCES; -ETIMEDOUT: its backlog stays full; -EINTR. */
int cs_client_dial(int dirfd, const char *name, const struct cs_patience *patience, int *ret_fd,
		   struct cs_err *err);

/* Send all of (bytes). -ETIMEDOUT, -EINTR, -EPIPE, ... */
int cs_client_send(int fd, const void *data, size_t bytes, const struct cs_patience *patience);

/* A line, and no byte behind it, into (line), without its newline. -ENODATA: the end came first;
 * -EMSGSIZE: it is longer than (size); -ETIMEDOUT, -EINTR. */
int cs_client_read_line(int fd, char *line, size_t size, const struct cs_patience *patience);

/* cs_client_connect() that can be interrupted. */
int cs_client_call(int dirfd, uint32_t port, const struct cs_patience *patience, int *ret_fd,
		   struct cs_err *err);
