/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which guests may be merged: those of one share domain. Their monitors alone can let the kernel do
 * it (madvise() is for one's own memory), and are asked by their control sockets. */
#include "ksm/cmd-ksm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cow/card.h"
#include "cow/life.h"
#include "ksm/cmd-running.h"
#include "ksm/meter.h"
#include "ksm/rounds.h"
#include "ksm/trial.h"
#include "store/base/num.h"
#include "vmm/cmd-common.h"
#include "vmm/control.h"

#define SCAN_MS    2000  /* between two looks at who runs */
#define CALL_MS    500   /* a monitor answers in less than one, unless it hangs */
#define NEW_MAX    256   /* guests a look that are taken in, */
#define TOLD_MAX   256   /* told something, */
#define METER_MAX  128   /* asked for their memory, */
#define METER_MS   400   /* and not more often than this: at the end of a pass we look often */
#define PROFIT_MAX 16    /* asked whether merging pays */
#define YOUNG_MS   30000 /* so long a guest is asked more often: it grows */
#define TRIES      3
#define AGAIN_MS   60000 /* until one that did not answer is asked again */

struct guest {
	pid_t pid;
	char name[64], domain[64];
	bool seen; /* in the look under way */
	bool enrolled;
	bool unsure; /* it did not say whether it is enrolled: it may be */
	unsigned tries;
	int64_t since_ms;          /* since when it is enrolled */
	struct cs_ksm_trial trial; /* whether that pays */
	uint64_t bytes;
};

struct cs_ksm_guests {
	struct cs_ksm_guests_spec spec;
	char domain[64]; /* whose guests are enrolled; "": none yet */
	struct guest *v; /* ascending by pid */
	size_t n, sorted, room;
	struct cs_ksm_rounds metered; /* whose turn it is */
	size_t profit_at;
	int64_t scanned_ms, metered_ms;
	bool hung; /* one did not answer in this look: no other is asked, the host may be short */
	bool told_of_others;
};

/* ---- who runs ------------------------------------------------------------------------------ */

static int by_pid(const void *a, const void *b)
{
	const struct guest *x = a, *y = b;

	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Those behind (sorted) came in this look, and are not looked for in it. */
static struct guest *find(struct cs_ksm_guests *g, pid_t pid)
{
	const struct guest key = { .pid = pid };

	return g->sorted ? bsearch(&key, g->v, g->sorted, sizeof(key), by_pid) : NULL;
}

/* Ask it whether it is enrolled: after a tuner before us it may be. */
static void ask(struct cs_ksm_guests *g, struct guest *guest)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	guest->unsure = true;
	if (g->hung)
		return;
	r = cs_guest_open(g->spec.store, guest->name, &dirfd, NULL);
	if (r == 0)
		r = cs_control_call(dirfd, "status", CALL_MS, &text, NULL);
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
	struct guest guest = { .pid = pid, .seen = true, .since_ms = now->at_ms };

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
	struct guest *guest = find(looking->g, pid);
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
static bool is_of_domain(const struct cs_ksm_guests *g, const struct guest *guest)
{
	return guest->domain[0] && (g->spec.all || strcmp(guest->domain, g->domain) == 0);
}

static bool belongs(const struct cs_ksm_guests *g, const struct guest *guest)
{
	return is_of_domain(g, guest) && !guest->trial.lost;
}

static bool tell(struct cs_ksm_guests *g, struct guest *guest, bool on)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	struct cs_err err = { 0 };
	int r;

	r = cs_guest_open(g->spec.store, guest->name, &dirfd, &err);
	if (r == 0)
		r = cs_control_call(dirfd, on ? "enroll on" : "enroll off", CALL_MS, NULL, &err);
	if (r < 0) {
		g->hung = r == -ETIMEDOUT;
		/* One that has just ended is nobody's trouble. */
		if (++guest->tries == TRIES && r != -ENOENT && r != -ECONNREFUSED) {
			cs_fail_in(&err, r, "guest '%s'", guest->name);
			cs_cmd_complain(&err);
		}
		return false;
	}
	guest->tries = 0;
	guest->enrolled = on;
	guest->unsure = false;
	return true;
}

/* First those that have to leave: what is merged of two domains must not be at any time. */
static void settle(struct cs_ksm_guests *g, const struct cs_ksm_sample *now)
{
	unsigned told = 0;

	for (size_t i = 0; i < g->n && told < TOLD_MAX && !g->hung; i++) {
		struct guest *guest = &g->v[i];

		if (guest->tries >= TRIES && now->at_ms - guest->since_ms > AGAIN_MS) {
			guest->tries = 0;
			guest->since_ms = now->at_ms;
		}
		if ((guest->enrolled || guest->unsure) && guest->domain[0] && !belongs(g, guest)) {
			/* While one of another domain may be in, nobody else gets in: whoever hangs
			 * keeps the others out. */
			if (!tell(g, guest, false) && strcmp(guest->domain, g->domain) != 0)
				return;
			told++;
		}
	}
	for (size_t i = 0; i < g->n && told < TOLD_MAX && !g->hung; i++) {
		struct guest *guest = &g->v[i];

		if (guest->enrolled || !belongs(g, guest) || guest->tries >= TRIES)
			continue;
		told++;
		if (!tell(g, guest, true))
			continue;
		guest->since_ms = now->at_ms;
		cs_ksm_trial_begin(&guest->trial, now->full_scans);
	}
}

/* ---- what they have ------------------------------------------------------------------------ */

static enum cs_ksm_age age_of(void *arg, size_t i)
{
	const struct looking *looking = arg;
	const struct guest *guest = &looking->g->v[i];

	if (!guest->enrolled)
		return CS_KSM_NOBODY;
	return looking->now->at_ms - guest->since_ms > YOUNG_MS ? CS_KSM_GROWN : CS_KSM_YOUNG;
}

static void meter_one(void *arg, size_t i)
{
	const struct looking *looking = arg;
	struct guest *guest = &looking->g->v[i];

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
		peers += is_of_domain(g, &g->v[i]);
	for (size_t i = 0; i < g->n; i++)
		cs_ksm_trial_review(&g->v[i].trial, peers);
	for (size_t i = 0; i < g->n && i < PROFIT_MAX; i++) {
		struct guest *guest = &g->v[g->profit_at++ % g->n];
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
	int64_t bytes = 0;
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
	for (size_t i = 0; i < g->n; i++)
		bytes += g->v[i].enrolled ? (int64_t)g->v[i].bytes : 0;
	*ret_bytes = bytes;
	return 0;
}

size_t cs_ksm_guests_release(struct cs_ksm_guests *g)
{
	size_t released = 0;

	for (size_t i = 0; i < g->n; i++) {
		g->v[i].tries = TRIES - 1;
		released += (g->v[i].enrolled || g->v[i].unsure) && tell(g, &g->v[i], false);
	}
	return released;
}

void cs_ksm_guests_count(const struct cs_ksm_guests *g, struct cs_ksm_guests_count *ret)
{
	struct cs_ksm_guests_count count = { .running = g->n, .domain = g->domain };

	for (size_t i = 0; i < g->n; i++) {
		const struct guest *guest = &g->v[i];

		count.enrolled += guest->enrolled;
		count.unsure += guest->unsure;
		count.losers += guest->trial.lost;
		count.silent += guest->tries >= TRIES;
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
	free(g->v);
	free(g);
	return NULL;
}
