/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* list and show: what guests there are, what one is and costs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ksm/ksm.h"
#include "ksm/meter.h"
#include "store/base/own.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"
#include "vmm/control.h"

#define CALL_MS  2000
#define N(array) (sizeof(array) / sizeof((array)[0]))

/* What list shows people. */
#define BRIEF_COLUMNS                                                                              \
	{ "name", "NAME", CS_CELL_TEXT }, { "template", "TEMPLATE", CS_CELL_TEXT },                \
		{ "state", "STATE", CS_CELL_TEXT }, { "pid", "PID", CS_CELL_COUNT },               \
		{ "ram_bytes", "MEMORY", CS_CELL_BYTES }, { "vcpus", "VCPUS", CS_CELL_COUNT },     \
		{ "started", "STARTED", CS_CELL_TIME },                                            \
	{                                                                                          \
		"command", "COMMAND", CS_CELL_TEXT                                                 \
	}

/* What it tells programs besides, and what show tells both. */
#define WIDE_COLUMNS                                                                               \
	{ "version", "VERSION", CS_CELL_TEXT }, { "created", "CREATED", CS_CELL_TIME },            \
		{ "persist", "PERSIST", CS_CELL_BOOL }, { "disk_bytes", "DISK", CS_CELL_BYTES },   \
		{ "init", "INIT", CS_CELL_BOOL }, { "environment", "ENVIRONMENT", CS_CELL_TEXT },  \
		{ "append", "APPEND", CS_CELL_TEXT },                                              \
		{ "share_domain", "SHARE DOMAIN", CS_CELL_TEXT },                                  \
		{ "exit_status", "EXIT STATUS", CS_CELL_COUNT },                                   \
	{                                                                                          \
		"stop_reason", "STOPPED BY", CS_CELL_TEXT                                          \
	}

#define COST_COLUMNS                                                                               \
	{ "machine", "MACHINE", CS_CELL_TEXT }, { "target_bytes", "TARGET", CS_CELL_BYTES },       \
		{ "actual_bytes", "ACTUAL", CS_CELL_BYTES },                                       \
		{ "reported_bytes", "GIVEN BACK", CS_CELL_BYTES },                                 \
		{ "disk_waits", "DISK WAITS", CS_CELL_BOOL },                                      \
		{ "rss_bytes", "RSS", CS_CELL_BYTES }, { "pss_bytes", "PSS", CS_CELL_BYTES },      \
		{ "private_dirty_bytes", "PRIVATE DIRTY", CS_CELL_BYTES },                         \
		{ "private_bytes", "PRIVATE", CS_CELL_BYTES },                                     \
		{ "enrolled", "ENROLLED", CS_CELL_BOOL },                                          \
		{ "merged_bytes", "MERGED", CS_CELL_BYTES },                                       \
		{ "zero_bytes", "ZERO PAGES", CS_CELL_BYTES },                                     \
		{ "shared_bytes", "SHARED", CS_CELL_BYTES },                                       \
		{ "page_table_bytes", "PAGE TABLES", CS_CELL_BYTES },                              \
		{ "cpu_ms", "CPU TIME", CS_CELL_MS },                                              \
	{                                                                                          \
		"folder", "FOLDER", CS_CELL_TEXT                                                   \
	}

static const struct cs_column brief_columns[] = { BRIEF_COLUMNS };
static const struct cs_column wide_columns[] = { BRIEF_COLUMNS, WIDE_COLUMNS };
static const struct cs_column show_columns[] = { BRIEF_COLUMNS, WIDE_COLUMNS, COST_COLUMNS };

/* Words with blanks between them; NULL: there are none. */
static char *join(char *const *words)
{
	size_t bytes = 1;
	char *text, *to;

	for (char *const *w = words; w && *w; w++)
		bytes += strlen(*w) + 1;
	text = words && *words ? malloc(bytes) : NULL;
	if (!text)
		return NULL;
	to = text;
	for (char *const *w = words; *w; w++) {
		if (w != words)
			*to++ = ' ';
		memcpy(to, *w, strlen(*w));
		to += strlen(*w);
	}
	*to = '\0';
	return text;
}

/* For people the template is NAME@VERSION, for programs each has its own member. */
static void fill_brief(struct cs_report *report, const struct cs_card *card, bool json)
{
	cs_auto(cs_mem_freep) char *command = join(card->command);
	char template[sizeof(card->template) + sizeof(card->version)];

	cs_report_row(report);
	cs_report_text(report, "name", card->guest);
	cs_report_text(report, "state", card->paused ? "paused" : cs_cmd_state_name(card->state));
	if (card->state == CS_GUEST_BROKEN)
		return;
	snprintf(template, sizeof(template), "%s%s%s", card->template, json ? "" : "@",
		 json ? "" : card->version);
	cs_report_text(report, "template", template);
	if (card->state == CS_GUEST_RUNNING)
		cs_report_number(report, "pid", (uint64_t)card->pid);
	cs_report_number(report, "ram_bytes", card->ram_bytes);
	cs_report_number(report, "vcpus", card->vcpus);
	if (card->started)
		cs_report_number(report, "started", (uint64_t)card->started);
	cs_report_text(report, "command", command);
}

static void fill_wide(struct cs_report *report, const struct cs_card *card)
{
	cs_auto(cs_mem_freep) char *environment = join(card->env);

	if (card->state == CS_GUEST_BROKEN)
		return;
	cs_report_text(report, "version", card->version);
	cs_report_number(report, "created", (uint64_t)card->created);
	cs_report_number(report, "persist", card->persist);
	if (card->persist)
		cs_report_number(report, "disk_bytes", card->disk_bytes);
	cs_report_number(report, "init", card->run_init);
	cs_report_text(report, "environment", environment);
	cs_report_text(report, "append", card->append);
	if (card->share_domain[0])
		cs_report_text(report, "share_domain", card->share_domain);
	if (card->exit_status >= 0)
		cs_report_number(report, "exit_status", (uint64_t)card->exit_status);
	if (card->stop_reason[0])
		cs_report_text(report, "stop_reason", card->stop_reason);
}

/* "state=ready vcpus=1 target_bytes=134217728": the word behind state, and the balloon. */
static void fill_machine(struct cs_report *report, int dirfd)
{
	static const char *const keys[] = { "target_bytes", "actual_bytes", "reported_bytes",
					    "enrolled", "disk_waits" };
	cs_auto(cs_mem_freep) char *status = NULL;
	uint64_t value;

	if (cs_control_call(dirfd, "status", CALL_MS, &status, NULL) < 0 ||
	    strncmp(status, "state=", 6) != 0) {
		cs_report_text(report, "machine", "does not answer");
		return;
	}
	for (size_t i = 0; i < N(keys); i++) {
		if (cs_cmd_status_number(status, keys[i], &value) == 0)
			cs_report_number(report, keys[i], value);
	}
	status[6 + strcspn(status + 6, " ")] = '\0';
	cs_report_text(report, "machine", status + 6);
}

/* A guest that ends just now has no cost any more: then it is left out. */
static void fill_cost(struct cs_report *report, const struct cs_card *card)
{
	struct cs_meter_merging merging = { CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN,
					    CS_KSM_UNKNOWN };
	struct cs_meter_process cost;
	struct cs_meter_guest sums;

	if (cs_meter_process("/proc", card->pid, &cost, NULL) < 0)
		return;
	cs_report_number(report, "rss_bytes", cost.rss_bytes);
	cs_report_number(report, "pss_bytes", cost.pss_bytes);
	cs_report_number(report, "private_dirty_bytes", cost.private_dirty_bytes);
	cs_meter_merging("/proc", card->pid, &merging);
	sums = cs_meter_guest_of(&cost, &merging);
	cs_report_number(report, "private_bytes", sums.private_bytes);
	cs_report_number(report, "merged_bytes", sums.merged_bytes);
	cs_report_number(report, "zero_bytes", sums.zero_bytes);
	cs_report_number(report, "shared_bytes", sums.shared_bytes);
	cs_report_number(report, "page_table_bytes", cost.page_table_bytes);
	cs_report_number(report, "cpu_ms", cost.cpu_ms);
}

/* ---- list ---------------------------------------------------------------------------------- */

struct list_options {
	bool quiet, running;
};

static const struct argp_option list_options[] = {
	{ "quiet", 'q', NULL, 0, "Names only, one a line", 1 },
	{ "running", 'r', NULL, 0, "Only those that run", 1 },
	{ 0 },
};

static error_t parse_list(int key, char *arg, struct argp_state *state)
{
	struct list_options *o = state->input;

	switch (key) {
	case 'q':
		o->quiet = true;
		return 0;
	case 'r':
		o->running = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

struct listing {
	const struct list_options *options;
	struct cs_report *report;
	bool wide;
};

static int list_guest(const struct cs_card *card, void *arg)
{
	const struct listing *listing = arg;

	if (listing->options->running && card->state != CS_GUEST_RUNNING)
		return 0;
	if (listing->options->quiet) {
		puts(card->guest);
		return 0;
	}
	fill_brief(listing->report, card, listing->wide);
	if (listing->wide)
		fill_wide(listing->report, card);
	return 0;
}

static int run_list(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct listing listing = { .options = options, .wide = globals->json };
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = listing.wide ? cs_report_open(wide_columns, N(wide_columns), &report, err)
			 : cs_report_open(brief_columns, N(brief_columns), &report, err);
	if (r < 0)
		return r;
	listing.report = report;
	r = cs_card_each(store, list_guest, &listing, err);
	if (r < 0 || listing.options->quiet)
		return r;
	return cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp list_argp = {
	.options = list_options,
	.parser = parse_list,
	.doc = "List all guests, those that run and those that do not.",
};

const struct cs_command cs_cmd_list = {
	.name = "list",
	.summary = "List guests",
	.argp = &list_argp,
	.options_bytes = sizeof(struct list_options),
	.reports = true,
	.run = run_list,
};

/* ---- show ---------------------------------------------------------------------------------- */

struct show_options {
	const char *guest;
};

static error_t parse_show(int key, char *arg, struct argp_state *state)
{
	struct show_options *o = state->input;

	switch (key) {
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

static int run_show(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct show_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	cs_auto(cs_mem_freep) char *folder = NULL;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	r = cs_cmd_guest_open(store, o->guest, &guest, err);
	if (r < 0)
		return r;
	r = cs_report_open(show_columns, N(show_columns), &report, err);
	if (r < 0)
		return r;
	fill_brief(report, guest.card, globals->json);
	fill_wide(report, guest.card);
	if (guest.card->state == CS_GUEST_RUNNING) {
		fill_machine(report, guest.dirfd);
		fill_cost(report, guest.card);
	}
	if (asprintf(&folder, "%s/guests/%s", cs_store_root(store), guest.card->guest) < 0)
		return cs_fail_errno(err, ENOMEM, "guest '%s'", o->guest);
	cs_report_text(report, "folder", folder);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static const struct argp show_argp = {
	.parser = parse_show,
	.args_doc = "GUEST",
	.doc = "Show what a guest is and what it costs the host."
	       "\vPSS counts memory that is shared by its part; PRIVATE DIRTY is what would come "
	       "back if the guest ended. FOLDER holds its sockets and logs.\n",
};

const struct cs_command cs_cmd_show = {
	.name = "show",
	.summary = "Show what a guest is and costs",
	.argp = &show_argp,
	.options_bytes = sizeof(struct show_options),
	.reports = true,
	.run = run_show,
};
