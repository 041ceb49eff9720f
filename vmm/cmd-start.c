/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* start and restart: guests that are there already. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cow/park.h"
#include "store/base/own.h"
#include "vmm/cmd-guest.h"
#include "vmm/cmd-spawner.h"
#include "vmm/cmd-up.h"
#include "vmm/command.h"
#include "vmm/control.h"

#define AWAKE_MS      30000
#define AWAKE_LOOK_NS 20000000

static const struct argp_option start_options[] = {
	{ "wait", 'w', NULL, 0, "Return when the guests answer, not when they run", 1 },
	{ 0 },
};

static const struct argp_option restart_options[] = {
	{ "wait", 'w', NULL, 0, "Return when the guests answer, not when they run", 1 },
	{ "time", 't', "SECONDS", 0,
	  "What runs in the guest has so long between SIGTERM and SIGKILL (default: 10)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cs_guests_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = o;
		return 0;
	case 'w':
		o->wait = true;
		return 0;
	case 't':
		o->time = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* A guest keeps the version of its template that it was spawned from. */
static int start_guest(struct cs_store *store, const struct cs_host_kvm *kvm,
		       const struct cs_card *card, bool wait, struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *template = NULL;
	struct cs_spawn_guest guest = { 0 };
	struct cs_spawner spawner = {
		.store = store, .kvm = kvm, .card = card, .wait = wait, .guests = &guest, .n = 1
	};
	char name[sizeof(card->template) + sizeof(card->version)];
	int r;

	snprintf(name, sizeof(name), "%s@%s", card->template, card->version);
	r = cs_template_open(store, name, &template, err);
	if (r == 0 && card->state == CS_GUEST_PARKED)
		r = cs_parked_check(store, card->guest, err);
	if (r < 0)
		return r;
	spawner.template = template;
	snprintf(guest.name, sizeof(guest.name), "%s", card->guest);
	r = cs_spawner_run(&spawner, err);
	/* The ways out of a template's saved machine are none of a guest's own. */
	if (r == -ESTALE && card->state == CS_GUEST_PARKED)
		return cs_fail(err, ESTALE,
			       "guest '%s': was parked by another clearstore or on another kind of "
			       "host (wake it there; clearstore stop forgets it)",
			       card->guest);
	return r;
}

/* It is being woken, by us or by another: until it answers, but not for ever. */
static int wait_awake(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
		      struct cs_err *err)
{
	const uint64_t end = cs_cmd_now_ms() + AWAKE_MS;

	for (;;) {
		cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
		cs_auto(cs_mem_freep) char *status = NULL;
		int r = cs_cmd_guest_open(store, name, &guest, err);

		if (r < 0)
			return r;
		/* The other has failed, or it was parked again: no longer our turn. */
		if (guest.card->state != CS_GUEST_RUNNING)
			return cs_cmd_guest_running(store, name, ret, err);
		if (cs_control_call(guest.dirfd, "status", AWAKE_MS, &status, NULL) == 0 &&
		    !cs_up_is_booting(status)) {
			*ret = guest;
			guest = (struct cs_cmd_guest){ .dirfd = -1 };
			return 0;
		}
		if (cs_cmd_now_ms() >= end)
			return cs_fail(err, ETIMEDOUT,
				       "guest '%s': is being woken, and does not answer", name);
		nanosleep(&(struct timespec){ .tv_nsec = AWAKE_LOOK_NS }, NULL);
	}
}

int cs_cmd_guest_awake(struct cs_store *store, const char *name, struct cs_cmd_guest *ret,
		       struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	cs_auto(cs_host_kvm_freep) struct cs_host_kvm *kvm = NULL;
	int r;

	r = cs_cmd_guest_open(store, name, &guest, err);
	if (r < 0)
		return r;
	if (guest.card->state != CS_GUEST_PARKED)
		return cs_cmd_guest_running(store, name, ret, err);
	cs_fd_closep(&guest.dirfd);
	r = cs_spawner_kvm_open(&kvm, err);
	if (r == 0)
		r = start_guest(store, kvm, guest.card, false, err);
	return r < 0 && r != -EBUSY ? r : wait_awake(store, name, ret, err);
}

/* (restarted): those that ran were just stopped. */
static int start_all(struct cs_guests *guests, bool restarted, struct cs_err *err)
{
	cs_auto(cs_host_kvm_freep) struct cs_host_kvm *kvm = NULL;
	int r;

	r = cs_spawner_kvm_open(&kvm, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < guests->n; i++) {
		const struct cs_card *card = guests->v[i].card;
		struct cs_err failure = { 0 };

		if (card->state == CS_GUEST_RUNNING && !restarted)
			r = cs_fail(&failure, EBUSY, "runs already");
		else if (card->state == CS_GUEST_BROKEN)
			r = cs_fail(&failure, EBADMSG, "its card is broken (clearstore remove %s)",
				    card->guest);
		else
			r = start_guest(guests->store, kvm, card, guests->options->wait, &failure);
		if (r == -EINTR) {
			*err = failure;
			return r;
		}
		if (r < 0)
			cs_guests_failed(guests, &guests->v[i], &failure);
	}
	return 0;
}

static int run(const struct cs_globals *globals, struct cs_guests_options *o, bool restart,
	       struct cs_err *err)
{
	cs_auto(cs_words_freep) struct cs_words names = o->names;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_guests_closep) struct cs_guests guests = { 0 };
	int r;

	cs_spawner_prepare();
	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_guests_open(store, o, restart ? CS_GUESTS_RUNNING : CS_GUESTS_STOPPED, &guests, err);
	if (r < 0)
		return r;
	if (restart) {
		r = cs_guests_stop(&guests, err);
		if (r < 0)
			return r;
	}
	/* What is open from here on, all the monitors have. */
	for (size_t i = 0; i < guests.n; i++)
		cs_fd_closep(&guests.v[i].dirfd);
	r = start_all(&guests, restart, err);
	if (r < 0)
		return r;
	return guests.failures ? EXIT_FAILURE : 0;
}

static int run_start(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	return run(globals, options, false, err);
}

static int run_restart(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	return run(globals, options, true, err);
}

static const struct argp_child children[] = {
	{ &cs_guests_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp start_argp = {
	.options = start_options,
	.parser = parse,
	.args_doc = "GUEST...",
	.doc = "Start guests that do not run, as they were spawned. A persistent one finds its "
	       "disk as it left it, any other begins anew; one that is parked goes on where it "
	       "stood.",
	.children = children,
};

static const struct argp restart_argp = {
	.options = restart_options,
	.parser = parse,
	.args_doc = "GUEST...",
	.doc = "Stop guests that run, and start them again.",
	.children = children,
};

const struct cs_command cs_cmd_start = {
	.name = "start",
	.summary = "Start guests that do not run",
	.argp = &start_argp,
	.options_bytes = sizeof(struct cs_guests_options),
	.run = run_start,
};

const struct cs_command cs_cmd_restart = {
	.name = "restart",
	.summary = "Stop guests and start them again",
	.argp = &restart_argp,
	.options_bytes = sizeof(struct cs_guests_options),
	.run = run_restart,
};
