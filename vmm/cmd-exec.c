/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* exec: a command in a running guest. */
#include "vmm/cmd-exec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/own.h"
#include "vmm/client.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"

int cs_cmd_tty_check(bool tty, struct cs_err *err)
{
	if (tty && !isatty(STDIN_FILENO))
		return cs_fail(err, ENOTTY, "-t: standard input is no terminal (leave -t out)");
	return 0;
}

struct exec_options {
	const char *guest, *user, *folder;
	struct cs_words env;
	bool tty;
	char **command;
};

static const struct argp_option options[] = {
	{ "tty", 't', NULL, 0, "Give COMMAND a terminal: this one", 1 },
	{ "interactive", 'i', NULL, 0, "Hand on our input; always done, and taken for habit's sake",
	  1 },
	{ "user", 'u', "USER", 0, "Run as this user of the guest (default: root)", 1 },
	{ "env", 'e', "NAME=VALUE", 0, "Put this into COMMAND's environment; any number of times",
	  1 },
	{ "workdir", 'w', "FOLDER", 0, "Run in this folder of the guest (default: /)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct exec_options *o = state->input;

	switch (key) {
	case 't':
		o->tty = true;
		return 0;
	case 'i':
		return 0;
	case 'u':
		o->user = arg;
		return 0;
	case 'e':
		return cs_words_add(&o->env, arg) ? 0 : ENOMEM;
	case 'w':
		o->folder = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (!o->guest)
			o->guest = arg;
		else
			o->command = cs_argp_rest(state);
		return 0;
	case ARGP_KEY_END:
		if (!o->guest)
			argp_error(state, "no guest given");
		if (o->guest && !o->command)
			argp_error(state, "no command given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	struct exec_options *o = opts;
	cs_auto(cs_words_freep) struct cs_words env = o->env;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	const struct cs_exec_spec spec = {
		.user = o->user,
		.folder = o->folder,
		.argv = o->command,
		.env = env.v,
		.tty = o->tty,
		.in_fd = STDIN_FILENO,
		.out_fd = STDOUT_FILENO,
		.err_fd = STDERR_FILENO,
	};
	int r, status;

	r = cs_cmd_env_check(&env, err);
	if (r < 0)
		return r;
	r = cs_cmd_tty_check(o->tty, err);
	if (r < 0)
		return r;
	cs_spawner_prepare();
	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_cmd_guest_awake(store, o->guest, &guest, err);
	if (r < 0)
		return r;
	r = cs_client_exec(guest.dirfd, &spec, &status, err);
	return r < 0 ? cs_fail_in(err, r, "guest '%s'", o->guest) : status;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "GUEST -- COMMAND...",
	.doc = "Run COMMAND in a running guest, with our input and output. The exit status is "
	       "COMMAND's (128 and its number when a signal ended it); 1 if it could not be run.",
};

const struct cs_command cs_cmd_exec = {
	.name = "exec",
	.summary = "Run a command in a running guest",
	.argp = &argp,
	.options_bytes = sizeof(struct exec_options),
	.run = run,
};
