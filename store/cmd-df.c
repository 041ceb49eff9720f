/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* df: what each version and guest takes of the store, alone and with others. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cow/card.h"
#include "store/base/own.h"
#include "store/base/report.h"
#include "store/pool.h"
#include "store/space.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static const struct cs_column columns[] = {
	{ "kind", "KIND", CS_CELL_TEXT },
	{ "name", "NAME", CS_CELL_TEXT },
	{ "logical_bytes", "LOGICAL", CS_CELL_BYTES },
	{ "shared_bytes", "SHARED", CS_CELL_BYTES },
	{ "exclusive_bytes", "EXCLUSIVE", CS_CELL_BYTES },
};

/* A line of the report, in the order in which they are printed. */
struct line {
	char name[2 * CS_VERSION_TEXT];
	enum { TEMPLATE, VERSION, GUEST } kind;
	size_t number; /* of the group, or of the owner */
};

struct df {
	struct cs_store *store;
	struct cs_space *space;
	struct line *lines;
	size_t n;
	size_t group; /* of the template whose versions are walked */
	const char *template;
	uint64_t alone; /* of all versions and guests */
	struct cs_err *err;
};

static void df_release(struct df *df)
{
	free(df->lines);
	df->space = cs_space_free(df->space);
	df->store = cs_store_free(df->store);
}

static struct line *add_line(struct df *df, int kind, size_t number)
{
	struct line *larger = df->lines;

	if ((df->n & (df->n - 1)) == 0)
		larger = reallocarray(df->lines, df->n ? 2 * df->n : 1, sizeof(*larger));
	if (!larger)
		return NULL;
	df->lines = larger;
	larger[df->n] = (struct line){ .kind = kind, .number = number };
	return &larger[df->n++];
}

static int add_folder(struct df *df, int dirfd, const char *path, size_t owner)
{
	cs_auto(cs_fd_closep) int fd =
		openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r;

	if (fd < 0)
		return errno == ENOENT ? 0 : cs_fail_errno(df->err, errno, "'%s'", path);
	r = cs_space_folder(df->space, owner, fd, df->err);
	return r < 0 ? cs_fail_in(df->err, r, "'%s'", path) : 0;
}

static int add_owner(struct df *df, int kind, size_t group, const char *name)
{
	struct line *line;
	size_t owner;
	int r;

	r = cs_space_owner(df->space, group, &owner, df->err);
	if (r < 0)
		return r;
	line = add_line(df, kind, owner);
	if (!line)
		return cs_fail_errno(df->err, ENOMEM, "df");
	snprintf(line->name, sizeof(line->name), "%s", name);
	return (int)owner;
}

static int add_version(const char *version, void *arg)
{
	struct df *df = arg;
	char name[2 * CS_VERSION_TEXT], path[2 * CS_VERSION_TEXT];
	int owner;

	snprintf(name, sizeof(name), "%s@%s", df->template, version);
	snprintf(path, sizeof(path), "%s/%s", df->template, version);
	owner = add_owner(df, VERSION, df->group, name);
	return owner < 0 ? owner
			 : add_folder(df, cs_store_templates_fd(df->store), path, (size_t)owner);
}

static int add_template(const char *name, void *arg)
{
	struct df *df = arg;
	struct line *line;
	int r;

	r = cs_space_group(df->space, &df->group, df->err);
	if (r < 0)
		return r;
	line = add_line(df, TEMPLATE, df->group);
	if (!line)
		return cs_fail_errno(df->err, ENOMEM, "df");
	snprintf(line->name, sizeof(line->name), "%s", name);
	df->template = name;
	r = cs_version_names(df->store, name, add_version, df, df->err);
	return r == -ENOENT ? 0 : r; /* removed meanwhile */
}

static int add_guest(const struct cs_card *card, void *arg)
{
	struct df *df = arg;
	const int guests_fd = cs_store_guests_fd(df->store);
	char parked[sizeof(card->guest) + 9];
	size_t group;
	int owner, r;

	owner = cs_space_group(df->space, &group, df->err);
	if (owner == 0)
		owner = add_owner(df, GUEST, group, card->guest);
	if (owner < 0)
		return owner;
	r = add_folder(df, guests_fd, card->guest, (size_t)owner);
	/* its memory, while it sleeps on disk */
	snprintf(parked, sizeof(parked), "%s/parked", card->guest);
	if (r == 0)
		r = add_folder(df, guests_fd, parked, (size_t)owner);
	/* its disk, where there are quotas */
	snprintf(parked, sizeof(parked), "%s/limited", card->guest);
	return r < 0 ? r : add_folder(df, guests_fd, parked, (size_t)owner);
}

/* ---- the report ---- */

static void report_line(struct cs_report *report, const char *kind, const char *name)
{
	cs_report_row(report);
	cs_report_text(report, "kind", kind);
	cs_report_text(report, "name", name);
}

static void report_party(struct df *df, struct cs_report *report, const struct line *line)
{
	static const char *const kinds[] = { "template", "version", "guest" };
	struct cs_space_count count;

	if (line->kind == TEMPLATE) {
		cs_space_of_group(df->space, line->number, &count);
	} else {
		cs_space_of_owner(df->space, line->number, &count);
		df->alone += count.alone_bytes;
	}
	report_line(report, kinds[line->kind], line->name);
	cs_report_number(report, "logical_bytes", count.logical_bytes);
	cs_report_number(report, "shared_bytes", count.held_bytes - count.alone_bytes);
	cs_report_number(report, "exclusive_bytes", count.alone_bytes);
}

static void report_rest(struct cs_report *report, const char *kind, const char *name,
			uint64_t bytes)
{
	report_line(report, kind, name);
	cs_report_number(report, "exclusive_bytes", bytes);
}

/* What the parties have together, what has no party, and what the file system says to all of it. */
static int report_sums(struct df *df, struct cs_report *report)
{
	const uint64_t held = cs_space_held(df->space);
	struct cs_space_used used;
	struct cs_pool_info pool;
	int r;

	r = cs_space_used(cs_store_dirfd(df->store), &used, df->err);
	if (r < 0)
		return r;
	report_rest(report, "between", "what several have, once", held - df->alone);
	if (!used.mixed && cs_store_is_btrfs(df->store))
		report_rest(report, "metadata", "of the file system", used.metadata_bytes);
	report_rest(report, "rest",
		    used.mixed                     ? "of nobody, and metadata"
		    : cs_store_is_btrfs(df->store) ? "of nobody: rests of extents, just deleted"
						   : "of others on this file system",
		    used.data_bytes > held ? used.data_bytes - held : 0);
	report_rest(report, "used", "as the file system says",
		    used.data_bytes + (used.mixed ? 0 : used.metadata_bytes));
	report_rest(report, "free", "as the file system says", used.free_bytes);
	if (cs_pool_info(cs_store_root(df->store), &pool, NULL) < 0)
		return 0;
	report_line(report, "image", pool.image);
	cs_report_number(report, "logical_bytes", pool.bytes);
	cs_report_number(report, "exclusive_bytes", pool.stored_bytes);
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	return ARGP_ERR_UNKNOWN;
}

static int run(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(df_release) struct df df = { .err = err };
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	int r;

	r = cs_cmd_store_open(globals, &df.store, err);
	if (r == 0)
		r = cs_space_open(&df.space, err);
	if (r == 0)
		r = cs_report_open(columns, N(columns), &report, err);
	if (r == 0)
		r = cs_template_names(df.store, add_template, &df, err);
	if (r == 0)
		r = cs_card_each(df.store, add_guest, &df, err);
	if (r < 0)
		return r;
	cs_space_sum(df.space);
	for (size_t i = 0; i < df.n; i++)
		report_party(&df, report, &df.lines[i]);
	r = report_sums(&df, report);
	return r < 0 ? r : cs_cmd_print(globals, report, CS_FORMAT_TABLE, err);
}

static const struct argp argp = {
	.parser = parse,
	.doc = "Show what each template, version and guest takes of the store, alone and with "
	       "others."
	       "\vEXCLUSIVE is what would be free without it. What versions and guests have alone, "
	       "what several have, metadata and the rest add up to what is used.\n",
};

const struct cs_command cs_cmd_df = {
	.name = "df",
	.summary = "Show what templates and guests take of the store",
	.argp = &argp,
	.options_bytes = 0,
	.reports = true,
	.run = run,
};
