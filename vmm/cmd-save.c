/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* save: a running guest becomes a template, and goes on. */
#include "vmm/cmd-save.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "store/manifest.h"
#include "store/template.h"
#include "vmm/cmd-up.h"
#include "vmm/command.h"
#include "vmm/control.h"

/* Freezing a busy guest, and writing all of its memory to a slow disk. */
#define SAVE_TIMEOUT_MS 600000

/* ---- what both commands do ------------------------------------------------------------------ */

struct files {
	int fd[3]; /* memory, state, disk */
	size_t n;
};

static void files_close(struct files *files)
{
	for (size_t i = 0; i < files->n; i++)
		cs_fd_closep(&files->fd[i]);
}

/* Of a guest that was resumed, the memory is what it was resumed from: only what it has changed is
 * written. */
static int open_files(const struct cs_card *card, struct cs_draft *draft, struct files *files,
		      struct cs_err *err)
{
	static const enum cs_part parts[] = { CS_PART_MEMORY, CS_PART_STATE, CS_PART_DISK };
	const size_t n = card->persist ? 3 : 2;

	for (size_t i = 0; i < n; i++) {
		const bool keep = parts[i] == CS_PART_MEMORY && card->resume;
		int r = cs_draft_open_part(draft, parts[i], keep, &files->fd[i], err);

		if (r < 0)
			return r;
		files->n++;
	}
	return 0;
}

/* "pause_us=812 pages=9123 bytes=37367808" */
static int read_result(const char *text, struct cs_save_result *ret, struct cs_err *err)
{
	if (sscanf(text, "pause_us=%" SCNu64 " pages=%" SCNu64 " bytes=%" SCNu64, &ret->pause_us,
		   &ret->pages, &ret->bytes) != 3)
		return cs_fail(err, EPROTO, "its monitor is of another version (restart it)");
	return 0;
}

static int seal(const struct cs_card *card, struct cs_draft *draft, struct cs_err *err)
{
	struct cs_manifest *manifest = cs_draft_manifest(draft);
	int r;

	r = cs_draft_seal_part(draft, CS_PART_MEMORY, err);
	if (r == 0)
		r = cs_draft_seal_part(draft, CS_PART_STATE, err);
	if (r == 0 && card->persist)
		r = cs_draft_seal_part(draft, CS_PART_DISK, err);
	manifest->created = time(NULL);
	manifest->saved = (struct cs_manifest_saved){
		.present = true,
		.ram_bytes = card->ram_bytes,
		.vcpus = card->vcpus,
		.disk = card->persist,
	};
	return r;
}

int cs_cmd_save(const struct cs_cmd_guest *guest, struct cs_draft *draft, const char *words,
		struct cs_save_result *ret, struct cs_err *err)
{
	cs_auto(files_close) struct files files = { .n = 0 };
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = open_files(guest->card, draft, &files, err);
	if (r < 0)
		return r;
	r = cs_control_save(guest->dirfd, files.fd, files.n, words, SAVE_TIMEOUT_MS, &text, err);
	if (r == 0)
		r = read_result(text, ret, err);
	if (r < 0)
		return cs_fail_in(err, r, "guest '%s'", guest->card->guest);
	return seal(guest->card, draft, err);
}

/* ---- save ----------------------------------------------------------------------------------- */

struct save_options {
	struct cs_up_options up;
	const char *guest, *template;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct save_options *o = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &o->up;
		return 0;
	case ARGP_KEY_ARG:
		if (!o->guest)
			o->guest = arg;
		else if (!o->template)
			o->template = arg;
		else
			argp_error(state, "'%s': a guest and the name of a template, no more", arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->guest)
			argp_error(state, "no guest given");
		else if (!o->template)
			argp_error(state, "no name given for the template");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct cs_column columns[] = {
	{ "template", "TEMPLATE", CS_CELL_TEXT },
	{ "guest", "GUEST", CS_CELL_TEXT },
	{ "pause_ms", "PAUSED FOR", CS_CELL_MS },
	{ "written_bytes", "WRITTEN", CS_CELL_BYTES },
};

static int print_saved(const struct cs_globals *globals, const struct save_options *o,
		       const struct cs_save_result *result, struct cs_err *err)
{
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "template", o->template);
	cs_report_text(report, "guest", o->guest);
	cs_report_real(report, "pause_ms", (double)result->pause_us / 1000);
	cs_report_number(report, "written_bytes", result->bytes);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static int save_as(struct cs_store *store, const struct cs_cmd_guest *guest, const char *name,
		   struct cs_save_result *ret, struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *from = NULL;
	cs_auto(cs_draft_freep) struct cs_draft *draft = NULL;
	char of[sizeof(guest->card->template) + sizeof(guest->card->version)];
	int r;

	snprintf(of, sizeof(of), "%s@%s", guest->card->template, guest->card->version);
	r = cs_template_open(store, of, &from, err);
	if (r < 0)
		return r;
	r = cs_draft_create(store, name, from, &draft, err);
	if (r == 0)
		r = cs_cmd_save(guest, draft, "sync", ret, err);
	if (r == 0)
		r = cs_draft_publish(draft, NULL, err);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", name) : 0;
}

static int run(const struct cs_globals *globals, void *opts, struct cs_err *err)
{
	const struct save_options *o = opts;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_cmd_guest_closep) struct cs_cmd_guest guest = { .dirfd = -1 };
	struct cs_save_result result;
	uint64_t end_ms = 0;
	int r;

	r = cs_up_end(&o->up, &end_ms, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_cmd_guest_running(store, o->guest, &guest, err);
	if (r == 0)
		cs_up_wait(&guest, end_ms);
	if (r == 0)
		r = save_as(store, &guest, o->template, &result, err);
	return r < 0 ? r : print_saved(globals, o, &result, err);
}

static const struct argp_child children[] = {
	{ &cs_up_argp, 0, NULL, 0 },
	{ 0 },
};

static const struct argp argp = {
	.parser = parse,
	.children = children,
	.args_doc = "GUEST TEMPLATE",
	.doc = "Make a template of a running guest, as it is now: memory, and its disk when it has "
	       "one. The guest goes on after a pause of milliseconds."
	       "\vGuests spawned of it go on where this one stood, each as itself: with its own "
	       "name, clock and random numbers. Programs that keep random numbers of their own "
	       "should read docs/wake.md.\n",
};

const struct cs_command cs_cmd_save_guest = {
	.name = "save",
	.summary = "Make a template of a running guest, which goes on",
	.argp = &argp,
	.options_bytes = sizeof(struct save_options),
	.reports = true,
	.run = run,
};
