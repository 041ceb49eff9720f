/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command of the program: a const object at the end of its cmd-*.c; main.c lists them. Help, man
 * page checks and shell completion are all printed from these objects and their argp tables. */
#pragma once

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#include "store/base/err.h"

struct cs_globals {        /* options before the command, also taken behind it */
	const char *store; /* root folder */
	bool json;
};

struct cs_command {
	const char *name;        /* "spawn"; of a group's member: "add" */
	const char *summary;     /* one line for help */
	const struct argp *argp; /* options and arguments; NULL for a group. Its parser gets
				    state->input, what (run) gets as options. Arguments come in
				    order (ARGP_IN_ORDER), with options between them. What an
				    args_doc or an option's arg calls GUEST, TEMPLATE, FILE, DIR
				    or PATH is completed as such by the shell */
	const struct cs_command *const
		*members;     /* NULL-ended, of a group ("template"); NULL otherwise */
	size_t options_bytes; /* size of the options struct that main allocates, zeroed, and hands
				 to parser and run */
	bool reports;         /* prints a report: --json is also taken behind the command */
	/* Do it: the exit status (0; 1 is for failure; exec and run hand on the guest's); or -errno
	 * with (err) filled, which main prints as "clearstore: ..." and turns into 1. */
	int (*run)(const struct cs_globals *globals, void *options, struct cs_err *err);
};

/* The table in main.c: what `clearstore` knows, in the order in which help shows it. */
struct cs_command_group {
	const char *title;                        /* "Guests"; NULL: end of the table */
	const struct cs_command *const *commands; /* NULL-ended */
};
extern const struct cs_command_group cs_command_table[];

extern const struct cs_command cs_cmd_init, cs_cmd_template, cs_cmd_store, cs_cmd_df, cs_cmd_pmem,
	cs_cmd_scrub, cs_cmd_doctor;
extern const struct cs_command cs_cmd_spawn, cs_cmd_run, cs_cmd_spare, cs_cmd_start, cs_cmd_restart;
extern const struct cs_command cs_cmd_list, cs_cmd_show, cs_cmd_ping, cs_cmd_stop, cs_cmd_kill;
extern const struct cs_command cs_cmd_remove, cs_cmd_pause, cs_cmd_resume, cs_cmd_save_guest;
extern const struct cs_command cs_cmd_balloon, cs_cmd_fold, cs_cmd_park, cs_cmd_activate;
extern const struct cs_command cs_cmd_exec, cs_cmd_console, cs_cmd_logs;
extern const struct cs_command cs_cmd_ksm, cs_cmd_meter, cs_cmd_top, cs_cmd_plan;
extern const struct cs_command cs_cmd_help, cs_cmd_completion;
