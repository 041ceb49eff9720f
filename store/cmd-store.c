/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* store check, grow, trim: the store as a whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cow/card.h"
#include "cow/overlay.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/report.h"
#include "store/manifest.h"
#include "store/media.h"
#include "store/pool.h"
#include "store/quota.h"
#include "store/template.h"
#include "store/version.h"
#include "vmm/cmd-common.h"
#include "vmm/command.h"

#define ROOM_LOW (64 * CS_MIB)
#define N(array) (sizeof(array) / sizeof((array)[0]))

static error_t parse_none(int key, char *arg, struct argp_state *state)
{
	return ARGP_ERR_UNKNOWN;
}

/* ---- check ---- */

static const struct cs_column check_columns[] = {
	{ "kind", "KIND", CS_CELL_TEXT },    { "name", "NAME", CS_CELL_TEXT },
	{ "count", "COUNT", CS_CELL_COUNT }, { "ok", "OK", CS_CELL_BOOL },
	{ "words", "WORDS", CS_CELL_TEXT },
};

struct check {
	struct cs_store *store;
	struct cs_report *report;
	struct cs_err *err;
	uint64_t versions, guests;
	unsigned wrong;
	const char *template;
	bool active; /* of (template): a version that is active was seen */
};

static void check_release(struct check *check)
{
	cs_report_freep(&check->report);
	cs_store_freep(&check->store);
}

static void say(struct check *check, const char *kind, const char *name, bool ok, const char *words)
{
	cs_report_row(check->report);
	cs_report_text(check->report, "kind", kind);
	cs_report_text(check->report, "name", name);
	cs_report_number(check->report, "ok", ok);
	cs_report_text(check->report, "words", words);
	check->wrong += !ok;
}

static void say_count(struct check *check, const char *kind, uint64_t count, const char *words)
{
	say(check, kind, NULL, true, words);
	cs_report_number(check->report, "count", count);
}

static int check_version(const struct cs_version *version, void *arg)
{
	struct check *check = arg;
	char name[2 * CS_VERSION_TEXT];

	check->versions++;
	check->active = check->active || version->active;
	snprintf(name, sizeof(name), "%s@%s", check->template, version->version);
	if (!version->t)
		say(check, "version", name, false, version->broken->text);
	return 0;
}

static int check_template(const char *name, const struct cs_template *t,
			  const struct cs_err *broken, void *arg)
{
	struct check *check = arg;
	int r;

	check->template = name;
	check->active = false;
	r = cs_version_each(check->store, name, check_version, check, check->err);
	if (r == 0 && !check->active)
		say(check, "template", name, false,
		    "its active version is not there (clearstore template activate)");
	return r == -ENOENT ? 0 : r;
}

static bool has_disk(const struct cs_store *store, const struct cs_card *card)
{
	cs_auto(cs_fd_closep) int dirfd = -1, fd = -1;
	struct stat st;

	dirfd = openat(cs_store_guests_fd(store), card->guest,
		       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	fd = dirfd < 0 ? -1 : cs_overlay_open_disk(dirfd, false);
	return fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == card->disk_bytes;
}

/* What a guest needs to start again. */
static int check_guest(const struct cs_card *card, void *arg)
{
	struct check *check = arg;
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	char name[sizeof(card->template) + sizeof(card->version)];
	struct cs_err why = { 0 };

	check->guests++;
	if (card->state == CS_GUEST_BROKEN) {
		say(check, "guest", card->guest, false,
		    "its card cannot be read (clearstore remove)");
		return 0;
	}
	snprintf(name, sizeof(name), "%s@%s", card->template, card->version);
	if (cs_template_open_any(check->store, name, &t, &why) < 0)
		say(check, "guest", card->guest, false, why.text);
	else if (card->persist && !has_disk(check->store, card))
		say(check, "guest", card->guest, false,
		    "its disk is not there, or of another size");
	return 0;
}

static int check_pool(struct check *check)
{
	struct cs_pool_health health;
	struct cs_pool_info image;
	uint64_t room;
	char text[CS_BYTES_TEXT];
	int r;

	r = cs_pool_check(cs_store_dirfd(check->store), &health, check->err);
	if (r == 0)
		r = cs_store_space(check->store, &room, check->err);
	if (r < 0)
		return r;
	if (health.read_only)
		say(check, "file system", NULL, false,
		    "is read-only (the kernel's log says why; mount it again when that is mended)");
	if (health.errors)
		say(check, "file system", NULL, false,
		    "had errors of its disk (see: btrfs device stats; clearstore scrub)");
	if (cs_pool_info(cs_store_root(check->store), &image, NULL) == 0 && health.bytes &&
	    health.bytes + CS_MIB < image.bytes)
		say(check, "image", image.image, false,
		    "is larger than the file system in it: a growth was interrupted (clearstore "
		    "store grow with the same size)");
	say(check, "room", cs_format_bytes(room, text), room >= ROOM_LOW,
	    room >= ROOM_LOW ? "can still be written"
			     : "can still be written: too little (remove something, or clearstore "
			       "store grow)");
	return 0;
}

/* Names in guests/.marks of what is half-made or half-deleted. */
static uint64_t count_marks(const struct cs_store *store)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	uint64_t n = 0;
	int fd;

	fd = openat(cs_store_guests_fd(store), ".marks", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	while (dir && (entry = readdir(dir)))
		n += entry->d_name[0] != '.' && strncmp(entry->d_name, "boot-", 5) != 0;
	return n;
}

/* Opening the store is what sweeps; here it is told. */
static int open_swept(const struct cs_globals *globals, struct check *check)
{
	uint64_t before, after;
	const char *name;
	int r;

	r = cs_report_open(check_columns, N(check_columns), &check->report, check->err);
	if (r == 0)
		r = cs_store_open(globals->store, &check->store, check->err);
	if (r < 0)
		return r;
	for (size_t i = 0; (name = cs_store_swept(check->store, i)); i++)
		say(check, "swept", name, true, "was half-made or half-removed");
	before = count_marks(check->store);
	r = cs_overlay_sweep(check->store, check->err);
	if (r < 0)
		return r;
	after = count_marks(check->store);
	if (after < before)
		say_count(check, "swept", before - after, "guests that ended, or were half-made");
	return 0;
}

/* What dead commands left on other media, and nobody refers to. */
static int sweep_media(const struct check *check)
{
	cs_auto(cs_fd_closep) int lock = -1;
	int r;

	r = cs_store_lock(check->store, true, &lock, check->err);
	if (r == -EROFS)
		return 0; /* which is said of the file system */
	return r < 0 ? r : cs_media_sweep_all(check->store, check->err);
}

static int run_check(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(check_release) struct check check = { .err = err };
	int r;

	r = open_swept(globals, &check);
	if (r == 0)
		r = sweep_media(&check);
	if (r == 0)
		r = cs_template_each(check.store, check_template, &check, err);
	if (r == 0)
		r = cs_card_each(check.store, check_guest, &check, err);
	if (r == 0)
		r = check_pool(&check);
	if (r < 0)
		return r;
	say_count(&check, "versions", check.versions, "of templates were opened");
	say_count(&check, "guests", check.guests, "were looked at");
	r = cs_cmd_print(globals, check.report, CS_FORMAT_TABLE, err);
	if (r == 0 && check.wrong)
		return cs_fail(err, EBADMSG, "store '%s': %u thing%s wrong", globals->store,
			       check.wrong, check.wrong == 1 ? " is" : "s are");
	return r;
}

static const struct argp check_argp = {
	.parser = parse_none,
	.doc = "Look at everything in the store, and say what is wrong and what was swept."
	       "\vContents are not read: clearstore scrub does that.\n",
};

static const struct cs_command check = {
	.name = "check",
	.summary = "Look at everything, say what is wrong and what was swept",
	.argp = &check_argp,
	.options_bytes = 0,
	.reports = true,
	.run = run_check,
};

/* ---- grow ---- */

struct grow_options {
	const char *size;
};

static error_t parse_grow(int key, char *arg, struct argp_state *state)
{
	struct grow_options *o = state->input;

	switch (key) {
	case 's':
		o->size = arg;
		return 0;
	case ARGP_KEY_END:
		if (!o->size)
			argp_error(state, "--size: not given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run_grow(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	const struct grow_options *o = options;
	char text[CS_BYTES_TEXT], has[CS_BYTES_TEXT];
	struct cs_pool_info info;
	uint64_t bytes;
	int r;

	if (cs_parse_bytes(o->size, &bytes) < 0)
		return cs_fail(err, EINVAL, "size '%.40s': not a size (try 80G)", o->size);
	r = cs_pool_grow(globals->store, bytes, err);
	if (r == 0)
		r = cs_pool_info(globals->store, &info, err);
	if (r < 0)
		return r;
	printf("store at %s: a sparse Btrfs image of %s\n", globals->store,
	       cs_format_bytes(info.bytes, text));
	if (info.disk_free_bytes < info.bytes - info.stored_bytes)
		fprintf(stderr,
			"clearstore: warning: the disk under the store has %s left, less than the "
			"image may still take\n",
			cs_format_bytes(info.disk_free_bytes, has));
	return 0;
}

static const struct argp_option grow_options[] = {
	{ "size", 's', "SIZE", 0, "The image's new size", 1 },
	{ 0 },
};

static const struct argp grow_argp = {
	.options = grow_options,
	.parser = parse_grow,
	.doc = "Let the store's image grow, while it is in use.",
};

static const struct cs_command grow = {
	.name = "grow",
	.summary = "Let the store's image grow",
	.argp = &grow_argp,
	.options_bytes = sizeof(struct grow_options),
	.run = run_grow,
};

/* ---- trim ---- */

static const struct cs_column trim_columns[] = {
	{ "image", "IMAGE", CS_CELL_TEXT },
	{ "before_bytes", "BEFORE", CS_CELL_BYTES },
	{ "after_bytes", "AFTER", CS_CELL_BYTES },
};

static int run_trim(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	cs_auto(cs_report_freep) struct cs_report *report = NULL;
	struct cs_pool_info before, after;
	bool image;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r < 0)
		return r;
	image = cs_pool_info(globals->store, &before, NULL) == 0;
	r = cs_pool_trim(cs_store_dirfd(store), err);
	if (r < 0 || !image)
		return r;
	r = cs_pool_info(globals->store, &after, err);
	if (r == 0)
		r = cs_report_open(trim_columns, N(trim_columns), &report, err);
	if (r < 0)
		return r;
	cs_report_row(report);
	cs_report_text(report, "image", after.image);
	cs_report_number(report, "before_bytes", before.stored_bytes);
	cs_report_number(report, "after_bytes", after.stored_bytes);
	return cs_cmd_print(globals, report, CS_FORMAT_RECORD, err);
}

static const struct argp trim_argp = {
	.parser = parse_none,
	.doc = "Give what is free in the store back to the disk under it, now."
	       "\vThe file system does it by itself, in its own time.\n",
};

static const struct cs_command trim = {
	.name = "trim",
	.summary = "Give free room back to the disk under the store",
	.argp = &trim_argp,
	.options_bytes = 0,
	.reports = true,
	.run = run_trim,
};

/* ---- quotas ---- */

static int run_quotas(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = NULL;
	int r;

	r = cs_cmd_store_open(globals, &store, err);
	if (r == 0)
		r = cs_quota_enable(cs_store_dirfd(store), err);
	if (r < 0)
		return r == -EOPNOTSUPP || r == -EBUSY
			       ? cs_fail_in(err, r, "store '%s'", globals->store)
			       : r;
	printf("store at %s: guests with a disk that are spawned from now on have a limit\n",
	       globals->store);
	return 0;
}

static const struct argp quotas_argp = {
	.parser = parse_none,
	.doc = "Bound what a guest with a disk can take of the store: twice its disk and 64 MiB."
	       "\vA disk alone is no bound, since Btrfs keeps runs of blocks of which a guest has "
	       "overwritten all but some. Guests that there are stay as they are. For good: a "
	       "store that ever had quotas needs Linux 6.7 or later.\n",
};

static const struct cs_command quotas = {
	.name = "quotas",
	.summary = "Bound what a guest with a disk can take",
	.argp = &quotas_argp,
	.options_bytes = 0,
	.run = run_quotas,
};

/* ---- the group ---- */

static const struct cs_command *const members[] = { &check, &grow, &quotas, &trim, NULL };

const struct cs_command cs_cmd_store = {
	.name = "store",
	.summary = "Check the store, let it grow, give room back",
	.members = members,
};
