/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command of the program: a const object at the end of its cmd-*.c; main.c lists them. */
#pragma once

#include <argp.h>
#include <stdbool.h>

#include "store/base/err.h"

struct cs_globals {        /* options before the command */
	const char *store; /* root folder */
	bool json;
};

struct cs_command {
	const char *name;        /* "spawn"; of a group's member: "add" */
	const char *summary;     /* one line for help */
	const struct argp *argp; /* options and arguments; NULL for a group. Its parser gets
				    state->input, what (run) gets as options */
	const struct cs_command *const
		*members;     /* NULL-ended, of a group ("template"); NULL otherwise */
	size_t options_bytes; /* size of the options struct that main allocates, zeroed, and hands
				 to parser and run */
	/* Do it: the exit status (0; 1 is for failure; exec and run hand on the guest's); or -errno
	 * with (err) filled, which main prints as "clearstore: ..." and turns into 1. */
	int (*run)(const struct cs_globals *globals, void *options, struct cs_err *err);
};
