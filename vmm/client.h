/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands talk to a guest's agent through its vsock.sock (wire.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "vmm/guest/agent/wire.h"

/* Connect to (port) of the guest whose folder is (dirfd): "CONNECT <port>", "OK". *ret_fd: a
 * blocking stream socket, the caller's. Tries again for (timeout_ms) while the guest does not serve
 * the port, which is so until its agent is up. -ENOENT, -ECONNREFUSED: not running, known at once;
 * -EACCES; -EAGAIN: running, but the port is not served; -ETIMEDOUT: no answer at all. */
int cs_client_connect(int dirfd, uint32_t port, unsigned timeout_ms, int *ret_fd,
		      struct cs_err *err);

/* One message of wire.h: head and (bytes) of payload, over a blocking socket. -EMSGSIZE: over
 * CS_WIRE_MAX; -EPIPE. */
int cs_wire_send(int fd, enum cs_wire_type type, const void *payload, size_t bytes);

/* The next message into (buf), which has room for CS_WIRE_MAX. -ENODATA: the peer closed; -EPROTO:
 * not ours. */
int cs_wire_receive(int fd, struct cs_wire_head *ret, void *buf);

/* Ping the agent: round trip in microseconds, by way of its monitor, or by a connection of its own
 * where that does not know how. Errors as cs_client_connect(). */
int cs_client_ping(int dirfd, unsigned timeout_ms, uint64_t *ret_us, struct cs_err *err);

#define CS_EXEC_WAIT_MS 30000u

struct cs_exec_spec {
	const char *user, *folder; /* NULL: root, / */
	char *const *argv;         /* NULL-ended */
	char *const *env;          /* NULL-ended; NULL: the agent's defaults only */
	bool tty;                  /* puts (in_fd) into raw mode while it runs, follows its size */
	int in_fd, out_fd, err_fd; /* in_fd -1: no input */
	unsigned timeout_ms;       /* for the agent to be there; 0: CS_EXEC_WAIT_MS */
};

/* Run it in the guest, carry bytes and signals (SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH of ours)
 * until it ends. *ret_status 0-255. -ENOTCONN: its agent could not be reached within (timeout_ms),
 * the words are cs_client_connect()'s; -EINTR: a signal came meanwhile, and is pending again, or
 * taken by the default action; -ECONNRESET: the guest went away in the middle; -ENOENT, -EACCES,
 * ...: it could not be run there, with the guest's words.
 *
 * With (tty) and a terminal at (in_fd), that terminal is in raw mode meanwhile; its mode is
 * restored on every way out, and while we are stopped. A reader of our output that goes away is a
 * SIGPIPE to the command, as in a pipe between two local ones; status 141 when the command does not
 * end by it. The calling thread must be the only one that takes those signals. */
int cs_client_exec(int dirfd, const struct cs_exec_spec *spec, int *ret_status, struct cs_err *err);
