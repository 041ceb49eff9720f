/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands of `ksm` share. Only commands include it. */
#pragma once

#include <limits.h>

#include "ksm/ksm.h"
#include "ksm/policy.h"
#include "ksm/tune.h"
#include "store/store.h"
#include "vmm/command.h"

extern const struct cs_command cs_cmd_ksm_tune, cs_cmd_ksm_replay;

/* The folders of the kernel and of the tuner, below (root), which stands for "/" in tests. */
struct cs_ksm_paths {
	char ksm[PATH_MAX], proc[PATH_MAX], run[PATH_MAX];
};
int cs_ksm_paths(const char *root, struct cs_ksm_paths *ret, struct cs_err *err);

/* "5%" or "0.5%" of a core, in 1/1000. -EINVAL with words. */
int cs_ksm_budget(const char *text, int64_t *ret_permille, struct cs_err *err);

/* A policy by the name that was given; -EINVAL with words that name them all. */
int cs_ksm_policy_named(const char *name, const struct cs_ksm_policy **ret, struct cs_err *err);

/* ---- guests: who is enrolled (cmd-ksm-guests.c) --------------------------------------------- */

struct cs_ksm_guests_spec {
	struct cs_store *store; /* lent */
	const char *proc;
	const char *domain; /* this one; NULL: one, that of the first guest that has one */
	bool all;           /* every guest that has a domain */
	bool only_look;     /* enroll nobody, take nobody out */
	bool by_sketch;     /* look only where something is alike (ksm/alike.h) */
};

struct cs_ksm_guests;

int cs_ksm_guests_create(const struct cs_ksm_guests_spec *spec, struct cs_ksm_guests **ret,
			 struct cs_err *err);

/* Look who came and went, enroll those of the domain and take the others out, ask a few what they
 * have and whether merging pays for them: each time a bounded piece of work. *ret_bytes: what of
 * their private memory is enrolled, or is yet to be, as last seen of each. */
int cs_ksm_guests_look(struct cs_ksm_guests *guests, const struct cs_ksm_sample *now,
		       int64_t *ret_bytes, struct cs_err *err);

/* Before a look at what they have, by sketch: go on with a round, or begin one. CS_TUNE_GO: what is
 * to be looked at is enrolled, and nothing else; CS_TUNE_WAIT: there is more to do, behind some
 * tenth of a second (longer by a monitor that does not answer, or, once a round, by holding
 * thousands of guests against each other); CS_TUNE_CALL_OFF: there is too little to be merged.
 * (hurry), or no memory for it: the round is given up, and everybody enrolled as a whole.
 * *ret_bytes: as of a look at the guests. Not by sketch: CS_TUNE_GO. */
int cs_ksm_guests_prepare(struct cs_ksm_guests *guests, const struct cs_ksm_sample *now, bool hurry,
			  int64_t *ret_bytes);

/* When there is nothing to do: have guests enrolled as a whole, those of the last look again (each
 * range of them costs the host two mappings; while nothing is scanned it is all the same) and those
 * that no look was for. For a tenth of a second at most; true: some of the former are left. While a
 * round is under way nothing is done, unless all is (over), when nobody new is let in; nor behind
 * one that does not answer. */
bool cs_ksm_guests_rest(struct cs_ksm_guests *guests, const struct cs_ksm_sample *now, bool over);

/* Take all out that are in: what was merged becomes theirs again. Words of those that do not answer
 * go to stderr. The number that were. */
size_t cs_ksm_guests_release(struct cs_ksm_guests *guests);

struct cs_ksm_guests_count {
	size_t running, enrolled;
	size_t losers;      /* for whom merging costs more than it saves: taken out */
	size_t unsure;      /* who did not say whether they are enrolled */
	size_t silent;      /* whose monitor does not answer */
	size_t elsewhere;   /* of another domain */
	const char *domain; /* "": none yet */
};
void cs_ksm_guests_count(const struct cs_ksm_guests *guests, struct cs_ksm_guests_count *ret);

/* ---- one guest's sketch (cmd-ksm-sketch.c) --------------------------------------------------- */

struct cs_alike;

/* Ask guest (name) what its pages are like, and add that to (alike). -ETIMEDOUT: it does not
 * answer; -ENOMEM; others: it has none, or is gone. Then nothing was added. */
int cs_ksm_sketch(struct cs_store *store, const char *name, unsigned timeout_ms,
		  struct cs_alike *alike);

/* Have the ranges of (name), the guest (index) of (alike), enrolled, and nothing else of it. */
int cs_ksm_enroll_alike(struct cs_store *store, const char *name, unsigned timeout_ms,
			const struct cs_alike *alike, size_t index, struct cs_err *err);
#define CS_KSM_SKETCH_RANGES 256 /* of one guest */

struct cs_ksm_guests *cs_ksm_guests_free(struct cs_ksm_guests *guests);
CS_DEFINE_AUTO(cs_ksm_guests);
