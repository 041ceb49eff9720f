/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/tune.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "ksm/trace.h"
#include "store/base/io.h"
#include "store/base/own.h"

#define ONCE_IDLE_MS 5000 /* nothing to look at for so long: there is nothing */
#define LOOK_MS      500  /* between two looks at most: memory may run out without a stall */
#define PREPARED_MS  10
#define ONCE_SCANS   3 /* a policy that never rests has then been everywhere twice */

struct tune {
	const struct cs_tune_spec *spec;
	struct cs_ksm_sample before, now;
	struct cs_ksm_setting set;
	struct cs_ksm_mind mind;
	int pressure_fd;
	int64_t begun_scans;
	int64_t idle_ms; /* since when there is nothing to do */
	bool has_run;
	bool put_off; /* a look, because guests are being got ready */
};

static int look(struct tune *t, struct cs_err *err)
{
	int64_t bytes = CS_KSM_UNKNOWN;
	int r;

	r = cs_ksm_sample(t->spec->ksm, &t->now, err);
	if (r == 0 && t->spec->ops->guests)
		r = t->spec->ops->guests(t->spec->arg, &t->now, &bytes, err);
	t->now.enrolled_bytes = bytes;
	return r;
}

static int record(const struct tune *t, struct cs_err *err)
{
	const struct cs_ksm_row row = { t->now, t->set };
	char line[CS_KSM_TRACE_LINE];
	int r;

	if (t->spec->trace_fd < 0)
		return 0;
	r = cs_ksm_trace_line(&row, line);
	if (r == 0)
		r = cs_write_full(t->spec->trace_fd, line, strlen(line));
	return r < 0 ? cs_fail_errno(err, -r, "cannot write the trace") : 0;
}

/* A look is about to begin: are the guests ready, and is it worth it? */
static int prepare(struct tune *t, const struct cs_ksm_mind *before, struct cs_ksm_setting *want,
		   struct cs_err *err)
{
	const bool hurry = t->put_off && t->mind.why == CS_KSM_PRESSURE;
	int64_t bytes = 0;
	int r;

	if (!t->spec->ops->prepare || !cs_ksm_began(before, &t->mind))
		return 0;
	r = t->spec->ops->prepare(t->spec->arg, &t->now, hurry, &bytes, err);
	if (r < 0)
		return r;
	if (r == CS_TUNE_WAIT) {
		/* As if nothing had been decided. */
		t->put_off = true;
		t->mind = *before;
		t->mind.wake_ms = PREPARED_MS;
		*want = t->set;
		return 0;
	}
	t->put_off = false;
	t->now.enrolled_bytes = bytes;
	cs_ksm_recount(&t->now, r == CS_TUNE_CALL_OFF, &t->mind);
	want->run = t->mind.passes ? 1 : 0;
	return 0;
}

static int decide(struct tune *t, struct cs_err *err)
{
	const struct cs_ksm_mind before = t->mind;
	struct cs_ksm_setting want;
	int r;

	t->spec->policy->decide(&t->before, &t->now, &t->set, &t->spec->limits, &t->mind, &want);
	r = prepare(t, &before, &want, err);
	if (r < 0)
		return r;
	/* While it is to scan also what others have set meanwhile: only what differs is written. */
	if (want.run == 1 || memcmp(&want, &t->set, sizeof(want)) != 0) {
		r = cs_ksm_apply(t->spec->ksm, &want, err);
		if (r < 0)
			return r;
	}
	t->set = want;
	/* To sweep is not to look. */
	t->has_run = t->has_run || (want.run == 1 && t->mind.why != CS_KSM_SWEEP);
	if (t->mind.why != CS_KSM_NOTHING || t->put_off)
		t->idle_ms = t->now.at_ms;
	if (t->spec->ops->decided)
		t->spec->ops->decided(t->spec->arg, &t->now, &t->set, &t->mind);
	return record(t, err);
}

static bool is_done(const struct tune *t)
{
	if (!t->spec->once)
		return false;
	if (t->mind.why == CS_KSM_FIXED)
		return t->set.run != 1 || t->now.full_scans >= t->begun_scans + ONCE_SCANS;
	if (t->mind.why != CS_KSM_NOTHING)
		return false;
	return t->has_run || t->now.at_ms - t->idle_ms >= ONCE_IDLE_MS;
}

/* True: told to stop. Pressure wakes us earlier than planned; what the policy does with it, it
 * decides by the figures. */
static bool nap(struct tune *t)
{
	struct pollfd item[2] = { { .fd = t->spec->stop_fd, .events = POLLIN },
				  { .fd = t->pressure_fd, .events = POLLPRI } };

	const int64_t wake_ms = t->mind.wake_ms > LOOK_MS ? LOOK_MS : t->mind.wake_ms;

	if (poll(item, 2, (int)wake_ms) <= 0)
		return false;
	if (item[1].revents & (POLLERR | POLLNVAL))
		t->pressure_fd = -1;
	return item[0].revents != 0;
}

int cs_tune_run(const struct cs_tune_spec *spec, struct cs_err *err)
{
	struct tune t = { .spec = spec, .pressure_fd = spec->pressure_fd };
	char head[CS_KSM_TRACE_LINE];
	int r;

	r = cs_ksm_read(spec->ksm, &t.set, err);
	if (r == 0 && spec->trace_fd >= 0) {
		r = cs_ksm_trace_head(head);
		if (r == 0)
			r = cs_write_full(spec->trace_fd, head, strlen(head));
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot write the trace");
	}
	if (r == 0)
		r = look(&t, err);
	t.before = t.now;
	t.idle_ms = t.now.at_ms;
	t.begun_scans = t.now.full_scans;
	while (r == 0) {
		r = decide(&t, err);
		if (r < 0 || is_done(&t) || nap(&t))
			return r;
		t.before = t.now;
		r = look(&t, err);
	}
	return r;
}
