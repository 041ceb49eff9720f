/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What save and template warm share. Only commands include it. */
#pragma once

#include <stdint.h>

#include "store/draft.h"
#include "store/manifest.h"
#include "store/store.h"
#include "store/version.h"
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

/* Make of (template), NAME@VERSION, a warm version as (saved) was made: booted with the same
 * memory, vCPUs and commands. (version) is its number; it is active if the one that it is of is. */
int cs_cmd_warm_like(const struct cs_globals *globals, const char *template,
		     const struct cs_manifest_saved *saved, char version[CS_VERSION_TEXT],
		     struct cs_err *err);

extern const struct cs_command cs_cmd_template_warm;
