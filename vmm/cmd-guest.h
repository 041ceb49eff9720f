/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands that do the same to many guests. Only commands include it. */
#pragma once

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#include "store/base/err.h"
#include "store/store.h"
#include "vmm/cmd-common.h"

/* What all of them take: GUEST... or --all, and what some do. */
struct cs_guests_options {
	struct cs_words names;
	bool all, force, wait;
	const char *time;
};

/* GUEST... and --all; its input is a struct cs_guests_options. */
extern const struct argp cs_guests_argp;

/* Which of them --all means. */
enum cs_guests_which {
	CS_GUESTS_ALL,
	CS_GUESTS_RUNNING,
	CS_GUESTS_STOPPED,
};

/* The guests that a command works on. Failures of single ones are told as they come; the others go
 * on. */
struct cs_guests {
	struct cs_store *store; /* lent */
	const struct cs_guests_options *options;
	struct cs_cmd_guest *v;
	size_t n;
	unsigned failures;
};

/* Look up those that the options name. A guest whose card is broken is found too, as its state
 * says. */
int cs_guests_open(struct cs_store *store, const struct cs_guests_options *o,
		   enum cs_guests_which which, struct cs_guests *ret, struct cs_err *err);
void cs_guests_closep(struct cs_guests *guests);

/* Tell that (guest) failed. */
void cs_guests_failed(struct cs_guests *guests, const struct cs_cmd_guest *guest,
		      struct cs_err *err);

/* Stop those that run by their agents, all at once, and wait for them; those that do not end in
 * time are killed. --time is read here. */
int cs_guests_stop(struct cs_guests *guests, struct cs_err *err);
