/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm: what merging saves on this host, and the end of it. */
#include "ksm/cmd-ksm.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ksm/keep.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"

#define STOP_MS 10000
#define ONE     1000 /* permille of a core */

/* ---- shared -------------------------------------------------------------------------------- */

int cs_ksm_paths(const char *root, struct cs_ksm_paths *ret, struct cs_err *err)
{
	root = root ? root : "";
	if ((size_t)snprintf(ret->ksm, PATH_MAX, "%s" CS_KSM_DIR, root) >= PATH_MAX ||
	    (size_t)snprintf(ret->run, PATH_MAX, "%s" CS_KSM_RUN, root) >= PATH_MAX ||
	    (size_t)snprintf(ret->proc, PATH_MAX, "%s/proc", root) >= PATH_MAX)
		return cs_fail_errno(err, ENAMETOOLONG, "'%.80s'", root);
	return 0;
}

/* Whole percent, and a tenth behind a dot. */
static int parse_permille(const char *text, int64_t *ret)
{
	const char *dot = strchr(text, '.');
	const size_t whole = dot ? (size_t)(dot - text) : strcspn(text, "%");
	uint64_t percent, tenth = 0;
	char digits[8], part[2] = "";

	if (!whole || whole >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, whole);
	digits[whole] = '\0';
	text += whole;
	if (dot) {
		part[0] = dot[1];
		if (!part[0] || cs_parse_u64(part, 9, &tenth) < 0)
			return -EINVAL;
		text += 2;
	}
	if (strcmp(text, "%") != 0 || cs_parse_u64(digits, 100, &percent) < 0)
		return -EINVAL;
	*ret = (int64_t)(percent * 10 + tenth);
	return *ret >= 1 && *ret <= ONE ? 0 : -EINVAL;
}

int cs_ksm_budget(const char *text, int64_t *ret_permille, struct cs_err *err)
{
	if (parse_permille(text, ret_permille) < 0)
		return cs_fail(err, EINVAL,
			       "budget '%.20s': not 0.1%% to 100%% of a core (try 5%%)", text);
	return 0;
}

int cs_ksm_policy_named(const char *name, const struct cs_ksm_policy **ret, struct cs_err *err)
{
	const struct cs_ksm_policy *found = cs_ksm_policy_find(name);
	char names[160] = "";
	size_t used = 0;

	if (found) {
		*ret = found;
		return 0;
	}
	for (const struct cs_ksm_policy *p = cs_ksm_policies; p->name; p++)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
					 used ? ", " : "", p->name);
	return cs_fail(err, EINVAL, "policy '%.40s': there is none (%s)", name, names);
}

struct ksm_options {
	const char *root;
	bool force;
};

enum {
	KEY_ROOT = 0x100,
};

static const struct argp_option status_options[] = {
	{ "root", KEY_ROOT, "DIR", OPTION_HIDDEN, "Folder that stands for /", 1 },
	{ 0 },
};

static const struct argp_option off_options[] = {
	{ "force", 'f', NULL, 0, "Also when the memory that comes apart may not be there", 1 },
	{ "root", KEY_ROOT, "DIR", OPTION_HIDDEN, "Folder that stands for /", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct ksm_options *o = state->input;

	switch (key) {
	case KEY_ROOT:
		o->root = arg;
		return 0;
	case 'f':
		o->force = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': nothing goes here", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- status -------------------------------------------------------------------------------- */

static const struct cs_column columns[] = {
	{ "run", "KSM", CS_CELL_TEXT },
	{ "tuner_pid", "TUNER", CS_CELL_COUNT },
	{ "saved_bytes", "SAVED", CS_CELL_BYTES },
	{ "merged_bytes", "OF MERGED", CS_CELL_BYTES },
	{ "zero_bytes", "OF ZERO PAGES", CS_CELL_BYTES },
	{ "profit", "PROFIT", CS_CELL_TEXT },
	{ "kept_bytes", "KEPT FOR ALL", CS_CELL_BYTES },
	{ "unshared_bytes", "UNIQUE", CS_CELL_BYTES },
	{ "volatile_bytes", "CHANGING", CS_CELL_BYTES },
	{ "scanned_pages", "SCANNED PAGES", CS_CELL_COUNT },
	{ "skipped_pages", "SKIPPED PAGES", CS_CELL_COUNT },
	{ "full_scans", "FULL SCANS", CS_CELL_COUNT },
	{ "cow_pages", "WRITTEN AGAIN", CS_CELL_COUNT },
	{ "ksmd_ms", "CPU TIME", CS_CELL_MS },
	{ "pages_to_scan", "PAGES TO SCAN", CS_CELL_COUNT },
	{ "sleep_ms", "SLEEP", CS_CELL_MS },
	{ "use_zero_pages", "ZERO PAGES", CS_CELL_BOOL },
	{ "smart_scan", "SMART SCAN", CS_CELL_BOOL },
	{ "advisor", "ADVISOR", CS_CELL_TEXT },
	{ "available_bytes", "AVAILABLE", CS_CELL_BYTES },
	{ "missing", "KERNEL LACKS", CS_CELL_TEXT },
};

static void fill(struct cs_report *report, const char *key, int64_t value, uint64_t unit)
{
	uint64_t product;

	if (value != CS_KSM_UNKNOWN && value >= 0 && cs_mul_u64((uint64_t)value, unit, &product))
		cs_report_number(report, key, product);
}

static void fill_sample(struct cs_report *report, const struct cs_ksm_sample *s)
{
	char text[CS_BYTES_TEXT], profit[CS_BYTES_TEXT + 1];
	const uint64_t page = 4096;

	fill(report, "saved_bytes", cs_ksm_saved_pages(s), page);
	fill(report, "merged_bytes", s->pages_sharing, page);
	fill(report, "zero_bytes", s->zero_pages, page);
	fill(report, "kept_bytes", s->pages_shared, page);
	fill(report, "unshared_bytes", s->pages_unshared, page);
	fill(report, "volatile_bytes", s->pages_volatile, page);
	fill(report, "scanned_pages", s->pages_scanned, 1);
	fill(report, "skipped_pages", s->pages_skipped, 1);
	fill(report, "full_scans", s->full_scans, 1);
	fill(report, "cow_pages", s->cow_ksm, 1);
	fill(report, "available_bytes", s->available_bytes, 1);
	if (s->ksmd_us != CS_KSM_UNKNOWN)
		cs_report_real(report, "ksmd_ms", (double)s->ksmd_us / 1000);
	if (s->profit_bytes == CS_KSM_UNKNOWN)
		return;
	snprintf(profit, sizeof(profit), "%s%s", s->profit_bytes < 0 ? "-" : "",
		 cs_format_bytes(s->profit_bytes < 0 ? -(uint64_t)s->profit_bytes
						     : (uint64_t)s->profit_bytes,
				 text));
	cs_report_text(report, "profit", profit);
}

static void fill_setting(struct cs_report *report, const struct cs_ksm_setting *s)
{
	cs_report_text(report, "run",
		       s->run == 1   ? "scans"
		       : s->run == 2 ? "gave all back"
				     : "stands still");
	fill(report, "pages_to_scan", s->pages_to_scan, 1);
	if (s->sleep_ms != CS_KSM_UNKNOWN)
		cs_report_real(report, "sleep_ms", (double)s->sleep_ms);
	fill(report, "use_zero_pages", s->use_zero_pages, 1);
	fill(report, "smart_scan", s->smart_scan, 1);
	if (s->advisor_mode != CS_KSM_UNKNOWN)
		cs_report_text(report, "advisor", s->advisor_mode ? "scan-time" : "none");
}

static void fill_missing(struct cs_report *report, const struct cs_ksm_sample *sample,
			 const struct cs_ksm_setting *setting)
{
	char text[1024], *end;

	cs_ksm_missing(sample, setting, text, sizeof(text));
	for (end = strchr(text, '\n'); end; end = strchr(end + 1, '\n'))
		*end = end[1] ? ';' : '\0';
	if (text[0])
		cs_report_text(report, "missing", text);
}

static int run_status(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct ksm_options *o = options;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct cs_ksm_setting setting;
	struct cs_ksm_sample sample;
	struct cs_ksm_paths paths;
	int r, pid;

	r = cs_ksm_paths(o->root, &paths, err);
	if (r == 0)
		r = cs_ksm_open(paths.ksm, paths.proc, &ksm, err);
	if (r == 0)
		r = cs_ksm_sample(ksm, &sample, err);
	if (r == 0)
		r = cs_ksm_read(ksm, &setting, err);
	if (r == 0)
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	pid = cs_ksm_keep_holder(paths.run);
	if (pid > 0)
		cs_report_number(report, "tuner_pid", (uint64_t)pid);
	fill_setting(report, &setting);
	fill_sample(report, &sample);
	fill_missing(report, &sample, &setting);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static const struct argp status_argp = {
	.options = status_options,
	.parser = parse,
	.doc = "Show what merging saves on this host, what it costs, and how it is set.",
};

static const struct cs_command status = {
	.name = "status",
	.summary = "Show what merging saves and costs",
	.argp = &status_argp,
	.options_bytes = sizeof(struct ksm_options),
	.reports = true,
	.run = run_status,
};

/* ---- off ----------------------------------------------------------------------------------- */

/* Ask the tuner to end, which restores the settings. */
static int stop_tuner(const struct cs_ksm_paths *paths, struct cs_err *err)
{
	const uint64_t end = cs_cmd_now_ms() + STOP_MS;
	const int pid = cs_ksm_keep_holder(paths->run);

	if (pid <= 0)
		return 0;
	if (kill(pid, SIGTERM) < 0 && errno != ESRCH)
		return cs_fail_errno(err, errno, "cannot stop the tuner (process %d)", pid);
	while (cs_ksm_keep_holder(paths->run) == pid) {
		const struct timespec nap = { .tv_nsec = 20000000 };

		if (cs_cmd_now_ms() > end)
			return cs_fail(err, ETIMEDOUT, "the tuner (process %d) does not end", pid);
		nanosleep(&nap, NULL);
	}
	return 0;
}

static int check_room(struct cs_ksm *ksm, struct cs_err *err)
{
	char text[CS_BYTES_TEXT], have[CS_BYTES_TEXT];
	struct cs_ksm_sample sample;
	int64_t saved;
	int r;

	r = cs_ksm_sample(ksm, &sample, err);
	if (r < 0)
		return r;
	saved = cs_ksm_saved_pages(&sample);
	if (sample.available_bytes == CS_KSM_UNKNOWN || saved < sample.available_bytes / 2 / 4096)
		return 0;
	return cs_fail(err, ENOMEM,
		       "what is merged would take %s more, and %s are available (stop guests "
		       "first, or --force)",
		       cs_format_bytes((uint64_t)saved * 4096, text),
		       cs_format_bytes((uint64_t)sample.available_bytes, have));
}

/* All that are enrolled, whatever their domain. */
static int release_guests(struct cs_ksm *ksm, const struct cs_ksm_paths *paths,
			  struct cs_store *store, struct cs_err *err)
{
	const struct cs_ksm_guests_spec spec = {
		.store = store, .proc = paths->proc, .all = true, .only_look = true
	};
	cs_auto(cs_ksm_guests_freep) struct cs_ksm_guests *guests = NULL;
	struct cs_ksm_guests_count before = { 0 }, count = { 0 };
	struct cs_ksm_sample sample;
	int64_t bytes;
	int r;

	r = cs_ksm_sample(ksm, &sample, err);
	if (r == 0)
		r = cs_ksm_guests_create(&spec, &guests, err);
	/* Each look takes in so many; the clock is ours to turn. */
	do {
		before = count;
		sample.at_ms += 10000;
		if (r == 0)
			r = cs_ksm_guests_look(guests, &sample, &bytes, err);
		if (r == 0)
			cs_ksm_guests_count(guests, &count);
	} while (r == 0 && count.running != before.running);
	if (r == 0)
		cs_ksm_guests_release(guests);
	if (r == 0)
		cs_ksm_guests_count(guests, &count);
	if (r == 0 && count.enrolled + count.unsure)
		return cs_fail(err, EBUSY,
			       "%zu guests did not answer, and may still be enrolled (once more)",
			       count.enrolled + count.unsure);
	return r;
}

static int run_off(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct ksm_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_ksm_keep_freep) struct cs_ksm_keep *keep = NULL;
	cs_auto(cs_ksm_freep) struct cs_ksm *ksm = NULL;
	struct cs_ksm_paths paths;
	bool was;
	int r;

	r = cs_ksm_paths(o->root, &paths, err);
	if (r == 0)
		r = cs_ksm_open(paths.ksm, paths.proc, &ksm, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0 && !o->force)
		r = check_room(ksm, err);
	if (r == 0)
		r = stop_tuner(&paths, err);
	if (r == 0)
		r = cs_ksm_keep_open(paths.run, paths.proc, &keep, err);
	if (r == 0)
		r = cs_ksm_keep_restore(keep, ksm, &was, err);
	return r < 0 ? r : release_guests(ksm, &paths, store, err);
}

static const struct argp off_argp = {
	.options = off_options,
	.parser = parse,
	.doc = "Stop the tuner, put KSM's settings back, and give each guest of the store pages of "
	       "its own again.",
};

static const struct cs_command off = {
	.name = "off",
	.summary = "Stop merging, give guests their own pages back",
	.argp = &off_argp,
	.options_bytes = sizeof(struct ksm_options),
	.run = run_off,
};

static const struct cs_command *const members[] = { &status, &cs_cmd_ksm_tune, &off,
						    &cs_cmd_ksm_replay, NULL };

const struct cs_command cs_cmd_ksm = {
	.name = "ksm",
	.summary = "Merge what guests have in common, where it pays",
	.members = members,
};
