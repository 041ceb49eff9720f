/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests that still boot, wake or have not had their turn, and the option that says how long a
 * command waits for one. Only commands include it. */
#pragma once

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "vmm/cmd-common.h"

struct cs_up_options {
	const char *timeout; /* as it was typed; NULL: the default */
};

/* --timeout SECONDS; its input is a struct cs_up_options. */
extern const struct argp cs_up_argp;

/* By when all guests of a command have to be up, in ms of cs_cmd_now_ms(). -EINVAL: what was typed
 * is no such number. */
int cs_up_end(const struct cs_up_options *o, uint64_t *ret_end_ms, struct cs_err *err);

/* A monitor's status ("state=booting vcpus=1", vmm/control.h) of one whose agent does not serve
 * yet. */
bool cs_up_is_booting(const char *status);

/* When it still boots or wakes, wait until its agent serves or (end_ms): what asks something of the
 * agent right after a spawn is not refused. Whether it came to that, the asking tells. */
void cs_up_wait(const struct cs_cmd_guest *guest, uint64_t end_ms);
