/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/command.h"

#include <config.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/own.h"
#include "store/base/text.h"
#include "store/store.h"
#include "vmm/cmd-help.h"

#define EXIT_USAGE 2

static const struct cs_command *const store_commands[] = {
	&cs_cmd_init, &cs_cmd_template, &cs_cmd_store, &cs_cmd_df, &cs_cmd_pmem, &cs_cmd_scrub, NULL
};
static const struct cs_command *const spawn_commands[] = { &cs_cmd_spawn, &cs_cmd_run,
							   &cs_cmd_spare, NULL };
static const struct cs_command *const guest_commands[] = {
	&cs_cmd_list,
	&cs_cmd_show,
	&cs_cmd_ping,
	&cs_cmd_exec,
	&cs_cmd_console,
	&cs_cmd_logs,
	&cs_cmd_stop,
	&cs_cmd_kill,
	&cs_cmd_start,
	&cs_cmd_restart,
	&cs_cmd_pause,
	&cs_cmd_resume,
	&cs_cmd_park,
	&cs_cmd_activate,
	&cs_cmd_balloon,
	&cs_cmd_fold,
	&cs_cmd_save_guest,
	&cs_cmd_remove,
	NULL,
};
static const struct cs_command *const other_commands[] = { &cs_cmd_top,        &cs_cmd_meter,
							   &cs_cmd_plan,       &cs_cmd_ksm,
							   &cs_cmd_doctor,     &cs_cmd_help,
							   &cs_cmd_completion, NULL };

const struct cs_command_group cs_command_table[] = {
	{ "Store and templates", store_commands },
	{ "New guests", spawn_commands },
	{ "Guests", guest_commands },
	{ "Host and help", other_commands },
	{ NULL, NULL },
};

/* The words in front of the command, and the command's own, which stay as they are. */
struct front {
	struct cs_globals globals;
	char **words;
	size_t n;
	bool help, version;
};

enum {
	KEY_VERSION = 0x1000,
};

static const struct argp_option front_options[] = {
	{ "help", 'h', NULL, 0, "Print this help", 1 },
	{ NULL, '?', NULL, OPTION_ALIAS | OPTION_HIDDEN, NULL, 1 },
	{ "version", KEY_VERSION, NULL, 0, "Print the version", 1 },
	{ 0 },
};

static error_t parse_front(int key, char *arg, struct argp_state *state)
{
	struct front *front = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &front->globals;
		return 0;
	case 'h':
	case '?':
		front->help = true;
		return 0;
	case KEY_VERSION:
		front->version = true;
		return 0;
	case ARGP_KEY_ARG:
		/* The command: what stands behind it is the command's to parse. */
		front->words = &state->argv[state->next - 1];
		front->n = (size_t)(state->argc - state->next + 1);
		state->next = state->argc;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child front_children[] = {
	{ &cs_globals_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp front_argp = {
	.options = front_options,
	.parser = parse_front,
	.args_doc = "COMMAND [ARGUMENTS]",
	.children = front_children,
};

/* A guest or a file may have had a say in the words: nothing in them reaches the terminal raw. */
static int complain(struct cs_err *err)
{
	fprintf(stderr, "clearstore: %s\n", cs_text_clean(err->text, false));
	return EXIT_FAILURE;
}

/* What was printed must have arrived: a full disk under a report is a failure like any other, also
 * where argp prints the help and exits. */
static void check_output(void)
{
	struct cs_err err = { 0 };

	if (!ferror(stdout) && fflush(stdout) == 0)
		return;
	cs_fail_errno(&err, errno, "cannot write the output");
	_exit(complain(&err));
}

static int run_command(const struct cs_command *command, char *path, struct front *front)
{
	cs_auto(cs_mem_freep) void *options = calloc(1, command->options_bytes + 1);
	struct cs_command_input input = { .options = options, .globals = &front->globals };
	struct cs_command_argp wrapped;
	struct cs_err err = { 0 };
	int r;

	if (!options) {
		cs_fail_errno(&err, ENOMEM, "%s", path);
		return complain(&err);
	}
	cs_command_argp(command, &wrapped);
	front->words[0] = path; /* how argp calls the program in what it says */
	r = argp_parse(&wrapped.argp, (int)front->n, front->words, ARGP_IN_ORDER, NULL, &input);
	if (r) {
		cs_fail_errno(&err, r, "%s", path);
		complain(&err);
		return EXIT_USAGE;
	}
	r = command->run(&front->globals, options, &err);
	if (r < 0)
		return complain(&err);
	return r;
}

static int dispatch(struct front *front)
{
	char path[CS_COMMAND_PATH], title[CS_COMMAND_PATH + sizeof("clearstore ")];
	const struct cs_command *command;
	struct cs_err err = { 0 };
	size_t used;

	command = cs_command_find(front->words, front->n, &used, path, &err);
	if (!command) {
		complain(&err);
		return EXIT_USAGE;
	}
	if (command->members) {
		bool asked = front->n > used && (strcmp(front->words[used], "--help") == 0 ||
						 strcmp(front->words[used], "-h") == 0);

		cs_help_command(asked ? stdout : stderr, command, path);
		return asked ? EXIT_SUCCESS : EXIT_USAGE;
	}
	front->words += used - 1;
	front->n -= used - 1;
	snprintf(title, sizeof(title), "clearstore %s", path);
	return run_command(command, title, front);
}

/* Whoever started us may have closed them: then a file of ours would become the standard output. */
static void hold_standard_files(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	cs_fd_closep(&fd);
}

int main(int argc, char *argv[])
{
	const char *store = getenv("CLEARSTORE_STORE");
	struct front front = {
		.globals = { .store = store && *store ? store : CS_STORE_DEFAULT },
	};

	hold_standard_files();
	atexit(check_output);
	argp_err_exit_status = EXIT_USAGE;
	if (argp_parse(&front_argp, argc, argv, ARGP_IN_ORDER | ARGP_NO_HELP, NULL, &front))
		return EXIT_USAGE;
	if (front.version) {
		puts(PACKAGE_STRING);
		return EXIT_SUCCESS;
	}
	if (front.help) {
		cs_help_table(stdout);
		return EXIT_SUCCESS;
	}
	if (!front.n) {
		cs_help_table(stderr);
		return EXIT_USAGE;
	}
	return dispatch(&front);
}
