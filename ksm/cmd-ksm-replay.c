/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm replay: what would a policy have done with what was recorded? */
#include "ksm/cmd-ksm.h"

#include <errno.h>
#include <stdio.h>

#include "ksm/replay.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"

struct replay_options {
	const char *trace, *policy, *budget;
};

enum {
	KEY_BUDGET = 0x100,
	KEY_POLICY,
};

static const struct argp_option replay_options[] = {
	{ "policy", KEY_POLICY, "NAME", 0, "This policy (default: all)", 1 },
	{ "budget", KEY_BUDGET, "PERCENT", 0, "CPU time of a core for it (default: 5%)", 1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct replay_options *o = state->input;

	switch (key) {
	case KEY_POLICY:
		o->policy = arg;
		return 0;
	case KEY_BUDGET:
		o->budget = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (o->trace)
			argp_error(state, "one trace only");
		o->trace = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no trace given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct cs_column columns[] = {
	{ "policy", "POLICY", CS_CELL_TEXT },
	{ "saved_bytes", "SAVED", CS_CELL_BYTES },
	{ "possible_bytes", "OF", CS_CELL_BYTES },
	{ "mean_bytes", "MEAN", CS_CELL_BYTES },
	{ "to_90_ms", "TO 90 %", CS_CELL_MS },
	{ "ksmd_ms", "CPU TIME", CS_CELL_MS },
	{ "bytes_per_cpu_second", "PER CPU SECOND", CS_CELL_BYTES },
	{ "passes", "PASSES", CS_CELL_COUNT },
	{ "changes", "CHANGES", CS_CELL_COUNT },
	{ "ms", "TIME", CS_CELL_MS },
};

static int add(struct cs_report *report, const struct cs_ksm_trace *trace,
	       const struct cs_ksm_policy *policy, const struct cs_ksm_limits *limits,
	       struct cs_err *err)
{
	struct cs_ksm_replay got;
	int r;

	r = cs_ksm_replay(trace, policy, limits, &got, NULL, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "policy", policy->name);
	cs_report_number(report, "saved_bytes", (uint64_t)got.saved_pages * 4096);
	cs_report_number(report, "possible_bytes", (uint64_t)got.possible_pages * 4096);
	cs_report_number(report, "mean_bytes", (uint64_t)got.mean_pages * 4096);
	if (got.to_90_ms >= 0)
		cs_report_real(report, "to_90_ms", (double)got.to_90_ms);
	cs_report_real(report, "ksmd_ms", (double)got.ksmd_us / 1000);
	if (got.ksmd_us)
		cs_report_number(
			report, "bytes_per_cpu_second",
			(uint64_t)((double)got.saved_pages * 4096 * 1e6 / (double)got.ksmd_us));
	cs_report_number(report, "passes", (uint64_t)got.passes);
	cs_report_number(report, "changes", (uint64_t)got.changes);
	cs_report_real(report, "ms", (double)got.ms);
	return 0;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct replay_options *o = options;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	cs_auto(cs_ksm_trace_clear) struct cs_ksm_trace trace = { .n = 0 };
	struct cs_ksm_limits limits = CS_KSM_LIMITS_DEFAULT;
	const struct cs_ksm_policy *policy = NULL;
	int r = 0;

	if (o->policy)
		r = cs_ksm_policy_named(o->policy, &policy, err);
	if (r == 0 && o->budget)
		r = cs_ksm_budget(o->budget, &limits.budget_permille, err);
	if (r == 0)
		r = cs_ksm_trace_read(o->trace, &trace, err);
	if (r == 0)
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r == 0 && policy)
		r = add(report, &trace, policy, &limits, err);
	for (const struct cs_ksm_policy *p = cs_ksm_policies; p->name && !policy && r == 0; p++)
		r = add(report, &trace, p, &limits, err);
	return r < 0 ? r : cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp replay_argp = {
	.options = replay_options,
	.parser = parse,
	.args_doc = "FILE",
	.doc = "Say what policies would have saved, and for how much CPU time, with what ksm tune "
	       "--trace wrote down. Nothing of the host is touched."
	       "\vHow much is alike is learned from the most that was ever saved in the trace: "
	       "record it with --policy unlimited.\n",
};

const struct cs_command cs_cmd_ksm_replay = {
	.name = "replay",
	.summary = "Judge policies by a recorded trace",
	.argp = &replay_argp,
	.options_bytes = sizeof(struct replay_options),
	.reports = true,
	.run = run,
};
