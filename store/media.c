/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/media.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "store/base/text.h"
#include "store/media-private.h"
#include "store/template.h"
#include "store/version.h"

/* What a file system keeps for itself beside a file. */
#define SPARE_BYTES (UINT64_C(16) << 20)

#define NOTES_FILE "media"
#define NOTES_MAX  65536

static const struct cs_media_ops *const table[] = { &cs_media_fsdax, &cs_media_devdax };

static const struct cs_media_ops *ops_of(enum cs_media kind)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (table[i]->kind == kind)
			return table[i];
	}
	return NULL;
}

/* ---- what a user says ---- */

/* "dax" or "dax=always" among the options. */
static bool is_dax_mount(const struct mntent *entry)
{
	const char *found = hasmntopt(entry, "dax");

	return (!strcmp(entry->mnt_type, "ext4") || !strcmp(entry->mnt_type, "xfs")) && found &&
	       (strncmp(found, "dax=", 4) != 0 || !strncmp(found, "dax=always", 10));
}

/* "/mnt//pmem/" is "/mnt/pmem". Links stay as they are: they may be how a device is found again
 * under another number. */
static void tidy(char *path)
{
	char *to = path;

	for (const char *from = path; *from; from++) {
		if (from[0] != '/' || (from[1] != '/' && (from[1] || to == path)))
			*to++ = *from;
	}
	*to = '\0';
}

/* A manifest says where a part lies, and is text. */
static bool is_text(const char *place)
{
	char copy[CS_MEDIA_WHERE];

	return (size_t)snprintf(copy, sizeof(copy), "%s", place) < sizeof(copy) &&
	       strcmp(cs_text_clean(copy, false), place) == 0;
}

static void find_best(uint64_t bytes, struct cs_media_spec *ret)
{
	struct mntent *entry, room;
	uint64_t most = bytes + SPARE_BYTES;
	struct statvfs fs;
	char text[4096];
	FILE *mounts;

	mounts = setmntent("/proc/self/mounts", "re");
	while (mounts && (entry = getmntent_r(mounts, &room, text, sizeof(text)))) {
		if (!is_dax_mount(entry) || hasmntopt(entry, "ro") ||
		    statvfs(entry->mnt_dir, &fs) < 0 ||
		    (uint64_t)fs.f_bavail * fs.f_frsize < most ||
		    strlen(entry->mnt_dir) >= sizeof(ret->place) - CS_MEDIA_NAME ||
		    !is_text(entry->mnt_dir))
			continue;
		most = (uint64_t)fs.f_bavail * fs.f_frsize;
		ret->kind = CS_MEDIA_FSDAX;
		snprintf(ret->place, sizeof(ret->place), "%s", entry->mnt_dir);
	}
	if (mounts)
		endmntent(mounts);
}

int cs_media_parse(const char *text, uint64_t bytes, struct cs_media_spec *ret, struct cs_err *err)
{
	struct cs_media_spec spec = { .kind = CS_MEDIA_FILE };

	if (strcmp(text, "auto") == 0) {
		find_best(bytes, &spec);
		*ret = spec;
		return 0;
	}
	if (strcmp(text, "file") == 0) {
		*ret = spec;
		return 0;
	}
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const char *place = text + strlen(table[i]->prefix);

		if (strncmp(text, table[i]->prefix, strlen(table[i]->prefix)) != 0)
			continue;
		if (place[0] != '/' || strlen(place) >= sizeof(spec.place) - CS_MEDIA_NAME)
			break;
		if (!is_text(place))
			return cs_fail(err, EINVAL,
				       "media: a path that is not UTF-8, or has a control "
				       "character in it (mount it elsewhere)");
		spec.kind = table[i]->kind;
		snprintf(spec.place, sizeof(spec.place), "%s", place);
		tidy(spec.place);
		*ret = spec;
		return 0;
	}
	return cs_fail(err, EINVAL,
		       "media '%.80s': auto, file, fsdax:/FOLDER or devdax:/dev/daxN.M", text);
}

void cs_media_of(const struct cs_manifest_part *part, struct cs_media_spec *ret)
{
	const struct cs_media_ops *ops = ops_of(part->media);

	*ret = (struct cs_media_spec){ .kind = part->media };
	if (ops)
		ops->place_of(part, ret->place);
}

/* ---- parts ---- */

static int fail_kind(enum cs_media kind, struct cs_err *err)
{
	return cs_fail(err, EOPNOTSUPP, "lies on %s, which this clearstore cannot use (update it)",
		       cs_media_name(kind));
}

int cs_media_open(const struct cs_manifest_part *part, struct cs_view *ret, struct cs_err *err)
{
	const struct cs_media_ops *ops = ops_of(part->media);

	return ops ? ops->open(part, ret, err) : fail_kind(part->media, err);
}

/* ---- which media the store is on ---- */

static int read_notes(const struct cs_store *store, char **ret)
{
	int r = cs_read_file_at(cs_store_dirfd(store), NOTES_FILE, NOTES_MAX, ret, NULL);

	if (r != -ENOENT)
		return r;
	*ret = strdup("");
	return *ret ? 0 : -ENOMEM;
}

/* Before anything is put there: so a sweep knows where to look for what a kill leaves. */
static int note_medium(struct cs_store *store, const struct cs_media_ops *ops, const char *place,
		       struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *notes = NULL, *line = NULL, *longer = NULL;
	int r;

	r = read_notes(store, &notes);
	if (r < 0)
		return cs_fail_errno(err, -r, "'%s/%s'", cs_store_root(store), NOTES_FILE);
	if (asprintf(&line, "\n%s%s\n", ops->prefix, place) < 0 ||
	    asprintf(&longer, "%s%s%s\n", notes[0] ? notes : "\n", ops->prefix, place) < 0)
		return cs_fail_errno(err, ENOMEM, "media");
	if (strstr(notes, line))
		return 0;
	return cs_publish_at(cs_store_dirfd(store), NOTES_FILE, 0644, longer, strlen(longer), err);
}

int cs_media_sweep_all(struct cs_store *store, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *notes = NULL;
	struct cs_media_spec spec;
	char *rest, *line;
	int r;

	r = read_notes(store, &notes);
	if (r < 0)
		return cs_fail_errno(err, -r, "'%s/%s'", cs_store_root(store), NOTES_FILE);
	rest = notes;
	while ((line = strsep(&rest, "\n"))) {
		/* a medium that is not there has time */
		if (line[0] && cs_media_parse(line, 0, &spec, NULL) == 0)
			cs_media_sweep(store, &spec, NULL);
	}
	return 0;
}

static int prepare(struct cs_store *store, const struct cs_media_ops *ops,
		   const struct cs_media_spec *spec, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int lock = -1;
	int r;

	r = cs_store_lock(store, true, &lock, err);
	if (r == 0)
		r = note_medium(store, ops, spec->place, err);
	/* for the room of what dead commands left; a version that is broken is no reason to refuse
	 */
	if (r == 0)
		cs_media_sweep(store, spec, NULL);
	return r;
}

int cs_media_place(struct cs_store *store, const struct cs_media_spec *spec,
		   const struct cs_media_piece *piece, struct cs_manifest_part *part, int *ret_fd,
		   struct cs_err *err)
{
	const struct cs_media_ops *ops = ops_of(spec->kind);
	char id[CS_STORE_ID_TEXT];
	int r;

	r = ops ? cs_store_id(store, id, err) : fail_kind(spec->kind, err);
	if (r == 0)
		r = prepare(store, ops, spec, err);
	return r < 0 ? r : ops->place(id, spec->place, piece, part, ret_fd, err);
}

/* ---- sweeping ---- */

struct references {
	struct cs_store *store;
	const char *template;
	struct reference {
		char where[CS_MEDIA_WHERE]; /* begins with '/' */
		uint64_t offset;
	} * v;
	size_t n;
	struct cs_err *err;
};

static void references_freep(struct references *references)
{
	free(references->v);
}

static int add_reference(struct references *to, const struct cs_manifest_part *part)
{
	struct reference *larger;

	if (!part->present || part->media == CS_MEDIA_FILE)
		return 0;
	larger = reallocarray(to->v, to->n + 1, sizeof(*larger));
	if (!larger)
		return cs_fail_errno(to->err, ENOMEM, "media");
	to->v = larger;
	larger[to->n].offset = part->offset;
	memcpy(larger[to->n++].where, part->where, sizeof(part->where));
	return 0;
}

/* The manifest alone: whether its parts are there is not the question. */
static int add_version(const char *version, void *arg)
{
	struct references *to = arg;
	cs_auto(cs_manifest_freep) struct cs_manifest *manifest = NULL;
	cs_auto(cs_fd_closep) int fd = -1;
	char path[2 * CS_VERSION_TEXT];
	int r;

	snprintf(path, sizeof(path), "%s/%s", to->template, version);
	fd = openat(cs_store_templates_fd(to->store), path,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(to->err, errno, "'%s'", path);
	r = cs_manifest_load(fd, &manifest, to->err);
	for (int part = 0; part < CS_PART_MAX && r == 0; part++)
		r = add_reference(to, &manifest->part[part]);
	return r;
}

static int add_template(const char *name, void *arg)
{
	struct references *to = arg;

	to->template = name;
	return cs_version_names(to->store, name, add_version, to, to->err);
}

static bool is_referred(const char *name, uint64_t offset, void *arg)
{
	const struct references *references = arg;

	for (size_t i = 0; i < references->n; i++) {
		const struct reference *at = &references->v[i];

		if (name ? !strcmp(strrchr(at->where, '/') + 1, name) : at->offset == offset)
			return true;
	}
	return false;
}

int cs_media_sweep(struct cs_store *store, const struct cs_media_spec *spec, struct cs_err *err)
{
	cs_auto(references_freep) struct references references = { .store = store, .err = err };
	const struct cs_media_kept kept = { is_referred, &references };
	const struct cs_media_ops *ops = ops_of(spec->kind);
	char id[CS_STORE_ID_TEXT];
	int r;

	if (!ops)
		return 0;
	r = cs_store_id(store, id, err);
	if (r == 0)
		r = cs_template_names(store, add_template, &references, err);
	return r < 0 ? r : ops->sweep(id, spec->place, &kept, err);
}

void cs_media_note(struct cs_media_used *used, int dirfd)
{
	cs_auto(cs_manifest_freep) struct cs_manifest *manifest = NULL;
	struct cs_media_spec spec;
	size_t i;

	if (cs_manifest_load(dirfd, &manifest, NULL) < 0)
		return;
	for (int part = 0; part < CS_PART_MAX; part++) {
		if (!manifest->part[part].present || manifest->part[part].media == CS_MEDIA_FILE)
			continue;
		cs_media_of(&manifest->part[part], &spec);
		for (i = 0; i < used->n && strcmp(used->v[i].place, spec.place) != 0; i++)
			;
		if (i == used->n && used->n < CS_MEDIA_USED)
			used->v[used->n++] = spec;
	}
}

void cs_media_sweep_used(struct cs_store *store, const struct cs_media_used *used)
{
	for (size_t i = 0; i < used->n; i++)
		cs_media_sweep(store, &used->v[i], NULL);
}
