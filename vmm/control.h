/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A running machine's control socket (guests/<name>/control.sock): a line in, a line out.
 *
 *   status            ok state=booting|ready|paused|stopping vcpus=N ...
 *   stop [GRACE_MS]   ok            asks the agent to power off; the machine then ends
 *   reboot            ok
 *   pause, resume     ok
 *   quit              ok            end at once
 *   console           ok            from then on the connection is the guest's console, raw, both
 * ways anything else     error WORDS
 */
#pragma once

#include <stdint.h>

#include "store/base/err.h"

/* The client side, for commands. Send (line) to the socket at (dirfd)/control.sock, wait up to
 * (timeout_ms) for the answer: what stands behind "ok " in *ret (caller frees; NULL: not wanted).
 * -ECONNREFUSED, -ENOENT: not running; -EREMOTEIO: it said error. */
int cs_control_call(int dirfd, const char *line, unsigned timeout_ms, char **ret,
		    struct cs_err *err);

/* As cs_control_call("console"), and the connection stays open: *ret_fd is the caller's. */
int cs_control_console(int dirfd, int *ret_fd, struct cs_err *err);
