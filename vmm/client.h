/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands talk to a guest's agent through its vsock.sock (wire.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "vmm/guest/agent/wire.h"

/* Connect to (port) of the guest whose folder is (dirfd): "CONNECT <port>", "OK". *ret_fd: a
 * blocking stream socket, the caller's. -ECONNREFUSED: not running, or the agent does not serve
 * yet; -ETIMEDOUT. */
int cs_client_connect(int dirfd, uint32_t port, unsigned timeout_ms, int *ret_fd,
		      struct cs_err *err);

/* One message of wire.h: head and (bytes) of payload. */
int cs_wire_send(int fd, enum cs_wire_type type, const void *payload, size_t bytes);

/* The next message into (buf), which has room for CS_WIRE_MAX. -ENODATA: the peer closed; -EPROTO:
 * not ours. */
int cs_wire_receive(int fd, struct cs_wire_head *ret, void *buf);

/* Ping the agent: round trip in microseconds. */
int cs_client_ping(int dirfd, unsigned timeout_ms, uint64_t *ret_us, struct cs_err *err);

struct cs_exec_spec {
	const char *user, *folder; /* NULL: root, / */
	char *const *argv;         /* NULL-ended */
	char *const *env;          /* NULL-ended; NULL: the agent's defaults only */
	bool tty;                  /* puts (in_fd) into raw mode while it runs, follows its size */
	int in_fd, out_fd, err_fd; /* in_fd -1: no input */
};

/* Run it in the guest, carry bytes and signals (SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH of ours)
 * until it ends. *ret_status 0-255. -ENOENT, -EACCES, ...: could not be run, with the guest's
 * words. */
int cs_client_exec(int dirfd, const struct cs_exec_spec *spec, int *ret_status, struct cs_err *err);
