/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands' side of a machine's two sockets shares. Times are ms of CLOCK_MONOTONIC. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

uint64_t cs_client_now_ms(void);

/* Wait for (events) of poll(2) at (fd). 0: some are there, or HUP; -ETIMEDOUT. */
int cs_client_wait(int fd, short events, uint64_t deadline_ms);

/* Connect to the unix stream socket (name) in the folder (dirfd): *ret_fd is non-blocking and the
 * caller's. Goes through /proc/self/fd, so the folder's path may be longer than a socket's name.
 * -ENOENT, -ECONNREFUSED: not running; -EACCES; -ETIMEDOUT: its backlog stays full. */
int cs_client_dial(int dirfd, const char *name, uint64_t deadline_ms, int *ret_fd,
		   struct cs_err *err);

/* Send all of (bytes). -ETIMEDOUT, -EPIPE, ... */
int cs_client_send(int fd, const void *data, size_t bytes, uint64_t deadline_ms);

/* A line, and no byte behind it, into (line), without its newline. -ENODATA: the end came first;
 * -EMSGSIZE: it is longer than (size); -ETIMEDOUT. */
int cs_client_read_line(int fd, char *line, size_t size, uint64_t deadline_ms);
