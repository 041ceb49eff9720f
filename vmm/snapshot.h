/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A running machine is saved and goes on. Its agent freezes the guest's processes; the vCPUs stand
 * still for the moment that it takes to read their registers, to find which pages are the machine's
 * own, to clone its disk and to fork; the child is a copy-on-write picture of everything, and
 * writes it out while the machine runs. One save at a time. All are called in the loop thread, lock
 * held. */
#pragma once

#include <stddef.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/control.h"

struct cs_machine;
struct cs_snapshot;

/* Begin: control.h, "save". The descriptors are the snapshot's on 0, and (client) gets its answer.
 * -EBUSY: a save is under way, or the machine is paused; -EINVAL: descriptors or words are not what
 * a save wants; -ENOTCONN, -EOPNOTSUPP: no agent that could freeze the guest. */
int cs_snapshot_begin(struct cs_machine *machine, struct cs_control_client *client, const int fds[],
		      size_t n, const char *words, struct cs_err *err);

/* The agent's answer (agent.h). */
void cs_snapshot_frozen(struct cs_machine *machine, int error);

/* Nobody waits for the save under way: give it up. */
void cs_snapshot_gone(struct cs_machine *machine);

/* A child that still writes notices, and ends. */
struct cs_snapshot *cs_snapshot_free(struct cs_snapshot *snapshot);
CS_DEFINE_AUTO(cs_snapshot);
