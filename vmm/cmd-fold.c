/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fold: take back what a guest wrote and that is as it was before. */
#include "vmm/cmd-guest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "vmm/command.h"
#include "vmm/control.h"

/* All of its memory is looked at, a bit at a time: a second or so for a GiB. */
#define FOLD_TIMEOUT_MS 120000

static const struct cs_column columns[] = {
	{ "guest", "GUEST", CS_CELL_TEXT },
	{ "looked_bytes", "ITS OWN", CS_CELL_BYTES },
	{ "folded_bytes", "GIVEN BACK", CS_CELL_BYTES },
	{ "stops", "STOPS", CS_CELL_COUNT },
	{ "longest_ms", "LONGEST", CS_CELL_MS },
	{ "total_ms", "ALTOGETHER", CS_CELL_MS },
};

static int fold(const struct cs_cmd_guest *guest, struct cs_report *report, struct cs_err *err)
{
	uint64_t looked, folded, stops, longest_us, total_us;
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = cs_control_call(guest->dirfd, "fold", FOLD_TIMEOUT_MS, &text, err);
	if (r < 0)
		return r;
	if (sscanf(text,
		   "looked=%" SCNu64 " folded=%" SCNu64 " stops=%" SCNu64 " longest_us=%" SCNu64
		   " total_us=%" SCNu64,
		   &looked, &folded, &stops, &longest_us, &total_us) != 5)
		return cs_fail(err, EPROTO, "its monitor is of another version (restart it)");
	cs_report_row(report);
	cs_report_text(report, "guest", guest->card->guest);
	cs_report_number(report, "looked_bytes", looked * 4096);
	cs_report_number(report, "folded_bytes", folded * 4096);
	cs_report_number(report, "stops", stops);
	cs_report_real(report, "longest_ms", (double)longest_us / 1000);
	cs_report_real(report, "total_ms", (double)total_us / 1000);
	return 0;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	struct cs_guests_options *o = options;
	cs_auto(cs_words_freep) struct cs_words names = o->names;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	cs_auto(cs_guests_closep) struct cs_guests guests = { 0 };
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_guests_open(store, o, CS_GUESTS_RUNNING, &guests, err);
	if (r == 0)
		r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < guests.n; i++) {
		struct cs_err failure = { 0 };

		if (guests.v[i].card->state != CS_GUEST_RUNNING)
			r = cs_fail(&failure, ESRCH, "does not run");
		else
			r = fold(&guests.v[i], report, &failure);
		if (r < 0)
			cs_guests_failed(&guests, &guests.v[i], &failure);
	}
	r = cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
	if (r < 0)
		return r;
	return guests.failures ? EXIT_FAILURE : 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	state->child_inputs[0] = state->input;
	return 0;
}

static const struct argp_child children[] = {
	{ &cs_guests_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp argp = {
	.parser = parse,
	.args_doc = "GUEST...",
	.doc = "Take back pages that guests wrote and that are as they were before: equal to the "
	       "template's saved memory, or, of guests that were booted, zero."
	       "\vThe guests run on, but for stops of about a millisecond. They find the same in "
	       "their "
	       "memory as before, and no other guest is involved.\n",
	.children = children,
};

const struct cs_command cs_cmd_fold = {
	.name = "fold",
	.summary = "Take back what guests wrote without changing it",
	.argp = &argp,
	.options_bytes = sizeof(struct cs_guests_options),
	.reports = true,
	.run = run,
};
