/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which guests may be merged: those of one share domain. Their monitors alone can let the kernel do
 * it (madvise() is for one's own memory), and are asked by their control sockets. */
#include "ksm/cmd-ksm-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cow/card.h"
#include "cow/life.h"
#include "ksm/cmd-running.h"
#include "ksm/meter.h"
#include "store/base/num.h"
#include "vmm/cmd-common.h"
#include "vmm/control.h"

#define SCAN_MS    2000  /* between two looks at who runs */
#define NEW_MAX    256   /* guests a look that are taken in, */
#define TOLD_MAX   256   /* told something, */
#define METER_MAX  128   /* asked for their memory, */
#define METER_MS   400   /* and not more often than this: at the end of a pass we look often */
#define PROFIT_MAX 16    /* asked whether merging pays */
#define YOUNG_MS   30000 /* so long a guest is asked more often: it grows */
#define AGAIN_MS   60000 /* until one that did not answer is asked again */

/* ---- who runs ------------------------------------------------------------------------------ */

static int by_pid(const void *a, const void *b)
{
	const struct cs_ksm_guest *x = a, *y = b;

	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Those behind (sorted) came in this look, and are not looked for in it. */
struct cs_ksm_guest *cs_ksm_guest_find(struct cs_ksm_guests *g, pid_t pid)
{
	const struct cs_ksm_guest key = { .pid = pid };

	return g->sorted ? bsearch(&key, g->v, g->sorted, sizeof(key), by_pid) : NULL;
}

/* Ask it whether it is enrolled: after a tuner before us it may be. */
static void ask(struct cs_ksm_guests *g, struct cs_ksm_guest *guest)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	guest->unsure = true;
	if (g->hung)
		return;
	r = cs_guest_open(g->spec.store, guest->name, &dirfd, NULL);
	if (r == 0)
		r = cs_control_call(dirfd, "status", CS_KSM_CALL_MS, &text, NULL);
	if (r == 0) {
		guest->unsure = false;
		guest->enrolled = strstr(text, "enrolled=1") != NULL;
	}
	g->hung = r == -ETIMEDOUT;
}

static int add(struct cs_ksm_guests *g, pid_t pid, const char *name,
	       const struct cs_ksm_sample *now)
{
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	struct cs_ksm_guest guest = { .pid = pid, .seen = true, .since_ms = now->at_ms };

	if (cs_card_load(g->spec.store, name, &card, NULL) < 0 || card->state != CS_GUEST_RUNNING ||
	    card->pid != pid)
		return 0; /* gone, or not there yet: the next look tells */
	snprintf(guest.name, sizeof(guest.name), "%s", card->guest);
	snprintf(guest.domain, sizeof(guest.domain), "%s", card->share_domain);
	if (g->n == g->room) {
		const size_t room = g->room ? 2 * g->room : 64;
		void *more = reallocarray(g->v, room, sizeof(*g->v));

		if (!more)
			return -ENOMEM;
		g->v = more;
		g->room = room;
	}
	if (guest.domain[0])
		ask(g, &guest);
	g->v[g->n++] = guest;
	return 0;
}

static void drop_unseen(struct cs_ksm_guests *g)
{
	size_t kept = 0;

	for (size_t i = 0; i < g->n; i++) {
		if (g->v[i].seen)
			g->v[kept++] = g->v[i];
		else
			g->narrow -= g->v[i].narrow;
	}
	g->n = g->sorted = kept;
	if (kept) /* without any there is no array */
		qsort(g->v, g->n, sizeof(*g->v), by_pid);
}

struct looking {
	struct cs_ksm_guests *g;
	const struct cs_ksm_sample *now;
	size_t added;
};

/* 1: enough for one look. */
static int on_running(void *arg, pid_t pid, const char *name)
{
	struct looking *looking = arg;
	struct cs_ksm_guest *guest = cs_ksm_guest_find(looking->g, pid);
	const size_t had = looking->g->n;
	int r;

	if (guest && strcmp(guest->name, name) == 0) {
		guest->seen = true;
		return 0;
	}
	if (looking->added == NEW_MAX)
		return 1;
	r = add(looking->g, pid, name, looking->now);
	looking->added += looking->g->n - had;
	return r;
}

static int scan(struct cs_ksm_guests *g, const struct cs_ksm_sample *now, struct cs_err *err)
{
	struct looking looking = { g, now, 0 };
	int r;

	for (size_t i = 0; i < g->n; i++)
		g->v[i].seen = false;
	r = cs_running_each(g->spec.store, on_running, &looking, err);
	if (r < 0)
		return r;
	/* More than are taken in at once: whether the others are gone, the next look tells. */
	for (size_t i = 0; r > 0 && i < g->n; i++)
		g->v[i].seen = true;
	drop_unseen(g);
	if (r == 0)
		g->scanned_ms = now->at_ms;
	return 0;
}

/* ---- whose turn it is ---------------------------------------------------------------------- */

/* One domain at a time: the kernel has one tree for all. It stays the one that it is while it has a
 * guest. */
static void choose_domain(struct cs_ksm_guests *g)
{
	const char *first = NULL;
	bool others = false;

	if (g->spec.all)
		return;
	for (size_t i = 0; i < g->n; i++) {
		const char *domain = g->v[i].domain;

		if (!domain[0])
			continue;
		if (!first || strcmp(domain, g->domain) == 0)
			first = domain;
		others = others || (g->domain[0] && strcmp(domain, g->domain) != 0);
	}
	if (g->spec.domain)
		first = g->spec.domain;
	if (first && strcmp(first, g->domain) != 0) {
		snprintf(g->domain, sizeof(g->domain), "%s", first);
		g->told_of_others = false;
	} else if (others && !g->told_of_others) {
		fprintf(stderr,
			"clearstore: share domain '%s': its guests are merged; those of others are "
			"not, since the kernel has one tree for all (--domain, --all-domains)\n",
			g->domain);
		g->told_of_others = true;
	}
}

/* May it be merged with the others whose turn it is? */
bool cs_ksm_guest_is_of_domain(const struct cs_ksm_guests *g, const struct cs_ksm_guest *guest)
{
	return guest->domain[0] && (g->spec.all || strcmp(guest->domain, g->domain) == 0);
}

static bool belongs(const struct cs_ksm_guests *g, const struct cs_ksm_guest *guest)
{
	return cs_ksm_guest_is_of_domain(g, guest) && !guest->trial.lost;
}

/* It was told: (r), with words in (err). */
bool cs_ksm_guest_take_answer(struct cs_ksm_guests *g, struct cs_ksm_guest *guest, bool on, int r,
			      struct cs_err *err)
{
	if (r < 0) {
		g->hung = r == -ETIMEDOUT;
		/* One that has just ended is nobody's trouble. */
		if (++guest->tries == CS_KSM_TRIES && r != -ENOENT && r != -ECONNREFUSED) {
			cs_fail_in(err, r, "guest '%s'", guest->name);
			cs_cmd_complain(err);
		}
		return false;
	}
	guest->tries = 0;
	guest->enrolled = on;
	guest->unsure = false;
	return true;
}

/* If it hangs, or is gone, its mappings stay parted, which is its own trouble. */
bool cs_ksm_guest_tell(struct cs_ksm_guests *g, struct cs_ksm_guest *guest, bool on)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	struct cs_err err = { 0 };
	int r;

	g->narrow -= guest->narrow;
	guest->narrow = false;
	r = cs_guest_open(g->spec.store, guest->name, &dirfd, &err);
	if (r == 0)
		r = cs_control_call(dirfd, on ? "enroll on" : "enroll off", CS_KSM_CALL_MS, NULL,
				    &err);
	return cs_ksm_guest_take_answer(g, guest, on, r, &err);
}

void cs_ksm_guest_joined(struct cs_ksm_guest *guest, const struct cs_ksm_sample *now)
{
	guest->since_ms = now->at_ms;
	cs_ksm_trial_begin(&guest->trial, now->full_scans);
}

/* First those that have to leave: what is merged of two domains must not be at any time. */
static void settle(struct cs_ksm_guests *g, const struct cs_ksm_sample *now)
{
	unsigned told = 0;

	for (size_t i = 0; i < g->n && told < TOLD_MAX && !g->hung; i++) {
		struct cs_ksm_guest *guest = &g->v[i];

		if (guest->tries >= CS_KSM_TRIES && now->at_ms - guest->since_ms > AGAIN_MS) {
			guest->tries = 0;
			guest->since_ms = now->at_ms;
		}
		if ((guest->enrolled || guest->unsure) && guest->domain[0] && !belongs(g, guest)) {
			/* While one of another domain may be in, nobody else gets in: whoever hangs
			 * keeps the others out. */
			if (!cs_ksm_guest_tell(g, guest, false) &&
			    strcmp(guest->domain, g->domain) != 0)
				return;
			told++;
		}
	}
	if (g->spec.by_sketch)
		return; /* in a round, or at rest */
	for (size_t i = 0; i < g->n && told < TOLD_MAX && !g->hung; i++) {
		struct cs_ksm_guest *guest = &g->v[i];

		if (guest->enrolled || !belongs(g, guest) || guest->tries >= CS_KSM_TRIES)
			continue;
		told++;
		if (cs_ksm_guest_tell(g, guest, true))
			cs_ksm_guest_joined(guest, now);
	}
}

/* ---- what of them counts ------------------------------------------------------------------- */

bool cs_ksm_guest_is_member(const struct cs_ksm_guests *g, const struct cs_ksm_guest *guest)
{
	return belongs(g, guest) && guest->tries < CS_KSM_TRIES;
}

/* Does what it has count as memory that may be merged? One that is yet to be sketched: all of it.
 */
static bool takes_part(const struct cs_ksm_guests *g, const struct cs_ksm_guest *guest)
{
	return guest->enrolled || (g->spec.by_sketch && cs_ksm_guest_is_member(g, guest));
}

static int64_t bytes_of(const struct cs_ksm_guest *guest)
{
	const int64_t bytes = (int64_t)guest->bytes;
	const int64_t grown = bytes - (int64_t)guest->sketched_bytes;

	if (!guest->sketched)
		return bytes;
	/* Less than then: it gave some back, or zeroes were merged, which is not in its memory any
	 * more. */
	return grown + (int64_t)guest->worth_bytes > 0 ? grown + (int64_t)guest->worth_bytes : 0;
}

int64_t cs_ksm_guests_sum(const struct cs_ksm_guests *g)
{
	int64_t bytes = 0;

	for (size_t i = 0; i < g->n; i++)
		bytes += takes_part(g, &g->v[i]) ? bytes_of(&g->v[i]) : 0;
	return bytes;
}

/* ---- what they have ------------------------------------------------------------------------ */

static enum cs_ksm_age age_of(void *arg, size_t i)
{
	const struct looking *looking = arg;
	const struct cs_ksm_guest *guest = &looking->g->v[i];

	if (!takes_part(looking->g, guest))
		return CS_KSM_NOBODY;
	return looking->now->at_ms - guest->since_ms > YOUNG_MS ? CS_KSM_GROWN : CS_KSM_YOUNG;
}

static void meter_one(void *arg, size_t i)
{
	const struct looking *looking = arg;
	struct cs_ksm_guest *guest = &looking->g->v[i];

	cs_meter_private(looking->g->spec.proc, guest->pid, &guest->bytes);
}

static void meter(struct cs_ksm_guests *g, const struct cs_ksm_sample *now)
{
	struct looking looking = { g, now, 0 };
	const struct cs_ksm_crowd crowd = { g->n, age_of, meter_one, &looking };

	if (now->at_ms - g->metered_ms < METER_MS)
		return;
	g->metered_ms = now->at_ms;
	cs_ksm_rounds_look(&g->metered, &crowd, METER_MAX);
}

/* Those for whom merging costs more than it saves go out when next guests are settled. */
static void judge(struct cs_ksm_guests *g, const struct cs_ksm_sample *now)
{
	size_t peers = 0;

	for (size_t i = 0; i < g->n; i++)
		peers += cs_ksm_guest_is_of_domain(g, &g->v[i]);
	for (size_t i = 0; i < g->n; i++)
		cs_ksm_trial_review(&g->v[i].trial, peers);
	for (size_t i = 0; i < g->n && i < PROFIT_MAX; i++) {
		struct cs_ksm_guest *guest = &g->v[g->profit_at++ % g->n];
		struct cs_meter_merging merging;

		if (!guest->enrolled || !cs_ksm_trial_is_due(&guest->trial, now->full_scans) ||
		    cs_meter_merging(g->spec.proc, guest->pid, &merging) < 0 ||
		    merging.profit_bytes == CS_KSM_UNKNOWN)
			continue;
		cs_ksm_trial_judge(&guest->trial, now->full_scans, merging.profit_bytes, peers);
	}
}

int cs_ksm_guests_look(struct cs_ksm_guests *g, const struct cs_ksm_sample *now, int64_t *ret_bytes,
		       struct cs_err *err)
{
	int r;

	g->hung = false;
	if (now->at_ms - g->scanned_ms >= SCAN_MS) {
		r = scan(g, now, err);
		if (r < 0)
			return r;
		/* Those that were not taken in yet may be enrolled, and of another domain. */
		if (g->scanned_ms == now->at_ms)
			choose_domain(g);
		if (g->scanned_ms == now->at_ms && !g->spec.only_look) {
			settle(g, now);
			judge(g, now);
		}
	}
	meter(g, now);
	*ret_bytes = cs_ksm_guests_sum(g);
	return 0;
}

size_t cs_ksm_guests_release(struct cs_ksm_guests *g)
{
	size_t released = 0;

	for (size_t i = 0; i < g->n; i++) {
		g->v[i].tries = CS_KSM_TRIES - 1;
		released += (g->v[i].enrolled || g->v[i].unsure) &&
			    cs_ksm_guest_tell(g, &g->v[i], false);
	}
	return released;
}

void cs_ksm_guests_count(const struct cs_ksm_guests *g, struct cs_ksm_guests_count *ret)
{
	struct cs_ksm_guests_count count = { .running = g->n, .domain = g->domain };

	for (size_t i = 0; i < g->n; i++) {
		const struct cs_ksm_guest *guest = &g->v[i];

		count.enrolled += guest->enrolled;
		count.unsure += guest->unsure;
		count.losers += guest->trial.lost;
		count.silent += guest->tries >= CS_KSM_TRIES;
		count.elsewhere +=
			guest->domain[0] && !g->spec.all && strcmp(guest->domain, g->domain) != 0;
	}
	*ret = count;
}

int cs_ksm_guests_create(const struct cs_ksm_guests_spec *spec, struct cs_ksm_guests **ret,
			 struct cs_err *err)
{
	struct cs_ksm_guests *g = calloc(1, sizeof(*g));

	if (!g)
		return cs_fail_errno(err, ENOMEM, "guests");
	g->spec = *spec;
	g->scanned_ms = g->metered_ms = -SCAN_MS;
	*ret = g;
	return 0;
}

struct cs_ksm_guests *cs_ksm_guests_free(struct cs_ksm_guests *g)
{
	if (!g)
		return NULL;
	if (g->round.alike)
		cs_ksm_round_end(g);
	free(g->v);
	free(g);
	return NULL;
}
