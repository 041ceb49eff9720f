/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* After set-up a monitor gives up what it no longer needs. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "store/base/err.h"

struct cs_sandbox_spec {
	uid_t uid;       /* become this user and group; 0: stay who we are (not started by root) */
	bool no_seccomp; /* for debugging only */
	bool restores;   /* its machine is still to go on from its state, and it to get a name */
};

/* Drop supplementary groups, gid, uid and all capabilities, set no_new_privs, then install the
 * seccomp filter on all threads: what is not on the list, each with its reason, kills the process
 * (SECCOMP_RET_KILL_PROCESS). Any failure is a failure. */
int cs_sandbox_enter(const struct cs_sandbox_spec *spec, struct cs_err *err);

/* Each running monitor its own user, so that one guest's monitor can neither signal nor trace
 * another's: the monitor's pid on top of this base, in a range no system hands out (systemd's
 * UIDS-GIDS.md: 1879048192 and up is unused). */
#define CS_SANDBOX_UID_BASE 1879048192u
