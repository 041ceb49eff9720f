/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Before a look, a round: all guests are asked what their pages are like, held against each other,
 * and enrolled where something is alike. */
#include "ksm/cmd-ksm-private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "ksm/alike.h"
#include "ksm/meter.h"
#include "store/base/guest.h"
#include "vmm/cmd-common.h"

#define SLICE_MS   100  /* of a round: in between we look whether memory is short */
#define STALE_MS   2000 /* longer than two looks are apart */
#define WORTH_PART 200  /* a page to be merged of so many to be looked at */

/* An index that is none. */
#define NO_SKETCH (-1) /* its monitor makes none */
#define HANGS     (-2)

void cs_ksm_round_end(struct cs_ksm_guests *g)
{
	cs_alike_free(g->round.alike);
	free(g->round.v);
	g->round = (struct cs_ksm_round){ 0 };
}

/* While one of another domain may still be in, nobody is let in. */
static bool is_round_possible(const struct cs_ksm_guests *g)
{
	size_t n = 0;

	for (size_t i = 0; i < g->n; i++) {
		const struct cs_ksm_guest *guest = &g->v[i];

		if ((guest->enrolled || guest->unsure) && guest->domain[0] &&
		    !cs_ksm_guest_is_of_domain(g, guest))
			return false;
		n += cs_ksm_guest_is_member(g, guest);
	}
	return n > 0;
}

static int begin_round(struct cs_ksm_guests *g)
{
	struct cs_ksm_round round = { 0 };
	uint64_t key = 0;
	int r;

	getrandom(&key, sizeof(key),
		  GRND_NONBLOCK); /* early in the host's life: a key that is known */
	r = cs_alike_create(key, &round.alike);
	if (r < 0)
		return r;
	round.v = calloc(g->n, sizeof(*round.v));
	if (!round.v) {
		cs_alike_free(round.alike);
		return -ENOMEM;
	}
	for (size_t i = 0; i < g->n; i++) {
		if (cs_ksm_guest_is_member(g, &g->v[i]))
			round.v[round.n++] = (struct cs_ksm_member){ g->v[i].pid, HANGS, 0, 0 };
	}
	g->round = round;
	return 0;
}

static struct cs_ksm_guest *of_member(struct cs_ksm_guests *g, const struct cs_ksm_member *member)
{
	struct cs_ksm_guest *guest = cs_ksm_guest_find(g, member->pid);

	return guest && cs_ksm_guest_is_member(g, guest) ? guest : NULL;
}

static int sketch(struct cs_ksm_guests *g, struct cs_ksm_member *member)
{
	struct cs_ksm_guest *guest = of_member(g, member);
	int r;

	if (!guest)
		return 0;
	r = cs_ksm_sketch(g->spec.store, guest->name, CS_KSM_CALL_MS, g->round.alike);
	if (r == -ENOMEM)
		return r;
	if (r == 0) {
		member->index = (long)g->round.indexed++;
	} else if (r == -ETIMEDOUT) {
		guest->tries++;
		g->hung = true;
	} else {
		member->index = NO_SKETCH;
	}
	cs_meter_private(g->spec.proc, guest->pid, &member->bytes);
	return 0;
}

/* Is there so much to be merged that a look at it all pays? Of a guest without a sketch that is not
 * known, so it does. */
static int compare(struct cs_ksm_guests *g)
{
	struct cs_ksm_round *round = &g->round;
	struct cs_page_range range[CS_KSM_SKETCH_RANGES];
	uint64_t unmerged = 0, pages = 0;
	bool unknown = false;
	size_t n;
	int r;

	r = cs_alike_compare(round->alike);
	if (r < 0)
		return r;
	for (size_t i = 0; i < round->n; i++) {
		struct cs_ksm_member *member = &round->v[i];
		uint64_t worth;

		unknown = unknown || member->index == NO_SKETCH;
		if (member->index < 0)
			continue;
		cs_alike_ranges(round->alike, (size_t)member->index, range, CS_KSM_SKETCH_RANGES,
				&n, &worth);
		member->worth_bytes = worth * CS_PAGE_BYTES;
		pages += worth;
		unmerged += cs_alike_unmerged(round->alike, (size_t)member->index);
	}
	round->compared = true;
	round->is_worth_it = unknown || unmerged > pages / WORTH_PART;
	return 0;
}

/* One without a sketch is let in as a whole: an older monitor knows of none. */
static void enroll(struct cs_ksm_guests *g, const struct cs_ksm_member *member,
		   const struct cs_ksm_sample *now)
{
	struct cs_ksm_guest *guest = of_member(g, member);
	struct cs_err err = { 0 };
	bool was;
	int r;

	if (!guest || member->index == HANGS)
		return;
	was = guest->enrolled;
	if (member->index == NO_SKETCH) {
		if (!was && cs_ksm_guest_tell(g, guest, true))
			cs_ksm_guest_joined(guest, now);
		return;
	}
	r = cs_ksm_enroll_alike(g->spec.store, guest->name, CS_KSM_CALL_MS, g->round.alike,
				(size_t)member->index, &err);
	if (!cs_ksm_guest_take_answer(g, guest, true, r, &err))
		return;
	if (!was)
		cs_ksm_guest_joined(guest, now);
	g->narrow += !guest->narrow;
	guest->narrow = true;
}

/* One that hangs has cost more than a slice. */
static bool is_enough(const struct cs_ksm_guests *g, uint64_t end_ms)
{
	return g->hung || cs_cmd_now_ms() >= end_ms;
}

/* 1: there is more to do. */
static int work(struct cs_ksm_guests *g, const struct cs_ksm_sample *now)
{
	const uint64_t end = cs_cmd_now_ms() + SLICE_MS;
	struct cs_ksm_round *round = &g->round;
	int r = 0;

	for (; round->sketched < round->n && r == 0; round->sketched++) {
		if (is_enough(g, end))
			return 1;
		r = sketch(g, &round->v[round->sketched]);
	}
	if (r == 0 && !round->compared)
		r = compare(g);
	if (r < 0)
		return r;
	for (; round->is_worth_it && round->enrolled < round->n; round->enrolled++) {
		if (is_enough(g, end))
			return 1;
		enroll(g, &round->v[round->enrolled], now);
	}
	return 0;
}

/* From here on they count with what is to be looked at. */
static void count_worth(struct cs_ksm_guests *g)
{
	for (size_t i = 0; i < g->round.n; i++) {
		const struct cs_ksm_member *member = &g->round.v[i];
		struct cs_ksm_guest *guest = of_member(g, member);

		if (!guest || member->index < 0)
			continue;
		guest->bytes = guest->sketched_bytes = member->bytes;
		guest->worth_bytes = member->worth_bytes;
		guest->sketched = true;
	}
}

/* Give the round up: who is not in yet is let in as a whole. */
static int hurry_on(struct cs_ksm_guests *g, const struct cs_ksm_sample *now)
{
	for (size_t i = 0; i < g->n && !g->hung; i++) {
		struct cs_ksm_guest *guest = &g->v[i];

		if (cs_ksm_guest_is_member(g, guest) && !guest->enrolled &&
		    cs_ksm_guest_tell(g, guest, true))
			cs_ksm_guest_joined(guest, now);
	}
	cs_ksm_round_end(g);
	return CS_TUNE_GO;
}

/* Since it was worked on last the look was put off for other reasons: what it knows is old. */
static bool is_stale(const struct cs_ksm_round *round)
{
	return round->alike && cs_cmd_now_ms() - round->worked_ms > STALE_MS;
}

int cs_ksm_guests_prepare(struct cs_ksm_guests *g, const struct cs_ksm_sample *now, bool hurry,
			  int64_t *ret_bytes)
{
	bool is_worth_it;
	int r = 0;

	if (is_stale(&g->round))
		cs_ksm_round_end(g);
	*ret_bytes = cs_ksm_guests_sum(g);
	if (!g->spec.by_sketch || (!g->round.alike && !is_round_possible(g)))
		return CS_TUNE_GO;
	if (hurry && g->round.alike)
		return hurry_on(g, now);
	if (!g->round.alike)
		r = begin_round(g);
	if (r == 0)
		r = work(g, now);
	g->round.worked_ms = cs_cmd_now_ms();
	if (r > 0)
		return CS_TUNE_WAIT;
	if (r < 0)
		return hurry_on(g, now); /* no memory for it: all the more reason to look */
	is_worth_it = g->round.is_worth_it;
	count_worth(g);
	cs_ksm_round_end(g);
	*ret_bytes = cs_ksm_guests_sum(g);
	return is_worth_it ? CS_TUNE_GO : CS_TUNE_CALL_OFF;
}

/* The first time by a round, if that can be had: the kernel walks over all of a guest to take a
 * part of it out, but not to let one in. */
static void enroll_at_rest(struct cs_ksm_guests *g, struct cs_ksm_guest *guest,
			   const struct cs_ksm_sample *now)
{
	const bool was = guest->enrolled;

	if (cs_ksm_guest_tell(g, guest, true) && !was)
		cs_ksm_guest_joined(guest, now);
}

bool cs_ksm_guests_rest(struct cs_ksm_guests *g, const struct cs_ksm_sample *now, bool over)
{
	const uint64_t end = cs_cmd_now_ms() + SLICE_MS;
	const bool may_join = g->spec.by_sketch && !over && is_round_possible(g);

	if (g->round.alike && !over && !is_stale(&g->round))
		return false;
	if (g->round.alike)
		cs_ksm_round_end(g);
	for (size_t i = 0; i < g->n && !is_enough(g, end); i++) {
		struct cs_ksm_guest *guest = &g->v[i];

		if (guest->narrow ||
		    (may_join && !guest->enrolled && cs_ksm_guest_is_member(g, guest)))
			enroll_at_rest(g, guest, now);
	}
	return g->narrow && !g->hung;
}
