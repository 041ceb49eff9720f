/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the clones of a saved machine need first. Only commands include it. */
#pragma once

#include "store/base/err.h"
#include "store/store.h"
#include "store/version.h"
#include "vmm/command.h"

struct cs_learned {
	char template[CS_VERSION_TEXT], version[CS_VERSION_TEXT];
	uint64_t pages[2]; /* written to: when they wake; besides, with the first process */
};

/* Start two guests of (template), a name or NAME@VERSION, look which pages both write to and read
 * (store/hot.h), and keep that with it; the guests are gone then. It takes a second and what two
 * processes in such a guest take. What was kept before is forgotten, also on failure. -ENOENT: no
 * saved machine; -EINTR. */
int cs_cmd_learn(const struct cs_globals *globals, const char *template, struct cs_learned *ret,
		 struct cs_err *err);

extern const struct cs_command cs_cmd_template_learn;
