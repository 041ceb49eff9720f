/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/cmd-help.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/own.h"
#include "store/store.h"
#include "vmm/command.h"

/* ---- the global options -------------------------------------------------------------------- */

enum {
	KEY_STORE = 0x2000,
	KEY_JSON,
};

static const struct argp_option json_options[] = {
	{ "store", KEY_STORE, "DIR", 0,
	  "The store (default: CLEARSTORE_STORE of the environment, else " CS_STORE_DEFAULT ")",
	  1 },
	{ "json", KEY_JSON, NULL, 0, "Report as JSON", 1 },
	{ NULL, 'h', NULL, OPTION_HIDDEN, NULL, 1 },
	{ 0 },
};

static const struct argp_option plain_options[] = {
	{ "store", KEY_STORE, "DIR", 0,
	  "The store (default: CLEARSTORE_STORE of the environment, else " CS_STORE_DEFAULT ")",
	  1 },
	{ NULL, 'h', NULL, OPTION_HIDDEN, NULL, 1 },
	{ 0 },
};

static error_t parse_globals(int key, char *arg, struct argp_state *state)
{
	struct cs_globals *globals = state->input;

	switch (key) {
	case KEY_STORE:
		if (!*arg)
			argp_error(state, "--store: no folder given");
		globals->store = arg;
		return 0;
	case KEY_JSON:
		globals->json = true;
		return 0;
	case 'h':
		argp_state_help(state, stdout, ARGP_HELP_STD_HELP);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cs_globals_argp = { .options = json_options, .parser = parse_globals };
static const struct argp plain_argp = { .options = plain_options, .parser = parse_globals };

static error_t parse_wrapped(int key, char *arg, struct argp_state *state)
{
	struct cs_command_input *input = state->input;

	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	if (input) { /* none when only the help is printed */
		state->child_inputs[0] = input->options;
		state->child_inputs[1] = input->globals;
	}
	return 0;
}

void cs_command_argp(const struct cs_command *command, struct cs_command_argp *ret)
{
	*ret = (struct cs_command_argp){
		.children = {
			{ command->argp, 0, NULL, 0 },
			{ command->reports ? &cs_globals_argp : &plain_argp, 0, "Global options:", 1 },
		},
	};
	ret->argp.parser = parse_wrapped;
	ret->argp.children = ret->children;
	if (!command->argp->doc)
		ret->argp.doc = command->summary;
}

/* ---- finding ------------------------------------------------------------------------------- */

/* Edits that make (b) of (a): Levenshtein's distance, for words as short as command names. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32];
	size_t columns = strlen(b);

	if (columns >= sizeof(row) / sizeof(row[0]))
		return (unsigned)-1;
	for (unsigned j = 0; j <= columns; j++)
		row[j] = j;
	for (unsigned i = 1; *a; a++, i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= columns; j++) {
			unsigned edit = diagonal + (*a != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < edit)
				edit = row[j] + 1;
			if (row[j - 1] + 1 < edit)
				edit = row[j - 1] + 1;
			row[j] = edit;
		}
	}
	return row[columns];
}

struct guess {
	const char *word; /* what was typed */
	const char *best;
	unsigned distance;
};

static void guess_among(struct guess *guess, const struct cs_command *const *commands)
{
	for (; *commands; commands++) {
		unsigned d = distance(guess->word, (*commands)->name);

		/* "rm" is two edits from anything of four letters: a guess keeps most of a word. */
		if (d < guess->distance && d * 2 <= strlen((*commands)->name)) {
			guess->distance = d;
			guess->best = (*commands)->name;
		}
	}
}

static const struct cs_command *find_among(const struct cs_command *const *commands,
					   const char *word)
{
	for (; *commands; commands++) {
		if (strcmp((*commands)->name, word) == 0)
			return *commands;
	}
	return NULL;
}

static int unknown(const struct guess *guess, const char *what, struct cs_err *err)
{
	if (guess->best)
		return cs_fail(err, EINVAL, "%s'%.40s' is no command: did you mean '%s'?", what,
			       guess->word, guess->best);
	return cs_fail(err, EINVAL, "%s'%.40s' is no command (see clearstore help)", what,
		       guess->word);
}

const struct cs_command *cs_command_find(char *const words[], size_t n, size_t *ret_words,
					 char path[CS_COMMAND_PATH], struct cs_err *err)
{
	struct guess guess = { .word = words[0], .distance = 4 };
	const struct cs_command *found = NULL, *member;

	for (const struct cs_command_group *g = cs_command_table; g->title && !found; g++)
		found = find_among(g->commands, words[0]);
	if (!found) {
		for (const struct cs_command_group *g = cs_command_table; g->title; g++)
			guess_among(&guess, g->commands);
		unknown(&guess, "", err);
		return NULL;
	}
	*ret_words = 1;
	snprintf(path, CS_COMMAND_PATH, "%s", found->name);
	if (!found->members || n < 2 || words[1][0] == '-')
		return found;

	member = find_among(found->members, words[1]);
	if (!member) {
		guess.word = words[1];
		guess_among(&guess, found->members);
		snprintf(path, CS_COMMAND_PATH, "%s: ", found->name);
		unknown(&guess, path, err);
		return NULL;
	}
	*ret_words = 2;
	snprintf(path, CS_COMMAND_PATH, "%s %s", found->name, member->name);
	return member;
}

void cs_command_each(cs_command_fn fn, void *arg)
{
	for (const struct cs_command_group *g = cs_command_table; g->title; g++) {
		for (const struct cs_command *const *c = g->commands; *c; c++) {
			if (!(*c)->members)
				fn(*c, (*c)->name, arg);
			for (size_t i = 0; (*c)->members && (*c)->members[i]; i++) {
				char path[CS_COMMAND_PATH];

				snprintf(path, sizeof(path), "%s %s", (*c)->name,
					 (*c)->members[i]->name);
				fn((*c)->members[i], path, arg);
			}
		}
	}
}

void cs_option_each(const struct argp *argp, cs_option_fn fn, void *arg)
{
	for (const struct argp_option *o = argp->options; o; o++) {
		if (!o->name && !o->key && !o->doc && !o->group)
			break;
		if (o->name && !(o->flags & (OPTION_HIDDEN | OPTION_DOC)))
			fn(o, arg);
	}
	for (const struct argp_child *c = argp->children; c && c->argp; c++)
		cs_option_each(c->argp, fn, arg);
}

/* ---- printing ------------------------------------------------------------------------------ */

static void print_commands(FILE *out, const struct cs_command *const *commands)
{
	for (; *commands; commands++)
		fprintf(out, "  %-12s%s\n", (*commands)->name, (*commands)->summary);
}

static void print_option(const struct argp_option *option, void *arg)
{
	char words[64];

	snprintf(words, sizeof(words), "--%s%s%s", option->name, option->arg ? " " : "",
		 option->arg ? option->arg : "");
	fprintf(arg, "  %-14s%s\n", words, option->doc);
}

void cs_help_table(FILE *out)
{
	fputs("Usage: clearstore [--store DIR] [--json] COMMAND [ARGUMENTS]\n"
	      "Memory and storage sharing for virtual machines: many guests of one template.\n",
	      out);
	for (const struct cs_command_group *g = cs_command_table; g->title; g++) {
		fprintf(out, "\n%s:\n", g->title);
		print_commands(out, g->commands);
	}
	fputs("\nOptions, before the command or behind it:\n", out);
	cs_option_each(&cs_globals_argp, print_option, out);
	fputs("\nclearstore help COMMAND says more of a command; clearstore --version which this "
	      "is.\n",
	      out);
}

void cs_help_command(FILE *out, const struct cs_command *command, const char *path)
{
	char title[CS_COMMAND_PATH + sizeof("clearstore ")];
	struct cs_command_argp wrapped;

	snprintf(title, sizeof(title), "clearstore %s", path);
	if (command->members) {
		fprintf(out, "Usage: %s COMMAND [ARGUMENTS]\n%s.\n\nCommands:\n", title,
			command->summary);
		print_commands(out, command->members);
		return;
	}
	cs_command_argp(command, &wrapped);
	argp_help(&wrapped.argp, out, ARGP_HELP_STD_HELP & ~(unsigned)ARGP_HELP_EXIT_OK, title);
}

/* ---- help ---------------------------------------------------------------------------------- */

struct help_options {
	bool list;
	char **words;
	size_t n;
};

static const struct argp_option help_options[] = {
	{ "list", 'l', NULL, 0, "Print every command, and every option of each, one a line", 1 },
	{ 0 },
};

static error_t parse_help(int key, char *arg, struct argp_state *state)
{
	struct help_options *o = state->input;

	switch (key) {
	case 'l':
		o->list = true;
		return 0;
	case ARGP_KEY_ARG:
		o->words = &state->argv[state->next - 1];
		o->n = (size_t)(state->argc - state->next + 1);
		state->next = state->argc;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void list_option(const struct argp_option *option, void *arg)
{
	printf("%s --%s\n", (const char *)arg, option->name);
}

static void list_command(const struct cs_command *command, const char *path, void *arg)
{
	puts(path);
	cs_option_each(command->argp, list_option, (void *)path);
}

static int run_help(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct help_options *o = options;
	const struct cs_command *command;
	char path[CS_COMMAND_PATH];
	size_t used;

	if (o->list) {
		cs_command_each(list_command, NULL);
		return 0;
	}
	if (!o->n) {
		cs_help_table(stdout);
		return 0;
	}
	command = cs_command_find(o->words, o->n, &used, path, err);
	if (!command)
		return -err->code;
	if (used < o->n)
		return cs_fail(err, EINVAL, "help %s: nothing more to say of '%.40s'", path,
			       o->words[used]);
	cs_help_command(stdout, command, path);
	return 0;
}

static const struct argp help_argp = {
	.options = help_options,
	.parser = parse_help,
	.args_doc = "[COMMAND]",
	.doc = "Say what clearstore, or one of its commands, does and takes.",
};

const struct cs_command cs_cmd_help = {
	.name = "help",
	.summary = "Say what a command does and takes",
	.argp = &help_argp,
	.options_bytes = sizeof(struct help_options),
	.run = run_help,
};
