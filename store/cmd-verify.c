/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template verify, scrub: is what is shared still what was added? */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/progress.h"
#include "store/base/report.h"
#include "store/cmd-template.h"
#include "store/manifest.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* ioprio_set(2), which has no header: only when nobody else wants the disk. */
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE        (3 << 13)

struct verify_options {
	const char *name;
	bool all;
};

static const struct cs_column columns[] = {
	{ "template", "TEMPLATE", CS_CELL_TEXT }, { "version", "VERSION", CS_CELL_TEXT },
	{ "parts", "PARTS", CS_CELL_COUNT },      { "bytes", "READ", CS_CELL_BYTES },
	{ "whole", "WHOLE", CS_CELL_BOOL },       { "why", "WHY", CS_CELL_TEXT },
};

struct walk {
	struct cs_store *store;
	struct cs_report *report;
	struct cs_progress *progress;
	bool medium; /* past the page cache */
	unsigned damaged;
	struct cs_err *err;
	const char *name;
};

static void report_row(const struct walk *walk, const char *name, const char *version,
		       const char *why)
{
	cs_report_row(walk->report);
	cs_report_text(walk->report, "template", name);
	cs_report_text(walk->report, "version", version);
	cs_report_number(walk->report, "whole", !why);
	cs_report_text(walk->report, "why", why);
}

/* Verify the version that (t) is. 0, whatever is found; -errno: it could not be looked at. */
static int verify_one(struct walk *walk, const struct cs_template *t)
{
	const struct cs_manifest *manifest = cs_template_manifest(t);
	struct cs_err why = { 0 };
	uint64_t bytes = 0;
	unsigned parts = 0;
	int r;

	for (int part = 0; part < CS_PART_MAX; part++) {
		parts += manifest->part[part].present;
		bytes += part == CS_PART_DISK ? 0 : manifest->part[part].bytes;
	}
	cs_progress_step(walk->progress, cs_template_name(t));
	r = cs_template_scrub(walk->store, t, walk->medium, walk->progress, &why);
	report_row(walk, cs_template_name(t), cs_template_version(t), r < 0 ? why.text : NULL);
	cs_report_number(walk->report, "parts", parts);
	cs_report_number(walk->report, "bytes", bytes);
	if (r < 0 && !walk->damaged++)
		*walk->err = why;
	return 0;
}

static int verify_name(struct walk *walk, const char *name)
{
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	int r;

	r = cs_template_open_any(walk->store, name, &t, walk->err);
	return r < 0 ? r : verify_one(walk, t);
}

static int verify_version(const struct cs_version *version, void *arg)
{
	struct walk *walk = arg;
	char whole[2 * CS_VERSION_TEXT];
	struct cs_err before = *walk->err;

	snprintf(whole, sizeof(whole), "%s@%s", walk->name, version->version);
	if (verify_name(walk, whole) == 0)
		return 0;
	/* it cannot even be opened */
	report_row(walk, walk->name, version->version, walk->err->text);
	if (walk->damaged++)
		*walk->err = before;
	return 0;
}

static int verify_template(const char *name, const struct cs_template *t,
			   const struct cs_err *broken, void *arg)
{
	struct walk *walk = arg;
	struct cs_err gone = { 0 };
	int r;

	walk->name = name;
	r = cs_version_each(walk->store, name, verify_version, walk, &gone);
	if (r < 0 && r != -ENOENT)
		*walk->err = gone;
	return r == -ENOENT ? 0 : r;
}

/* Of all versions, or of the one called (name). */
static int walk_all(const struct cs_globals *globals, struct walk *walk, const char *name)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_progress_freep) struct cs_progress *progress = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct cs_err printing = { 0 };
	int r, printed;

	r = cs_cmd_store_open(globals, &store, walk->err);
	if (r == 0)
		r = cs_report_open(columns, N(columns), &report, walk->err);
	if (r < 0)
		return r;
	progress = cs_progress_open("verifying", 0);
	walk->store = store;
	walk->report = report;
	walk->progress = progress;
	r = name ? verify_name(walk, name)
		 : cs_template_each(store, verify_template, walk, walk->err);
	progress = cs_progress_free(progress);
	if (r < 0)
		return r;
	printed = cs_cmd_print(globals, report, CS_FORMAT_TABLE, &printing);
	if (walk->damaged)
		return -EBADMSG;
	if (printed < 0)
		*walk->err = printing;
	return printed;
}

static error_t parse_verify(int key, char *arg, struct argp_state *state)
{
	struct verify_options *o = state->input;

	switch (key) {
	case 'a':
		o->all = true;
		return 0;
	case ARGP_KEY_ARG:
		if (o->name)
			argp_error(state, "one template only");
		o->name = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->name && !o->all)
			argp_error(state, "no template given");
		if (o->name && o->all)
			argp_error(state, "a template or --all, not both");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run_verify(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct verify_options *o = options;
	struct walk walk = { .err = err };

	return walk_all(globals, &walk, o->name);
}

static const struct argp_option verify_options[] = {
	{ "all", 'a', NULL, 0, "All versions of all templates", 1 },
	{ 0 },
};

static const struct argp verify_argp = {
	.options = verify_options,
	.parser = parse_verify,
	.args_doc = "TEMPLATE",
	.doc = "Read every part of a template again and compare it with its SHA-256."
	       "\vWhat is damaged comes into quarantine: no guest is spawned from it. What is "
	       "whole again comes out. TEMPLATE may be NAME@VERSION.\n",
};

const struct cs_command cs_cmd_template_verify = {
	.name = "verify",
	.summary = "Check a template against its digests",
	.argp = &verify_argp,
	.options_bytes = sizeof(struct verify_options),
	.reports = true,
	.run = run_verify,
};

/* ---- scrub ---- */

static error_t parse_scrub(int key, char *arg, struct argp_state *state)
{
	return ARGP_ERR_UNKNOWN;
}

static int run_scrub(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	struct walk walk = { .err = err, .medium = true };

	/* refused or unknown: then it is as fast as others */
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
	setpriority(PRIO_PROCESS, 0, 19);
	return walk_all(globals, &walk, NULL);
}

static const struct argp scrub_argp = {
	.parser = parse_scrub,
	.doc = "Read all versions of all templates from the disk and compare them with their "
	       "SHA-256, at the lowest priority."
	       "\vThe page cache is passed by: neither do pages in it hide what is on the disk, "
	       "nor "
	       "does reading push others out. What is damaged comes into quarantine. For a timer, "
	       "once a week.\n",
};

const struct cs_command cs_cmd_scrub = {
	.name = "scrub",
	.summary = "Check all templates against their digests, in the background",
	.argp = &scrub_argp,
	.options_bytes = 0,
	.reports = true,
	.run = run_scrub,
};
