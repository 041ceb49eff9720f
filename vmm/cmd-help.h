/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finding a command in the table and saying what it does. For main.c and the commands that print
 * the table. */
#pragma once

#include <argp.h>
#include <stdio.h>

#include "vmm/command.h"

/* "template add": a group's name, a blank and its member's. */
#define CS_COMMAND_PATH 64

/* A command's argp with the global options under it. Lives as long as its user needs it: (argp)
 * points into (children). */
struct cs_command_argp {
	struct argp argp;
	struct argp_child children[3];
};

/* What the parser of struct cs_command_argp gets as state->input. */
struct cs_command_input {
	void *options; /* the command's */
	struct cs_globals *globals;
};

void cs_command_argp(const struct cs_command *command, struct cs_command_argp *ret);

/* The option tables: --store, and --json. */
extern const struct argp cs_globals_argp;

/* The command that words[0] names, or words[0] and words[1] in a group; *ret_words is how many
 * were used, and (path) its full name. NULL with words, and a likely other name, if there is none;
 * a group whose member is not given is found as the group itself. */
const struct cs_command *cs_command_find(char *const words[], size_t n, size_t *ret_words,
					 char path[CS_COMMAND_PATH], struct cs_err *err);

/* All of the help: the whole table, a group, a command. (path) as from cs_command_find(). */
void cs_help_table(FILE *out);
void cs_help_command(FILE *out, const struct cs_command *command, const char *path);

/* Visit every command that can be run, members of groups by their full name. */
typedef void (*cs_command_fn)(const struct cs_command *command, const char *path, void *arg);
void cs_command_each(cs_command_fn fn, void *arg);

/* Visit the named, visible options of (argp) and of its children, "help" and "usage" left out. */
typedef void (*cs_option_fn)(const struct argp_option *option, void *arg);
void cs_option_each(const struct argp *argp, cs_option_fn fn, void *arg);
