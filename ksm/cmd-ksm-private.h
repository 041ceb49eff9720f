/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guests that a tuner looks after, for the files that do it: who they are (cmd-ksm-guests.c),
 * and what of them is worth a look (cmd-ksm-round.c). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ksm/cmd-ksm.h"
#include "ksm/rounds.h"
#include "ksm/trial.h"

#define CS_KSM_CALL_MS 500 /* a monitor answers in less than one, unless it hangs */
#define CS_KSM_TRIES   3

struct cs_ksm_guest {
	pid_t pid;
	char name[64], domain[64];
	bool seen; /* in the look under way */
	bool enrolled;
	bool unsure; /* it did not say whether it is enrolled: it may be */
	unsigned tries;
	int64_t since_ms;          /* since when it is enrolled */
	struct cs_ksm_trial trial; /* whether that pays */
	uint64_t bytes;            /* private memory */
	bool sketched;
	bool narrow;             /* enrolled only where something is alike */
	uint64_t sketched_bytes; /* private memory when it was sketched, */
	uint64_t worth_bytes;    /* and what of it is to be looked at */
};

struct cs_ksm_member {
	pid_t pid;
	long index; /* in (alike); below 0: it has no sketch there */
	uint64_t bytes, worth_bytes;
};

/* Before a look all guests are sketched and held against each other. */
struct cs_ksm_round {
	struct cs_alike *alike; /* NULL: none is under way */
	struct cs_ksm_member *v;
	size_t n, sketched, enrolled, indexed;
	bool compared, is_worth_it;
	uint64_t worked_ms; /* when it was last worked on */
};

struct cs_ksm_guests {
	struct cs_ksm_guests_spec spec;
	char domain[64];        /* whose guests are enrolled; "": none yet */
	struct cs_ksm_guest *v; /* ascending by pid */
	size_t n, sorted, room;
	struct cs_ksm_rounds metered; /* whose turn it is */
	size_t profit_at;
	int64_t scanned_ms, metered_ms;
	struct cs_ksm_round round;
	size_t narrow; /* guests */
	bool hung; /* one did not answer in this look: no other is asked, the host may be short */
	bool told_of_others;
};

/* NULL: it has gone. */
struct cs_ksm_guest *cs_ksm_guest_find(struct cs_ksm_guests *g, pid_t pid);

/* May it be merged with the others whose turn it is? And is it, as far as we are concerned? */
bool cs_ksm_guest_is_of_domain(const struct cs_ksm_guests *g, const struct cs_ksm_guest *guest);
bool cs_ksm_guest_is_member(const struct cs_ksm_guests *g, const struct cs_ksm_guest *guest);

/* Enroll it as a whole (on), or take it out. False: it did not do it, which is noted. */
bool cs_ksm_guest_tell(struct cs_ksm_guests *g, struct cs_ksm_guest *guest, bool on);

/* It was asked to be in (on) or out: (r), with words in (err). False: as above. */
bool cs_ksm_guest_take_answer(struct cs_ksm_guests *g, struct cs_ksm_guest *guest, bool on, int r,
			      struct cs_err *err);

/* It is in now, and was not. */
void cs_ksm_guest_joined(struct cs_ksm_guest *guest, const struct cs_ksm_sample *now);

/* Bytes of those that are in, or are to be. */
int64_t cs_ksm_guests_sum(const struct cs_ksm_guests *g);

/* A round that is under way is over. */
void cs_ksm_round_end(struct cs_ksm_guests *g);
