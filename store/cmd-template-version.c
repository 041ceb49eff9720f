/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template versions, activate, rollback, prune: which version new guests get, and which stay. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cow/card.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/report.h"
#include "store/cmd-template.h"
#include "store/manifest.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define N(array)     (sizeof(array) / sizeof((array)[0]))
#define KEEP_DEFAULT "3"
#define KEEP_MAX     1000000

struct version_options {
	const char *name, *version, *keep;
	bool quiet;
};

/* A name without a version: "web@2" would say it twice. */
static int check_name(const char *text, struct cs_err *err)
{
	char name[CS_VERSION_TEXT], version[CS_VERSION_TEXT];
	int r;

	r = cs_template_split(text, name, version, err);
	if (r == 0 && version[0])
		return cs_fail(err, EINVAL, "template '%s': give the name without a version", text);
	return r;
}

static error_t parse_name(int key, char *arg, struct argp_state *state)
{
	struct version_options *o = state->input;

	switch (key) {
	case 'q':
		o->quiet = true;
		return 0;
	case 'k':
		o->keep = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (o->name)
			argp_error(state, "one template only");
		o->name = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no template given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- versions ---- */

static const struct cs_column columns[] = {
	{ "version", "VERSION", CS_CELL_TEXT },      { "active", "ACTIVE", CS_CELL_BOOL },
	{ "parent", "FROM", CS_CELL_TEXT },          { "saved", "WARM", CS_CELL_BOOL },
	{ "stored_bytes", "STORED", CS_CELL_BYTES }, { "shared_bytes", "SHARED", CS_CELL_BYTES },
	{ "guests", "GUESTS", CS_CELL_COUNT },       { "created", "CREATED", CS_CELL_TIME },
	{ "broken", "BROKEN", CS_CELL_TEXT },
};

struct listing {
	const char *name;
	struct cs_store *store;
	struct cs_report *report;
	bool quiet, broken;
	const char *version; /* whose guests are being counted */
	uint64_t guests;
};

static int count_guest(const struct cs_card *card, void *arg)
{
	struct listing *listing = arg;

	listing->guests += card->state != CS_GUEST_BROKEN &&
			   strcmp(card->template, listing->name) == 0 &&
			   strcmp(card->version, listing->version) == 0;
	return 0;
}

static int add_version(const struct cs_version *version, void *arg)
{
	struct listing *listing = arg;
	struct cs_report *report = listing->report;
	const struct cs_manifest *manifest;
	uint64_t stored = 0;

	if (listing->quiet) {
		puts(version->version);
		return 0;
	}
	cs_report_row(report);
	cs_report_text(report, "version", version->version);
	cs_report_number(report, "active", version->active);
	listing->version = version->version;
	listing->guests = 0;
	if (cs_card_each(listing->store, count_guest, listing, NULL) == 0)
		cs_report_number(report, "guests", listing->guests);
	if (!version->t) {
		cs_report_text(report, "broken", version->broken->text);
		return 0;
	}
	manifest = cs_template_manifest(version->t);
	for (int part = 0; part < CS_PART_MAX; part++)
		stored += manifest->part[part].stored_bytes;
	cs_report_text(report, "parent", manifest->parent[0] ? manifest->parent : NULL);
	cs_report_number(report, "saved", manifest->saved.present);
	cs_report_number(report, "stored_bytes", stored);
	if (manifest->parent[0])
		cs_report_number(report, "shared_bytes", manifest->shared_bytes);
	cs_report_number(report, "created", (uint64_t)manifest->created);
	return 0;
}

static int is_broken(const struct cs_version *version, void *arg)
{
	return !version->t;
}

static int run_versions(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct version_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct listing listing = { .name = o->name, .quiet = o->quiet };
	int r;

	r = check_name(o->name, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_version_each(store, o->name, is_broken, NULL, err);
	if (r < 0)
		return r;
	listing.broken = r > 0 || globals->json;
	r = cs_report_open(columns, N(columns) - !listing.broken, &report, err);
	if (r < 0)
		return r;
	listing.store = store;
	listing.report = report;
	r = cs_version_each(store, o->name, add_version, &listing, err);
	return r < 0 || o->quiet ? r : cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp_option versions_options[] = {
	{ "quiet", 'q', NULL, 0, "Numbers only, one a line", 1 },
	{ 0 },
};

static const struct argp versions_argp = {
	.options = versions_options,
	.parser = parse_name,
	.args_doc = "TEMPLATE",
	.doc = "List the versions of a template, oldest first."
	       "\vSHARED is what it had in common with the version it was made from.\n",
};

const struct cs_command cs_cmd_template_versions = {
	.name = "versions",
	.summary = "List the versions of a template",
	.argp = &versions_argp,
	.options_bytes = sizeof(struct version_options),
	.reports = true,
	.run = run_versions,
};

/* ---- activate ---- */

static error_t parse_activate(int key, char *arg, struct argp_state *state)
{
	struct version_options *o = state->input;

	if (key == ARGP_KEY_ARG && o->name && !o->version) {
		o->version = arg;
		return 0;
	}
	if (key == ARGP_KEY_END && o->name && !o->version)
		argp_error(state, "no version given");
	return parse_name(key, arg, state);
}

static int run_activate(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct version_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	char before[CS_VERSION_TEXT];
	int r;

	r = check_name(o->name, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_version_activate(store, o->name, o->version, before, err);
	if (r == 0)
		printf("%s: new guests get version %s%s%s\n", o->name, o->version,
		       before[0] ? ", before: " : "", before);
	return r;
}

static const struct argp activate_argp = {
	.parser = parse_activate,
	.args_doc = "TEMPLATE VERSION",
	.doc = "Let new guests of a template have this version. Guests that there are keep theirs.",
};

const struct cs_command cs_cmd_template_activate = {
	.name = "activate",
	.summary = "Choose the version that new guests get",
	.argp = &activate_argp,
	.options_bytes = sizeof(struct version_options),
	.run = run_activate,
};

/* ---- rollback ---- */

static int run_rollback(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct version_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	char version[CS_VERSION_TEXT];
	int r;

	r = check_name(o->name, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_version_rollback(store, o->name, version, err);
	if (r == 0)
		printf("%s: new guests get version %s\n", o->name, version);
	return r;
}

static const struct argp rollback_argp = {
	.parser = parse_name,
	.args_doc = "TEMPLATE",
	.doc = "Let new guests of a template have the version before the active one."
	       "\vThat is the next lower number that is whole.\n",
};

const struct cs_command cs_cmd_template_rollback = {
	.name = "rollback",
	.summary = "Go back to the version before",
	.argp = &rollback_argp,
	.options_bytes = sizeof(struct version_options),
	.run = run_rollback,
};

/* ---- prune ---- */

static void print_gone(void *arg, const char *version)
{
	printf("%s@%s: removed\n", (const char *)arg, version);
}

static int run_prune(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct version_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_template_user user = { .find = cs_card_find_user };
	struct cs_prune prune = { .name = o->name, .user = &user, .gone = print_gone };
	uint64_t keep = 0;
	int r;

	r = cs_cmd_number("keep", o->keep ? o->keep : KEEP_DEFAULT, 1, KEEP_MAX, &keep, err);
	if (r == 0)
		r = check_name(o->name, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	prune.keep = (unsigned)keep;
	prune.arg = (void *)o->name;
	user.arg = store;
	return cs_version_prune(store, &prune, err);
}

static const struct argp_option prune_options[] = {
	{ "keep", 'k', "N", 0, "Versions to keep, the newest (default: " KEEP_DEFAULT ")", 1 },
	{ 0 },
};

static const struct argp prune_argp = {
	.options = prune_options,
	.parser = parse_name,
	.args_doc = "TEMPLATE",
	.doc = "Remove old versions of a template; print which."
	       "\vThe active version stays, and those that a guest has.\n",
};

const struct cs_command cs_cmd_template_prune = {
	.name = "prune",
	.summary = "Remove old versions of a template",
	.argp = &prune_argp,
	.options_bytes = sizeof(struct version_options),
	.run = run_prune,
};
