/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* template list, show, remove; and the group. */
#include "store/cmd-template.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cow/card.h"
#include "store/base/guest.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/progress.h"
#include "store/base/report.h"
#include "store/manifest.h"
#include "store/quarantine.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/cmd-learn.h"
#include "vmm/cmd-save.h"
#include "vmm/command.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* ---- one template as argument ---- */

struct name_options {
	const char *name;
};

static error_t parse_name(int key, char *arg, struct argp_state *state)
{
	struct name_options *o = state->input;

	switch (key) {
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

/* ---- list ---- */

static const struct cs_column list_columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },
	{ "version", "VERSION", CS_CELL_TEXT },
	{ "kernel_release", "KERNEL", CS_CELL_TEXT },
	{ "root_format", "ROOT", CS_CELL_TEXT },
	{ "input_bytes", "INPUT", CS_CELL_BYTES },
	{ "stored_bytes", "STORED", CS_CELL_BYTES },
	{ "created", "CREATED", CS_CELL_TIME },
	{ "broken", "BROKEN", CS_CELL_TEXT },
};

static uint64_t stored_bytes(const struct cs_manifest *manifest)
{
	uint64_t bytes = 0;

	for (int part = 0; part < CS_PART_MAX; part++)
		bytes += manifest->part[part].stored_bytes;
	return bytes;
}

struct list_options {
	bool quiet;
};

static int list_name(const char *name, void *arg)
{
	puts(name);
	return 0;
}

static int list_one(const char *name, const struct cs_template *t, const struct cs_err *broken,
		    void *arg)
{
	struct cs_report *report = arg;
	const struct cs_manifest *manifest = t ? cs_template_manifest(t) : NULL;

	cs_report_row(report);
	cs_report_text(report, "name", name);
	if (!t) {
		cs_report_text(report, "broken", broken->text);
		return 0;
	}
	cs_report_text(report, "version", cs_template_version(t));
	cs_report_text(report, "kernel_release", manifest->kernel_release);
	cs_report_text(report, "root_format", cs_root_format_name(manifest->root_format));
	cs_report_number(report, "input_bytes", manifest->input_bytes);
	cs_report_number(report, "stored_bytes", stored_bytes(manifest));
	cs_report_number(report, "created", (uint64_t)manifest->created);
	return 0;
}

static int run_list(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct list_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	if (o->quiet)
		return cs_template_names(store, list_name, NULL, err);
	r = cs_report_open(list_columns, N(list_columns), &report, err);
	if (r < 0)
		return r;
	/* for people it is only there when something is broken */
	cs_report_elide(report, "broken");
	r = cs_template_each(store, list_one, report, err);
	return r < 0 ? r : cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp_option list_options[] = {
	{ "quiet", 'q', NULL, 0, "Names only, one a line", 1 },
	{ 0 },
};

static error_t parse_list(int key, char *arg, struct argp_state *state)
{
	struct list_options *o = state->input;

	switch (key) {
	case 'q':
		o->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s': no argument is wanted", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp list_argp = {
	.options = list_options,
	.parser = parse_list,
	.doc = "List all templates.",
};

static const struct cs_command list = {
	.name = "list",
	.summary = "List templates",
	.argp = &list_argp,
	.options_bytes = sizeof(struct list_options),
	.reports = true,
	.run = run_list,
};

/* ---- show ---- */

static const struct cs_column head_columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },
	{ "version", "VERSION", CS_CELL_TEXT },
	{ "parent", "FROM VERSION", CS_CELL_TEXT },
	{ "created", "CREATED", CS_CELL_TIME },
	{ "kernel_release", "KERNEL RELEASE", CS_CELL_TEXT },
	{ "stock_kernel", "STOCK KERNEL", CS_CELL_BOOL },
	{ "cmdline", "COMMAND LINE", CS_CELL_TEXT },
	{ "root_format", "ROOT FORMAT", CS_CELL_TEXT },
	{ "files", "FILES", CS_CELL_COUNT },
	{ "input_bytes", "INPUT", CS_CELL_BYTES },
	{ "stored_bytes", "STORED", CS_CELL_BYTES },
	{ "shared_bytes", "SHARED", CS_CELL_BYTES },
	{ "agent_sha256", "AGENT SHA-256", CS_CELL_TEXT },
	{ "lies_at", "ROOT LIES AT", CS_CELL_TEXT },
	{ "memory_merges", "MEMORY MERGES", CS_CELL_TEXT },
	{ "guarded", "GUARDED BY FS-VERITY", CS_CELL_BOOL },
	{ "integrity", "INTEGRITY", CS_CELL_TEXT },
	{ "quarantine", "QUARANTINE", CS_CELL_TEXT },
};

/* Of each part: its own columns, since a record has one row. */
#define PART_COLUMNS(part, PART)                                                                   \
	{ part "_bytes", PART, CS_CELL_BYTES },                                                    \
		{ part "_stored_bytes", PART " STORED", CS_CELL_BYTES },                           \
		{ part "_media", PART " MEDIA", CS_CELL_TEXT },                                    \
		{ part "_dax", PART " DAX", CS_CELL_BOOL },                                        \
	{                                                                                          \
		part "_sha256", PART " SHA-256", CS_CELL_TEXT                                      \
	}

enum { BYTES, STORED, MEDIA, DAX, SHA256, PART_CELLS };

static const struct cs_column part_columns[CS_PART_MAX][PART_CELLS] = {
	[CS_PART_KERNEL] = { PART_COLUMNS("kernel", "KERNEL") },
	[CS_PART_INITRD] = { PART_COLUMNS("initrd", "INITRD") },
	[CS_PART_ROOT] = { PART_COLUMNS("root", "ROOT") },
	[CS_PART_DISK] = { PART_COLUMNS("disk", "DISK") },
	[CS_PART_MEMORY] = { PART_COLUMNS("memory", "MEMORY") },
	[CS_PART_STATE] = { PART_COLUMNS("state", "STATE") },
};

/* What the guest sees as memory of the template's own: the root, mapped into it by virtio-pmem. */
static bool is_dax(enum cs_part part, const struct cs_manifest *manifest)
{
	return part == CS_PART_ROOT || manifest->part[part].media != CS_MEDIA_FILE;
}

static void fill_head(struct cs_report *report, const struct cs_template *t)
{
	const struct cs_manifest *manifest = cs_template_manifest(t);

	cs_report_row(report);
	cs_report_text(report, "name", cs_template_name(t));
	cs_report_text(report, "version", cs_template_version(t));
	cs_report_text(report, "parent", manifest->parent[0] ? manifest->parent : NULL);
	cs_report_number(report, "created", (uint64_t)manifest->created);
	cs_report_text(report, "kernel_release", manifest->kernel_release);
	cs_report_number(report, "stock_kernel", manifest->stock_kernel);
	cs_report_text(report, "cmdline", manifest->cmdline[0] ? manifest->cmdline : NULL);
	cs_report_text(report, "root_format", cs_root_format_name(manifest->root_format));
	cs_report_number(report, "files", manifest->files);
	cs_report_number(report, "input_bytes", manifest->input_bytes);
	cs_report_number(report, "stored_bytes", stored_bytes(manifest));
	if (manifest->parent[0])
		cs_report_number(report, "shared_bytes", manifest->shared_bytes);
	cs_report_text(report, "agent_sha256", manifest->agent_sha256);
	cs_report_text(report, "lies_at",
		       manifest->part[CS_PART_ROOT].where[0] ? manifest->part[CS_PART_ROOT].where
							     : NULL);
	cs_report_text(report, "memory_merges", cs_manifest_merges(manifest));
	cs_report_number(report, "guarded", cs_template_guarded(t));
	cs_report_text(
		report, "integrity",
		cs_template_guarded(t)
			? "fs-verity: checked when a guest is spawned and whenever it is read"
			: "SHA-256: checked by clearstore scrub and template verify");
}

static void fill_part(struct cs_report *report, enum cs_part part,
		      const struct cs_manifest *manifest)
{
	const struct cs_column *columns = part_columns[part];
	const struct cs_manifest_part *made = &manifest->part[part];

	cs_report_number(report, columns[BYTES].key, made->bytes);
	cs_report_number(report, columns[STORED].key, made->stored_bytes);
	cs_report_text(report, columns[MEDIA].key, cs_media_name(made->media));
	cs_report_number(report, columns[DAX].key, is_dax(part, manifest));
	cs_report_text(report, columns[SHA256].key, made->sha256);
}

static int run_show(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct name_options *o = options;
	struct cs_column columns[N(head_columns) + CS_PART_MAX * PART_CELLS];
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	const struct cs_manifest *manifest;
	char words[CS_QUARANTINE_TEXT];
	size_t n = N(head_columns);
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_template_open_any(store, o->name, &t, err);
	if (r < 0)
		return r;
	manifest = cs_template_manifest(t);
	memcpy(columns, head_columns, sizeof(head_columns));
	for (int part = 0; part < CS_PART_MAX; part++) {
		if (!manifest->part[part].present)
			continue;
		memcpy(&columns[n], part_columns[part], sizeof(part_columns[part]));
		n += PART_CELLS;
	}
	r = cs_report_open(columns, n, &report, err);
	if (r < 0)
		return r;
	fill_head(report, t);
	if (cs_quarantine_get(store, cs_template_name(t), cs_template_version(t), words))
		cs_report_text(report, "quarantine", words);
	for (int part = 0; part < CS_PART_MAX; part++) {
		if (manifest->part[part].present)
			fill_part(report, (enum cs_part)part, manifest);
	}
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static const struct argp show_argp = {
	.parser = parse_name,
	.args_doc = "TEMPLATE",
	.doc = "Show what a template consists of."
	       "\vTEMPLATE may be NAME@VERSION. The SHA-256 of the disk is of its data only "
	       "(docs/formats.md).\n",
};

static const struct cs_command show = {
	.name = "show",
	.summary = "Show what a template consists of",
	.argp = &show_argp,
	.options_bytes = sizeof(struct name_options),
	.reports = true,
	.run = run_show,
};

/* ---- remove ---- */

static int run_remove(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct name_options *o = options;
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	struct cs_template_user user = { .find = cs_card_find_user };
	char name[CS_VERSION_TEXT], version[CS_VERSION_TEXT];
	int r;

	r = cs_template_split(o->name, name, version, err);
	if (r == 0)
		r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	user.arg = store;
	return version[0] ? cs_version_remove(store, name, version, &user, err)
			  : cs_template_remove(store, name, &user, err);
}

static const struct argp remove_argp = {
	.parser = parse_name,
	.args_doc = "TEMPLATE",
	.doc = "Remove a template that no guest uses, or one version: NAME@VERSION, which is not "
	       "the "
	       "active one.",
};

static const struct cs_command remove_ = {
	.name = "remove",
	.summary = "Remove a template that no guest uses",
	.argp = &remove_argp,
	.options_bytes = sizeof(struct name_options),
	.run = run_remove,
};

/* ---- the group ---- */

static const struct cs_command *const members[] = {
	&cs_cmd_template_add,
	&cs_cmd_template_warm,
	&cs_cmd_template_learn,
	&cs_cmd_template_update,
	&cs_cmd_template_activate,
	&cs_cmd_template_rollback,
	&cs_cmd_template_versions,
	&cs_cmd_template_prune,
	&cs_cmd_template_move,
	&list,
	&show,
	&cs_cmd_template_verify,
	&remove_,
	NULL,
};

const struct cs_command cs_cmd_template = {
	.name = "template",
	.summary = "Add, update, list, check and remove templates",
	.members = members,
};
