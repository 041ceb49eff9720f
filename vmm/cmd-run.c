/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* run: a guest for one command. */
#include "vmm/cmd-spawner.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/own.h"
#include "vmm/client.h"
#include "vmm/cmd-exec.h"
#include "vmm/command.h"

static const struct argp_option options[] = {
	{ "tty", 't', NULL, 0, "Give COMMAND a terminal: this one", 1 },
	{ "user", 'u', "USER", 0, "Run COMMAND as this user of the guest (default: root)", 1 },
	{ "workdir", 'w', "FOLDER", 0, "Run COMMAND in this folder of the guest (default: /)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cs_spawn_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = o;
		return 0;
	case 't':
		o->tty = true;
		return 0;
	case 'u':
		o->user = arg;
		return 0;
	case 'w':
		o->folder = arg;
		return 0;
	case ARGP_KEY_END:
		if (o->template && !o->command)
			argp_error(state, "no command given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int exec_in(struct cs_store *store, const struct cs_spawn_guest *guest,
		   const struct cs_spawn_options *o, struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest opened = { .dirfd = -1 };
	const struct cs_exec_spec spec = {
		.user = o->user,
		.folder = o->folder,
		.argv = o->command,
		.env = o->env.v,
		.tty = o->tty,
		.in_fd = STDIN_FILENO,
		.out_fd = STDOUT_FILENO,
		.err_fd = STDERR_FILENO,
	};
	int r, status;

	r = cs_cmd_guest_open(store, guest->name, &opened, err);
	if (r < 0)
		return r;
	r = cs_client_exec(opened.dirfd, &spec, &status, err);
	return r < 0 ? cs_fail_in(err, r, "guest '%s'", guest->name) : status;
}

static int run_guest(struct cs_spawner *spawner, const struct cs_spawn_options *o,
		     struct cs_err *err)
{
	sigset_t before;
	int r;

	cs_spawn_hold_signals(&before);
	r = cs_spawner_run(spawner, err);
	if (r == 0)
		r = exec_in(spawner->store, spawner->guests, o, err);
	cs_spawner_take_back(spawner->store, spawner->guests);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

static int run_run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	struct cs_spawn_options *o = opts;
	cs_auto(cs_words_freep) struct cs_words env = o->env;
	cs_auto(cs_spawn_closep) struct cs_spawn_session session = { 0 };
	struct cs_spawn_guest guest = { 0 };
	int r;

	r = cs_cmd_tty_check(o->tty, err);
	if (r < 0)
		return r;
	r = cs_spawn_open(globals, o, &session, err);
	if (r < 0)
		return r;
	session.card.command = NULL; /* it is run by exec, with our input and output */
	r = cs_spawn_own(&session.card, err);
	if (r < 0)
		return r;

	struct cs_spawner spawner = {
		.store = session.store,
		.template = session.template,
		.kvm = session.kvm,
		.spares = session.spares,
		.card = &session.card,
		.prefix = o->name ? NULL : session.card.template,
		.create = true,
		.wait = true,
		.guests = &guest,
		.n = 1,
	};
	r = cs_spawner_names(&spawner, o->name, err);
	if (r < 0)
		return r;
	return run_guest(&spawner, o, err);
}

static const struct argp_child children[] = {
	{ &cs_spawn_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "TEMPLATE -- COMMAND...",
	.doc = "Run COMMAND in a new guest, with our input and output, then remove the guest. The "
	       "exit status is COMMAND's; 1 if it could not be run.",
	.children = children,
};

const struct cs_command cs_cmd_run = {
	.name = "run",
	.summary = "Run a command in a guest that is removed behind it",
	.argp = &argp,
	.options_bytes = sizeof(struct cs_spawn_options),
	.run = run_run,
};
