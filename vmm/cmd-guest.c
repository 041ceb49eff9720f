/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stop, kill, remove, pause, resume: one act on one or many guests. */
#include "vmm/cmd-guest.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "cow/overlay.h"
#include "cow/park.h"
#include "store/base/own.h"
#include "vmm/command.h"
#include "vmm/control.h"

#define CALL_MS      5000
#define TIME_DEFAULT "10"
#define TIME_MAX     3600
/* Behind the grace the monitor gives the agent 5 s to unmount, then ends the machine itself; one
 * that has not even done that hangs. */
#define HANG_MS 8000
#define KILL_MS 10000 /* in which at least one of those that were killed ends */

/* ---- GUEST... ------------------------------------------------------------------------------ */

static const struct argp_option guests_options[] = {
	{ "all", 'a', NULL, 0, "All guests that this can be done to", 1 },
	{ 0 },
};

static error_t parse_guests(int key, char *arg, struct argp_state *state)
{
	struct cs_guests_options *o = state->input;

	switch (key) {
	case 'a':
		o->all = true;
		return 0;
	case ARGP_KEY_ARG:
		return cs_words_add(&o->names, arg) ? 0 : ENOMEM;
	case ARGP_KEY_END:
		if (!o->names.n && !o->all)
			argp_error(state, "no guest given (--all: all of them)");
		if (o->names.n && o->all)
			argp_error(state, "--all and a guest's name do not go together");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cs_guests_argp = { .options = guests_options, .parser = parse_guests };

void cs_guests_closep(struct cs_guests *guests)
{
	for (size_t i = 0; i < guests->n; i++)
		cs_cmd_guest_closep(&guests->v[i]);
	free(guests->v);
	*guests = (struct cs_guests){ 0 };
}

void cs_guests_failed(struct cs_guests *guests, const struct cs_cmd_guest *guest,
		      struct cs_err *err)
{
	if (strncmp(err->text, "guest '", 7) != 0)
		cs_fail_in(err, -err->code, "guest '%s'", guest->card->guest);
	cs_cmd_complain(err);
	guests->failures++;
}

static int add(struct cs_guests *guests, const char *name, struct cs_err *err)
{
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	struct cs_cmd_guest *larger;
	int r;

	r = cs_cmd_guest_open(guests->store, name, &guest, err);
	if (r == -EBADMSG || r == -EPROTO) {
		guest.card = calloc(1, sizeof(*guest.card));
		if (!guest.card)
			return cs_fail_errno(err, ENOMEM, "guest '%s'", name);
		snprintf(guest.card->guest, sizeof(guest.card->guest), "%s", name);
		guest.card->state = CS_GUEST_BROKEN;
	} else if (r < 0) {
		return r;
	}
	larger = reallocarray(guests->v, guests->n + 1, sizeof(*larger));
	if (!larger)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", name);
	guests->v = larger;
	guests->v[guests->n++] = guest;
	guest = (struct cs_cmd_guest){ .dirfd = -1 };
	return 0;
}

struct gathering {
	struct cs_guests *guests;
	enum cs_guests_which which;
	struct cs_err *err;
};

static int gather(const struct cs_card *card, void *arg)
{
	struct gathering *gathering = arg;
	bool runs = card->state == CS_GUEST_RUNNING;
	int r;

	if ((gathering->which == CS_GUESTS_RUNNING && !runs) ||
	    (gathering->which == CS_GUESTS_STOPPED && (runs || card->state == CS_GUEST_BROKEN)))
		return 0;
	r = add(gathering->guests, card->guest, gathering->err);
	return r == -ENOENT ? 0 : r; /* removed meanwhile */
}

int cs_guests_open(struct cs_store *store, const struct cs_guests_options *o,
		   enum cs_guests_which which, struct cs_guests *ret, struct cs_err *err)
{
	cs_auto(cs_guests_closep) struct cs_guests guests = { .store = store, .options = o };
	struct gathering gathering = { .guests = &guests, .which = which, .err = err };
	struct cs_err failure = { 0 };
	int r = 0;

	cs_cmd_raise_files();
	if (o->all)
		r = cs_card_each(store, gather, &gathering, err);
	for (size_t i = 0; i < o->names.n; i++) {
		if (add(&guests, o->names.v[i], &failure) < 0) {
			cs_cmd_complain(&failure);
			guests.failures++;
		}
	}
	if (r < 0)
		return r;
	*ret = guests;
	guests = (struct cs_guests){ 0 };
	return 0;
}

/* ---- ending -------------------------------------------------------------------------------- */

/* Descriptors of the monitors that run; those of the others are -1. */
static int *open_pidfds(struct cs_guests *guests, struct cs_err *err)
{
	int *pidfds = calloc(guests->n + 1, sizeof(*pidfds));

	if (!pidfds) {
		cs_fail_errno(err, ENOMEM, "%zu guests", guests->n);
		return NULL;
	}
	for (size_t i = 0; i < guests->n; i++) {
		const struct cs_cmd_guest *guest = &guests->v[i];
		int r = -ESRCH;

		if (guest->card->state == CS_GUEST_RUNNING)
			r = cs_cmd_guest_pidfd(guest->card);
		if (r < 0 && r != -ESRCH) {
			struct cs_err failure = { 0 };

			cs_fail_errno(&failure, r, "cannot watch its monitor");
			cs_guests_failed(guests, guest, &failure);
		}
		pidfds[i] = r < 0 ? -1 : r;
	}
	return pidfds;
}

static void close_pidfds(int *pidfds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cs_fd_closep(&pidfds[i]);
	free(pidfds);
}

/* A monitor that is killed leaves no exit line, and its guest would pass for crashed. If another
 * has started it meanwhile, the file is that one's. */
static void note_request(const struct cs_cmd_guest *guest)
{
	cs_auto(cs_fd_closep) int exit_fd = -1;

	if (cs_card_open_exit(guest->dirfd, &exit_fd) == 0)
		cs_card_write_exit(exit_fd, "request", -1);
}

/* Kill those whose pidfd is open. */
static void kill_left(struct cs_guests *guests, int *pidfds)
{
	cs_auto(cs_mem_freep) bool *killed = calloc(guests->n + 1, sizeof(*killed));
	size_t before, left = 0;
	struct cs_err failure = { 0 };

	for (size_t i = 0; i < guests->n; i++) {
		bool sent = pidfds[i] >= 0 && pidfd_send_signal(pidfds[i], SIGKILL, NULL, 0) == 0;

		if (killed)
			killed[i] = sent;
		left += pidfds[i] >= 0;
	}
	/* Hundreds that give their memory back at once take longer than one that hangs may. */
	do {
		before = left;
		left = cs_cmd_wait_ended(pidfds, guests->n, KILL_MS);
	} while (left && left < before);
	for (size_t i = 0; i < guests->n; i++) {
		if (pidfds[i] >= 0) {
			cs_fail(&failure, ETIMEDOUT, "its monitor (process %d) does not die",
				(int)guests->v[i].card->pid);
			cs_guests_failed(guests, &guests->v[i], &failure);
		} else if (killed && killed[i]) {
			note_request(&guests->v[i]);
		}
	}
}

int cs_guests_stop(struct cs_guests *guests, struct cs_err *err)
{
	const char *text = guests->options->time ? guests->options->time : TIME_DEFAULT;
	uint64_t seconds;
	char line[40];
	int *pidfds, r;

	r = cs_cmd_number("time", text, 0, TIME_MAX, &seconds, err);
	if (r < 0)
		return r;
	pidfds = open_pidfds(guests, err);
	if (!pidfds)
		return -ENOMEM;
	snprintf(line, sizeof(line), "stop %" PRIu64, seconds * 1000);
	for (size_t i = 0; i < guests->n; i++) {
		struct cs_err failure = { 0 };

		if (pidfds[i] < 0)
			continue;
		r = cs_control_call(guests->v[i].dirfd, line, CALL_MS, NULL, &failure);
		/* It refused: killing it is the user's to decide. No answer: it ends just now, or
		 * hangs. */
		if (r == -EREMOTEIO) {
			cs_guests_failed(guests, &guests->v[i], &failure);
			cs_fd_closep(&pidfds[i]);
		}
	}
	if (cs_cmd_wait_ended(pidfds, guests->n, seconds * 1000 + HANG_MS)) {
		for (size_t i = 0; i < guests->n; i++) {
			if (pidfds[i] >= 0)
				fprintf(stderr, "clearstore: guest '%s': did not stop, killed\n",
					guests->v[i].card->guest);
		}
		kill_left(guests, pidfds);
	}
	close_pidfds(pidfds, guests->n);
	return 0;
}

/* ---- the verbs ----------------------------------------------------------------------------- */

static int do_stop(struct cs_guests *guests, struct cs_err *err)
{
	for (size_t i = 0; i < guests->n; i++) {
		const struct cs_card *card = guests->v[i].card;
		struct cs_err failure = { 0 };

		if (card->state == CS_GUEST_PARKED &&
		    cs_parked_drop(guests->store, card->guest, &failure) < 0)
			cs_guests_failed(guests, &guests->v[i], &failure);
	}
	return cs_guests_stop(guests, err);
}

static int do_kill(struct cs_guests *guests, struct cs_err *err)
{
	int *pidfds = open_pidfds(guests, err);

	if (!pidfds)
		return -ENOMEM;
	kill_left(guests, pidfds);
	close_pidfds(pidfds, guests->n);
	return 0;
}

static int do_remove(struct cs_guests *guests, struct cs_err *err)
{
	int r = 0;

	if (guests->options->force)
		r = do_kill(guests, err);
	for (size_t i = 0; i < guests->n && r == 0; i++) {
		const struct cs_card *card = guests->v[i].card;
		struct cs_err failure = { 0 };

		if (card->state == CS_GUEST_RUNNING && !guests->options->force)
			cs_fail(&failure, EBUSY, "runs (clearstore stop %s, or remove --force)",
				card->guest);
		else if (cs_overlay_remove(guests->store, card->guest, &failure) == 0)
			continue;
		cs_guests_failed(guests, &guests->v[i], &failure);
	}
	return r;
}

static void tell(struct cs_guests *guests, const char *line)
{
	for (size_t i = 0; i < guests->n; i++) {
		struct cs_err failure = { 0 };

		if (cs_control_call(guests->v[i].dirfd, line, CALL_MS, NULL, &failure) < 0)
			cs_guests_failed(guests, &guests->v[i], &failure);
	}
}

static int do_pause(struct cs_guests *guests, struct cs_err *err)
{
	tell(guests, "pause");
	return 0;
}

static int do_resume(struct cs_guests *guests, struct cs_err *err)
{
	tell(guests, "resume");
	return 0;
}

struct verb {
	enum cs_guests_which which; /* --all */
	bool needs_running;         /* one that does not is a failure */
	int (*act)(struct cs_guests *guests, struct cs_err *err);
};

/* Of a guest that must run and does not: say so, and leave it out. */
static void drop_stopped(struct cs_guests *guests)
{
	size_t kept = 0;

	for (size_t i = 0; i < guests->n; i++) {
		struct cs_cmd_guest *guest = &guests->v[i];
		struct cs_err failure = { 0 };

		if (guest->card->state == CS_GUEST_RUNNING) {
			guests->v[kept++] = *guest;
			continue;
		}
		cs_fail(&failure, ESRCH, "does not run");
		cs_guests_failed(guests, guest, &failure);
		cs_cmd_guest_closep(guest);
	}
	guests->n = kept;
}

static int run_verb(const struct verb *verb, const struct cs_globals *globals,
		    struct cs_guests_options *o, struct cs_err *err)
{
	cs_auto(cs_words_freep) struct cs_words names = o->names;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_guests_closep) struct cs_guests guests = { 0 };
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_guests_open(store, o, verb->which, &guests, err);
	if (r < 0)
		return r;
	if (verb->needs_running)
		drop_stopped(&guests);
	r = verb->act(&guests, err);
	if (r < 0)
		return r;
	return guests.failures ? EXIT_FAILURE : 0;
}

static const struct argp_option stop_options[] = {
	{ "time", 't', "SECONDS", 0,
	  "What runs in the guest has so long between SIGTERM and SIGKILL (default: " TIME_DEFAULT
	  ")",
	  1 },
	{ 0 },
};

static const struct argp_option remove_options[] = {
	{ "force", 'f', NULL, 0, "Kill it first if it runs", 1 },
	{ 0 },
};

static error_t parse_verb(int key, char *arg, struct argp_state *state)
{
	struct cs_guests_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = o;
		return 0;
	case 't':
		o->time = arg;
		return 0;
	case 'f':
		o->force = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child verb_children[] = {
	{ &cs_guests_argp, 0, NULL, 0 },
	{ 0 },
};

/* A verb of the table: its argp, the function that main calls, the command. */
#define VERB(verb_, options_, which_, needs_running_, summary_, doc_)                              \
	static int run_##verb_(const struct cs_globals *globals, void *options,                    \
			       struct cs_err *err)                                                 \
	{                                                                                          \
		static const struct verb verb = { which_, needs_running_, do_##verb_ };            \
                                                                                                   \
		return run_verb(&verb, globals, options, err);                                     \
	}                                                                                          \
	static const struct argp verb_##_argp = {                                                  \
		.options = options_,                                                               \
		.parser = parse_verb,                                                              \
		.args_doc = "GUEST...",                                                            \
		.doc = doc_,                                                                       \
		.children = verb_children,                                                         \
	};                                                                                         \
	const struct cs_command cs_cmd_##verb_ = {                                                 \
		.name = #verb_,                                                                    \
		.summary = summary_,                                                               \
		.argp = &verb_##_argp,                                                             \
		.options_bytes = sizeof(struct cs_guests_options),                                 \
		.run = run_##verb_,                                                                \
	}

VERB(stop, stop_options, CS_GUESTS_RUNNING, false, "Stop guests",
     "Stop guests: what runs in them gets SIGTERM, later SIGKILL, disks are synced. Returns when "
     "they have ended. One that does not stop is killed; what was parked is forgotten.");
VERB(kill, NULL, CS_GUESTS_RUNNING, true, "End guests at once",
     "End guests at once, without a word to them. What a persistent one had not synced is lost.");
VERB(remove, remove_options, CS_GUESTS_ALL, false, "Delete guests",
     "Delete guests that do not run, with their disks and logs.");
VERB(pause, NULL, CS_GUESTS_RUNNING, true, "Halt guests where they are",
     "Halt guests where they are. They keep their memory and answer nothing until resumed.");
VERB(resume, NULL, CS_GUESTS_RUNNING, true, "Let paused guests go on", "Let paused guests go on.");
