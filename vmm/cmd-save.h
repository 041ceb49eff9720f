/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What save and template warm share. Only commands include it. */
#pragma once

#include <stdint.h>

#include "store/draft.h"
#include "store/store.h"
#include "vmm/cmd-common.h"

/* What a save cost. */
struct cs_save_result {
	uint64_t pause_us; /* the guest stood still so long */
	uint64_t pages;    /* of 4 KiB that were written */
	uint64_t bytes;    /* of them */
};

/* Save the machine of a guest that runs into (draft), which has what its template has: memory,
 * state, and its disk when it has one; the manifest says what kind of machine it is. (words): more
 * for the monitor, "drop sync" (vmm/control.h). The guest goes on. */
int cs_cmd_save(const struct cs_cmd_guest *guest, struct cs_draft *draft, const char *words,
		struct cs_save_result *ret, struct cs_err *err);

extern const struct cs_command cs_cmd_template_warm;
