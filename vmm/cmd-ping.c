/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ping: does the guest's agent answer, and how fast? */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/base/own.h"
#include "vmm/client.h"
#include "vmm/cmd-spawner.h"
#include "vmm/command.h"

#define COUNT_MAX       1000000
#define TIMEOUT_DEFAULT "5"
#define TIMEOUT_MAX     3600

struct ping_options {
	const char *guest, *count, *timeout;
};

static const struct argp_option options[] = {
	{ "count", 'c', "N", 0, "Ask so many times (default: 1)", 1 },
	{ "timeout", 't', "SECONDS", 0, "Wait so long for an answer (default: " TIMEOUT_DEFAULT ")",
	  1 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct ping_options *o = state->input;

	switch (key) {
	case 'c':
		o->count = arg;
		return 0;
	case 't':
		o->timeout = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (o->guest)
			argp_error(state, "one guest only");
		o->guest = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no guest given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct cs_column columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },
	{ "ms", "ANSWERED IN", CS_CELL_MS },
};

/* People see each answer as it comes, programs get them all at the end. */
static int ask(const struct cs_cmd_guest *guest, unsigned timeout_ms, struct cs_report *report,
	       bool json, struct cs_err *err)
{
	uint64_t us;
	int r;

	r = cs_client_ping(guest->dirfd, timeout_ms, &us, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", guest->card->guest);
	cs_report_row(report);
	cs_report_text(report, "name", guest->card->guest);
	cs_report_real(report, "ms", (double)us / 1000);
	if (!json) {
		printf("%s answered in %" PRIu64 ".%03" PRIu64 " ms\n", guest->card->guest,
		       us / 1000, us % 1000);
		fflush(stdout);
	}
	return 0;
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	const struct ping_options *o = opts;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	uint64_t count = 1, seconds;
	int r;

	if (o->count) {
		r = cs_cmd_number("count", o->count, 1, COUNT_MAX, &count, err);
		if (r < 0)
			return r;
	}
	r = cs_cmd_number("timeout", o->timeout ? o->timeout : TIMEOUT_DEFAULT, 1, TIMEOUT_MAX,
			  &seconds, err);
	if (r < 0)
		return r;
	cs_spawner_prepare();
	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_cmd_guest_awake(store, o->guest, &guest, err);
	if (r < 0)
		return r;
	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	for (uint64_t i = 0; i < count && r == 0; i++)
		r = ask(&guest, (unsigned)seconds * 1000, report, globals->json, err);
	if (r < 0)
		return r;
	return globals->json ? cs_cmd_print(globals, report, CS_FORMAT_JSON, err) : 0;
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "GUEST",
	.doc = "Ask a guest's agent for a sign of life. It answers by itself, no process is "
	       "started "
	       "in the guest.",
};

const struct cs_command cs_cmd_ping = {
	.name = "ping",
	.summary = "Ask a guest for a sign of life",
	.argp = &argp,
	.options_bytes = sizeof(struct ping_options),
	.reports = true,
	.run = run,
};
