/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE        4096
#define COST_MIN_NS 100.0 /* no host is faster, and a model of one would not end */
#define PAGES_MIN   256   /* fewer are no guest */
#define COST_NS     1900.0
#define SKIP_NS     50.0 /* of a page that smart_scan leaves out */
#define LOTS        1024
#define SMART_FROM                                                                                 \
	3 /* visits for nothing, after which smart_scan leaves a page out now and then             \
	   */
#define DEFAULT_PAGES 100
#define MS_MAX        (INT64_C(7) * 86400 * 1000)
#define BYTES_MAX     (INT64_C(1) << 50) /* no host has more; above, sums would overflow */
#define COUNT_MAX     (INT64_C(1) << 60)

/* Memory that came together. */
struct lot {
	double pages, merged;
	unsigned visits;
	unsigned skips; /* left of those that smart_scan decided on */
};

struct model {
	struct lot lot[LOTS];
	size_t n;
	size_t at;        /* the lot that the scan is in */
	double into;      /* pages of it that it is past */
	double alike;     /* part of new memory that merges, 0 to 1 */
	double cost_ns;   /* of a page scanned */
	double budget_ns; /* of CPU time not yet used up */
	double scanned, skipped, ksmd_ns;
	int64_t full_scans;
	double pass_ns;             /* since the last pass ended, for the advisor */
	double last_scan_s, change; /* the advisor's */
};

/* ---- memory -------------------------------------------------------------------------------- */

static double total_of(const struct model *m)
{
	double pages = 0;

	for (size_t i = 0; i < m->n; i++)
		pages += m->lot[i].pages;
	return pages;
}

static double merged_of(const struct model *m)
{
	double pages = 0;

	for (size_t i = 0; i < m->n; i++)
		pages += m->lot[i].merged;
	return pages;
}

static void grow(struct model *m, double pages)
{
	/* What comes in drips is one lot until it was visited. */
	if (m->n && !m->lot[m->n - 1].visits && (m->n == LOTS || pages < total_of(m) / 64)) {
		m->lot[m->n - 1].pages += pages;
		return;
	}
	if (m->n == LOTS) {
		m->lot[LOTS - 1].pages += pages;
		m->lot[LOTS - 1].visits = 0;
		return;
	}
	m->lot[m->n++] = (struct lot){ .pages = pages };
}

static void set_total(struct model *m, double pages)
{
	const double have = total_of(m);

	if (pages > have + 1) {
		grow(m, pages - have);
	} else if (have > 0 && pages < have) {
		for (size_t i = 0; i < m->n; i++) {
			m->lot[i].pages *= pages / have;
			m->lot[i].merged *= pages / have;
		}
		m->into *= pages / have;
	}
}

/* Merged pages that were written to: theirs again, and new to the scan. */
static void break_pages(struct model *m, double pages)
{
	const double have = merged_of(m);
	const double part = have > 0 && pages < have ? pages / have : 1;

	if (have <= 0 || pages <= 0)
		return;
	for (size_t i = 0; i < m->n; i++) {
		m->lot[i].merged -= m->lot[i].merged * part;
		if (m->lot[i].visits > 1)
			m->lot[i].visits = 1;
	}
}

/* ---- ksmd ---------------------------------------------------------------------------------- */

/* How many passes leave a page out that merged with nothing so often (mm/ksm.c skip_age()). */
static unsigned skips_of(unsigned visits)
{
	if (visits < SMART_FROM)
		return 0;
	return visits <= 3 ? 1 : visits <= 5 ? 2 : visits <= 8 ? 4 : 8;
}

/* Linux 6.8, mm/ksm.c scan_time_advisor(). */
static void advise(struct model *m, struct cs_ksm_setting *set)
{
	const double cost_us = m->cost_ns / 1000, scan_s = m->pass_ns / 1e9;
	double pages = (double)set->pages_to_scan, factor, change, least, most;

	if (set->advisor_mode != 1)
		return;
	factor = (double)set->advisor_target_scan_s / (scan_s > 0.001 ? scan_s : 0.001);
	change = m->last_scan_s > 0 ? scan_s / m->last_scan_s : 1;
	m->change = m->change > 0 ? 0.7 * m->change + 0.3 * change : change;
	pages = pages / factor * m->change;
	/* Pages that so much of a core scans in a batch, between two sleeps. */
	least = (double)set->sleep_ms * 1000 * 0.10 / cost_us;
	most = (double)set->sleep_ms * 1000 * (double)set->advisor_max_cpu / 100 / cost_us;
	if (most > (double)set->advisor_max_pages_to_scan)
		most = (double)set->advisor_max_pages_to_scan;
	if (least > (double)set->advisor_min_pages_to_scan)
		least = (double)set->advisor_min_pages_to_scan;
	pages = pages < least ? least : pages > most ? most : pages;
	m->last_scan_s = scan_s;
	set->pages_to_scan = (int64_t)pages;
}

/* The end of a lot was reached: what is alike in it merges at the second visit. */
static void visit(struct model *m, struct lot *lot, bool smart)
{
	if (lot->skips) {
		lot->skips--;
		return;
	}
	lot->visits++;
	if (lot->visits > 1)
		lot->merged = lot->pages * m->alike;
	lot->skips = smart ? skips_of(lot->visits) : 0;
}

/* Go on scanning for (ns) of CPU time. */
static void scan(struct model *m, struct cs_ksm_setting *set, double ns)
{
	m->budget_ns += ns;
	while (m->n && m->budget_ns > 0 && total_of(m) >= PAGES_MIN) {
		struct lot *lot = &m->lot[m->at];
		/* What is merged is looked at in each pass, the rest perhaps left out. */
		const double part = lot->skips && lot->pages > 0 ? lot->merged / lot->pages : 1;
		const double cost = part * m->cost_ns + (1 - part) * SKIP_NS;
		double pages = lot->pages - m->into;

		if (pages * cost > m->budget_ns) {
			pages = m->budget_ns / cost;
			m->into += pages;
		} else {
			visit(m, lot, set->smart_scan == 1);
			m->into = 0;
			m->at++;
		}
		m->budget_ns -= pages * cost;
		m->ksmd_ns += pages * cost;
		m->scanned += pages * part;
		m->skipped += pages * (1 - part);
		if (m->at == m->n) {
			m->at = 0;
			m->full_scans++;
			advise(m, set);
			m->pass_ns = 0;
		}
	}
	m->budget_ns = 0;
}

static void run(struct model *m, struct cs_ksm_setting *set, int64_t ms)
{
	/* By milliseconds: a pass may end in the middle, and the advisor then changes the pace. */
	for (int64_t i = 0; i < ms && set->run == 1; i++) {
		const double batch_ns = (double)set->pages_to_scan * m->cost_ns;
		const double cycle_ns = batch_ns + (double)set->sleep_ms * 1e6;

		m->pass_ns += 1e6;
		if (cycle_ns > 0)
			scan(m, set, 1e6 * batch_ns / cycle_ns);
	}
}

/* ---- the trace ----------------------------------------------------------------------------- */

static double pages_of(const struct cs_ksm_sample *seen)
{
	const int64_t bytes =
		seen->enrolled_bytes != CS_KSM_UNKNOWN ? seen->enrolled_bytes : seen->anon_bytes;

	return bytes > 0 ? (double)bytes / PAGE : 0;
}

/* Figures that no host has would overflow ours. */
static int check(const struct cs_ksm_trace *trace, struct cs_err *err)
{
	if (trace->row[trace->n - 1].seen.at_ms - trace->row[0].seen.at_ms > MS_MAX)
		return cs_fail(err, EINVAL, "trace: longer than a week");
	for (size_t i = 0; i < trace->n; i++) {
		const struct cs_ksm_sample *s = &trace->row[i].seen;

		if (s->at_ms > COUNT_MAX || s->enrolled_bytes > BYTES_MAX ||
		    s->anon_bytes > BYTES_MAX || s->total_bytes > BYTES_MAX ||
		    s->available_bytes > BYTES_MAX || cs_ksm_saved_pages(s) > BYTES_MAX ||
		    s->pages_scanned > COUNT_MAX || s->ksmd_us > COUNT_MAX ||
		    s->some_us > COUNT_MAX || s->cow_ksm > COUNT_MAX)
			return cs_fail(err, EINVAL, "trace: row %zu has a figure beyond any host's",
				       i + 1);
	}
	return 0;
}

/* What of a trace holds for all of it. */
static int learn(const struct cs_ksm_trace *trace, struct model *m, struct cs_err *err)
{
	const struct cs_ksm_sample *first = &trace->row[0].seen;
	const struct cs_ksm_sample *last = &trace->row[trace->n - 1].seen;
	double scanned, us;

	for (size_t i = 0; i < trace->n; i++) {
		const double pages = pages_of(&trace->row[i].seen);
		const double saved = (double)cs_ksm_saved_pages(&trace->row[i].seen);

		/* Of very little memory any part may be alike by chance. */
		if (pages > 256 && saved / pages > m->alike)
			m->alike = saved / pages < 1 ? saved / pages : 1;
	}
	if (last->enrolled_bytes == CS_KSM_UNKNOWN && last->anon_bytes == CS_KSM_UNKNOWN)
		return cs_fail(err, EINVAL,
			       "trace: it does not tell how much memory there was "
			       "(enrolled_bytes)");
	m->cost_ns = COST_NS;
	if (first->pages_scanned == CS_KSM_UNKNOWN || last->pages_scanned == CS_KSM_UNKNOWN ||
	    first->ksmd_us == CS_KSM_UNKNOWN || last->ksmd_us == CS_KSM_UNKNOWN)
		return 0;
	scanned = (double)(last->pages_scanned - first->pages_scanned);
	us = (double)(last->ksmd_us - first->ksmd_us);
	if (scanned > 10000 && us > 0)
		m->cost_ns = us * 1000 / scanned;
	if (m->cost_ns < COST_MIN_NS)
		m->cost_ns = COST_MIN_NS;
	return 0;
}

/* What the policy sees: what was recorded, with the model's in place of ksmd's. */
static struct cs_ksm_sample look(const struct model *m, const struct cs_ksm_sample *recorded,
				 int64_t at_ms)
{
	struct cs_ksm_sample s = *recorded;
	const double saved = merged_of(m);

	s.at_ms = at_ms;
	s.pages_shared = (int64_t)(saved / 8);
	s.pages_sharing = (int64_t)saved;
	s.pages_unshared = (int64_t)(total_of(m) - saved - saved / 8);
	if (s.pages_unshared < 0)
		s.pages_unshared = 0;
	s.pages_volatile = 0;
	s.zero_pages = 0;
	s.pages_scanned = (int64_t)m->scanned;
	s.pages_skipped = (int64_t)m->skipped;
	s.full_scans = m->full_scans;
	s.ksmd_us = (int64_t)(m->ksmd_ns / 1000);
	s.profit_bytes = (int64_t)(saved * PAGE - total_of(m) * 64);
	if (s.available_bytes != CS_KSM_UNKNOWN)
		s.available_bytes += (s.pages_sharing - cs_ksm_saved_pages(recorded)) * PAGE;
	return s;
}

struct course {
	const struct cs_ksm_trace *trace;
	struct model model;
	struct cs_ksm_setting set;
	struct cs_ksm_mind mind;
	size_t row;
	struct cs_ksm_replay result;
	double saved_page_ms;
};

/* Time has come to (at_ms): memory is what it was then. */
static void catch_up(struct course *c, int64_t at_ms)
{
	const struct cs_ksm_trace *t = c->trace;

	while (c->row + 1 < t->n && t->row[c->row + 1].seen.at_ms <= at_ms) {
		const int64_t was = t->row[c->row].seen.cow_ksm;
		const int64_t is = t->row[++c->row].seen.cow_ksm;

		set_total(&c->model, pages_of(&t->row[c->row].seen));
		if (was != CS_KSM_UNKNOWN && is > was)
			break_pages(&c->model, (double)(is - was));
	}
}

static void count(struct course *c, int64_t from_ms, int64_t at_ms)
{
	const double saved = merged_of(&c->model), possible = total_of(&c->model) * c->model.alike;

	c->saved_page_ms += saved * (double)(at_ms - from_ms);
	if (c->result.to_90_ms < 0 && possible >= 1 && saved >= 0.9 * possible)
		c->result.to_90_ms = at_ms - c->trace->row[0].seen.at_ms;
}

static void keep_row(struct cs_ksm_trace *out, const struct cs_ksm_sample *seen,
		     const struct cs_ksm_setting *set)
{
	struct cs_ksm_row *more = out ? reallocarray(out->row, out->n + 1, sizeof(*more)) : NULL;

	if (!more)
		return;
	more[out->n] = (struct cs_ksm_row){ *seen, *set };
	out->row = more;
	out->n++;
}

static void play(struct course *c, const struct cs_ksm_policy *policy,
		 const struct cs_ksm_limits *limits, struct cs_ksm_trace *out)
{
	const struct cs_ksm_trace *t = c->trace;
	const int64_t end = t->row[t->n - 1].seen.at_ms;
	int64_t now = t->row[0].seen.at_ms;
	struct cs_ksm_sample before, seen;

	set_total(&c->model, pages_of(&t->row[0].seen));
	before = look(&c->model, &t->row[0].seen, now);
	for (;;) {
		struct cs_ksm_setting want;
		int64_t step;

		seen = look(&c->model, &t->row[c->row].seen, now);
		policy->decide(&before, &seen, &c->set, limits, &c->mind, &want);
		if (want.advisor_mode == 1 && c->set.advisor_mode != 1)
			want.pages_to_scan = want.advisor_min_pages_to_scan;
		c->result.changes += memcmp(&want, &c->set, sizeof(want)) != 0;
		c->set = want;
		keep_row(out, &seen, &c->set);
		before = seen;
		if (now >= end)
			return;
		step = c->mind.wake_ms > 0 ? c->mind.wake_ms : 1;
		if (step > end - now)
			step = end - now;
		run(&c->model, &c->set, step);
		count(c, now, now + step);
		now += step;
		catch_up(c, now);
	}
}

int cs_ksm_replay(const struct cs_ksm_trace *trace, const struct cs_ksm_policy *policy,
		  const struct cs_ksm_limits *limits, struct cs_ksm_replay *ret,
		  struct cs_ksm_trace *out, struct cs_err *err)
{
	cs_auto(cs_mem_freep) struct course *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return cs_fail_errno(err, ENOMEM, "replay");
	c->trace = trace;
	c->result.to_90_ms = -1;
	/* A kernel that has everything, with its defaults, and stands still. */
	c->set = (struct cs_ksm_setting){ .pages_to_scan = DEFAULT_PAGES,
					  .sleep_ms = 20,
					  .smart_scan = 1,
					  .advisor_max_cpu = 70,
					  .advisor_min_pages_to_scan = 500,
					  .advisor_max_pages_to_scan = 30000,
					  .advisor_target_scan_s = 200 };
	r = check(trace, err);
	if (r == 0)
		r = learn(trace, &c->model, err);
	if (r < 0)
		return r;
	play(c, policy, limits, out);
	c->result.ms = trace->row[trace->n - 1].seen.at_ms - trace->row[0].seen.at_ms;
	c->result.saved_pages = (int64_t)merged_of(&c->model);
	if (c->result.ms)
		c->result.mean_pages = (int64_t)(c->saved_page_ms / (double)c->result.ms);
	c->result.possible_pages = (int64_t)(total_of(&c->model) * c->model.alike);
	c->result.ksmd_us = (int64_t)(c->model.ksmd_ns / 1000);
	c->result.scanned_pages = (int64_t)c->model.scanned;
	c->result.passes = c->model.full_scans;
	*ret = c->result;
	return 0;
}
