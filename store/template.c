/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/template.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/progress.h"
#include "store/manifest.h"
#include "store/media.h"
#include "store/note.h"
#include "store/quarantine.h"
#include "store/subvol.h"
#include "store/template-private.h"
#include "store/verity.h"
#include "store/version.h"

/* So often another process may switch the version while one is opened. */
#define OPEN_TRIES 100

struct cs_template {
	char name[CS_NAME_MAX + 1], version[CS_NAME_MAX + 1];
	struct cs_manifest *manifest;
	int part_fd[CS_PART_MAX];
	bool listed; /* its parts are not opened */
};

int cs_template_split(const char *text, char ret_name[64], char ret_version[64], struct cs_err *err)
{
	const char *at = strchrnul(text, '@');
	const size_t bytes = (size_t)(at - text);
	char name[CS_NAME_MAX + 1];
	int r;

	if (bytes > CS_NAME_MAX)
		return cs_name_check("template", text, err);
	memcpy(name, text, bytes);
	name[bytes] = '\0';
	r = cs_name_check("template", name, err);
	if (r == 0 && *at)
		r = cs_name_check("template version", at + 1, err);
	if (r < 0)
		return r;
	memcpy(ret_name, name, bytes + 1);
	snprintf(ret_version, CS_NAME_MAX + 1, "%s", *at ? at + 1 : "");
	return 0;
}

/* In a moment, whatever its size: is it the file that was published, or another that took its
 * place? From here on the kernel checks each block that is read. */
static int check_verity(int fd, const char *name, const struct cs_manifest_part *promised,
			struct cs_err *err)
{
	char found[CS_DIGEST_TEXT];
	int r;

	r = cs_verity_measure(fd, found);
	if (r == 0 && strcmp(found, promised->verity) == 0)
		return 0;
	if (r < 0 && r != -ENODATA && r != -EOPNOTSUPP)
		return cs_fail_errno(err, -r, "part '%s': fs-verity", name);
	return cs_fail(err, EBADMSG,
		       "part '%s' is not the file that was published: fs-verity %s (roll back, or "
		       "update it; a store is copied by its image, not by its files)",
		       name, r == 0 ? "differs" : "is gone");
}

static int check_size(const struct stat *st, const char *name,
		      const struct cs_manifest_part *promised, struct cs_err *err)
{
	if (S_ISREG(st->st_mode) && (uint64_t)st->st_size == promised->bytes)
		return 0;
	return cs_fail(err, EBADMSG,
		       "part '%s' is not the file of %llu bytes that the manifest promises", name,
		       (unsigned long long)promised->bytes);
}

/* For a list of a thousand: a look at the file is enough. */
static int look_at_part(const struct cs_template *t, int dirfd, enum cs_part part,
			struct cs_err *err)
{
	const char *name = cs_part_name(part);
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	return check_size(&st, name, &t->manifest->part[part], err);
}

static int open_part_elsewhere(struct cs_template *t, enum cs_part part, struct cs_err *err)
{
	struct cs_view view;
	int r;

	r = cs_media_open(&t->manifest->part[part], &view, err);
	if (r < 0)
		return cs_fail_in(err, r, "part '%s'", cs_part_name(part));
	t->part_fd[part] = view.fd;
	return 0;
}

static int open_part(struct cs_template *t, int dirfd, enum cs_part part, struct cs_err *err)
{
	const struct cs_manifest_part *promised = &t->manifest->part[part];
	const char *name = cs_part_name(part);
	struct stat st;
	int r;

	t->part_fd[part] =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (t->part_fd[part] < 0 && errno == EOPNOTSUPP)
		return cs_fail(
			err, EOPNOTSUPP,
			"part '%s' is guarded by fs-verity, which this kernel lacks (use one "
			"with CONFIG_FS_VERITY)",
			name);
	if (t->part_fd[part] < 0 || fstat(t->part_fd[part], &st) < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	r = check_size(&st, name, promised, err);
	if (r < 0)
		return r;
	return promised->verity[0] ? check_verity(t->part_fd[part], name, promised, err) : 0;
}

/* All of the version, whose folder is (dirfd). */
static int open_parts(struct cs_template *t, int dirfd, struct cs_err *err)
{
	int r;

	r = cs_manifest_load(dirfd, &t->manifest, err);
	for (int part = 0; part < CS_PART_MAX && r == 0; part++) {
		if (!t->manifest->part[part].present)
			continue;
		/* on a medium it is opened for a list, too: who lists wants to know if it is there
		 */
		r = t->manifest->part[part].media != CS_MEDIA_FILE
			    ? open_part_elsewhere(t, (enum cs_part)part, err)
		    : t->listed ? look_at_part(t, dirfd, (enum cs_part)part, err)
				: open_part(t, dirfd, (enum cs_part)part, err);
	}
	return r;
}

static int open_version(struct cs_template *t, int dirfd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	const bool given = t->version[0];
	int r = 0;

	/* the active one may be another by now, and this one removed: look again */
	for (int i = 0; i < OPEN_TRIES && fd < 0; i++) {
		if (!given)
			r = cs_version_read(dirfd, t->version, err);
		if (r < 0)
			return r;
		fd = openat(dirfd, t->version, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && (errno != ENOENT || given))
			break;
	}
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
		return cs_fail(err, ENOENT, "no version '%s' (see: clearstore template versions)",
			       t->version);
	if (fd < 0)
		return cs_fail_errno(err, errno, "version '%s'", t->version);
	return open_parts(t, fd, err);
}

/* Of a thousand every call counts: to the active version at once. False: step by step, which also
 * says what is wrong. */
static bool open_listed(struct cs_store *store, struct cs_template *t, int *ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;

	if (!t->listed || t->version[0])
		return false;
	fd = cs_version_open_active(cs_store_templates_fd(store), t->name, t->version);
	if (fd < 0)
		t->version[0] = '\0';
	else
		*ret = open_parts(t, fd, err);
	return fd >= 0;
}

static int open_template(struct cs_store *store, const char *name, bool listed,
			 struct cs_template **ret, struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *t = calloc(1, sizeof(*t));
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	if (!t)
		return cs_fail_errno(err, ENOMEM, "template");
	t->listed = listed;
	for (int part = 0; part < CS_PART_MAX; part++)
		t->part_fd[part] = -1;
	r = cs_template_split(name, t->name, t->version, err);
	if (r < 0)
		return r;
	if (!open_listed(store, t, &r, err)) {
		dirfd = openat(cs_store_templates_fd(store), t->name,
			       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (dirfd < 0 && errno == ENOENT)
			return cs_fail(err, ENOENT,
				       "template '%s': not there (see: clearstore template list)",
				       t->name);
		if (dirfd < 0)
			return cs_fail_errno(err, errno, "template '%s'", t->name);
		r = open_version(t, dirfd, err);
	}
	if (r < 0)
		return cs_fail_in(err, r, "template '%s'", t->name);
	*ret = cs_steal(t);
	return 0;
}

int cs_template_open_any(struct cs_store *store, const char *name, struct cs_template **ret,
			 struct cs_err *err)
{
	return open_template(store, name, false, ret, err);
}

static int check_quarantine(struct cs_store *store, const struct cs_template *t, struct cs_err *err)
{
	char words[CS_QUARANTINE_TEXT];

	if (!cs_quarantine_get(store, t->name, t->version, words))
		return 0;
	return cs_fail(err, EBADMSG,
		       "template '%s': version '%s' is in quarantine: %s (clearstore template "
		       "rollback %s, or update it; verify lets it out when it is whole again)",
		       t->name, t->version, words, t->name);
}

int cs_template_open(struct cs_store *store, const char *name, struct cs_template **ret,
		     struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	int r;

	r = open_template(store, name, false, &t, err);
	if (r == 0)
		r = check_quarantine(store, t, err);
	if (r < 0)
		return r;
	*ret = cs_steal(t);
	return 0;
}

int cs_template_look(struct cs_store *store, const char *name, bool quarantine,
		     struct cs_template **ret, struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	int r = open_template(store, name, true, &t, err);

	if (r == 0 && quarantine)
		r = check_quarantine(store, t, err);
	if (r == 0)
		*ret = cs_steal(t);
	return r;
}

int cs_template_check_present(struct cs_store *store, const struct cs_template *t,
			      struct cs_err *err)
{
	char path[2 * CS_NAME_MAX + 3];

	snprintf(path, sizeof(path), "%s/%s", t->name, t->version);
	if (cs_missing_at(cs_store_templates_fd(store), path))
		return cs_fail(err, ESTALE,
			       "template '%s': version '%s' was removed meanwhile (try again)",
			       t->name, t->version);
	return 0;
}

/* Is any version of the template in (dirfd) borrowed? */
static int check_borrowed(int dirfd, const char *name, const struct cs_template_user *user,
			  struct cs_media_used *used, struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	char guest[64];
	int copy, r;

	copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir)
		return cs_fail_errno(err, errno, "template '%s'", name);
	while ((entry = readdir(dir))) {
		cs_auto(cs_fd_closep) int fd = -1;

		if (entry->d_name[0] == '.' || !strcmp(entry->d_name, "active"))
			continue;
		fd = openat(copy, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			cs_media_note(used, fd);
		if (!user)
			continue;
		r = user->find(user->arg, name, entry->d_name, guest, err);
		if (r < 0)
			return r;
		if (r > 0)
			return cs_fail(err, EBUSY,
				       "template '%s' is used by guest '%.63s' (remove that first: "
				       "clearstore remove %.63s)",
				       name, guest, guest);
	}
	return 0;
}

int cs_template_remove(struct cs_store *store, const char *name,
		       const struct cs_template_user *user, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int lock = -1, dirfd = -1;
	struct cs_media_used used = { .n = 0 };
	char old[CS_NAME_MAX + 8];
	int templates_fd = cs_store_templates_fd(store), r;

	r = cs_name_check("template", name, err);
	if (r == 0)
		r = cs_store_lock(store, true, &lock, err);
	if (r < 0)
		return r;
	dirfd = openat(templates_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd < 0 && errno == ENOENT)
		return cs_fail(err, ENOENT,
			       "template '%s': not there (see: clearstore template list)", name);
	if (dirfd < 0)
		return cs_fail_errno(err, errno, "template '%s'", name);
	r = check_borrowed(dirfd, name, user, &used, err);
	if (r < 0)
		return r;

	/* out of sight first, so that a kill leaves nothing half there; held, so that no sweep
	 * does the same work */
	snprintf(old, sizeof(old), ".%s.old", name);
	if (flock(dirfd, LOCK_EX | LOCK_NB) < 0)
		return cs_fail(err, EBUSY, "template '%s': another process works on it", name);
	if (cs_subvol_remove(templates_fd, old, err) < 0)
		return cs_fail_in(err, -EIO, "template '%s'", name);
	if (renameat2(templates_fd, name, templates_fd, old, RENAME_NOREPLACE) < 0)
		return cs_fail_errno(err, errno, "template '%s'", name);
	cs_note_forget(store, name, NULL);
	cs_media_sweep_used(store, &used);
	r = cs_subvol_remove(templates_fd, old, err);
	if (r == 0)
		r = cs_sync_dir(templates_fd);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", name) : 0;
}

static int compare(const struct cs_template *t, enum cs_part part, int r, const char *found,
		   struct cs_err *err)
{
	const char *promised = t->manifest->part[part].sha256;

	if (r < 0)
		return cs_fail_in(err, r, "template '%s': part '%s'", t->name, cs_part_name(part));
	if (strcmp(found, promised) == 0)
		return 0;
	return cs_fail(err, EBADMSG,
		       "template '%s': part '%s' is damaged: SHA-256 %.16s..., %.16s"
		       "... in the manifest (remove it and add it anew)",
		       t->name, cs_part_name(part), found, promised);
}

static int verify_part(const struct cs_template *t, enum cs_part part,
		       const struct cs_digest_progress *progress, struct cs_err *err)
{
	char found[CS_DIGEST_TEXT] = "";
	struct cs_view view;
	int r;

	if (cs_template_view(t, part, &view, NULL) < 0)
		return 0;
	r = cs_manifest_digest(part, &view, progress, found, err);
	return compare(t, part, r, found, err);
}

/* What is on the medium, not what is in the page cache. Where that cannot be, the latter. */
static int scrub_part(const struct cs_template *t, enum cs_part part,
		      const struct cs_digest_progress *progress, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char path[32], found[CS_DIGEST_TEXT] = "";
	struct cs_view view;
	int r;

	if (cs_template_view(t, part, &view, NULL) < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", view.fd);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd >= 0)
		view.fd = fd;
	/* of a file with fs-verity direct reads come from the page cache all the same */
	if (t->manifest->part[part].verity[0])
		posix_fadvise(view.fd, 0, 0, POSIX_FADV_DONTNEED);
	r = cs_manifest_digest(part, &view, progress, found, err);
	return compare(t, part, r, found, err);
}

static int verify(const struct cs_template *t, bool medium, struct cs_progress *progress,
		  struct cs_err *err)
{
	struct cs_digest_progress at = { .progress = progress };
	int r;

	for (enum cs_part part = 0; part < CS_PART_MAX; part++) {
		r = medium ? scrub_part(t, part, &at, err) : verify_part(t, part, &at, err);
		if (r < 0)
			return r;
		at.done += t->manifest->part[part].bytes;
	}
	return 0;
}

int cs_template_verify(const struct cs_template *t, struct cs_progress *progress,
		       struct cs_err *err)
{
	return verify(t, false, progress, err);
}

int cs_template_scrub(struct cs_store *store, const struct cs_template *t, bool medium,
		      struct cs_progress *progress, struct cs_err *err)
{
	struct cs_err why = { 0 };
	int r, noted;

	r = verify(t, medium, progress, &why);
	if (r == 0) {
		cs_quarantine_lift(store, t->name, t->version);
		return 0;
	}
	if (err)
		*err = why;
	/* a medium that cannot be read, or fs-verity that refuses what it reads */
	if (r != -EBADMSG && r != -EIO && r != -ENODATA)
		return r;
	if (cs_template_check_present(store, t, NULL) < 0)
		return r;
	noted = cs_quarantine_put(store, t->name, t->version, why.text, err);
	return noted < 0 ? noted : r;
}

int cs_template_scrub_part(const struct cs_template *t, enum cs_part part, struct cs_err *err)
{
	return scrub_part(t, part, NULL, err);
}

bool cs_template_guarded(const struct cs_template *t)
{
	for (enum cs_part part = 0; part < CS_PART_MAX; part++) {
		if (part != CS_PART_DISK && t->manifest->part[part].present &&
		    !t->manifest->part[part].verity[0])
			return false;
	}
	return true;
}

bool cs_template_resumes(const struct cs_template *t, uint64_t ram_bytes, unsigned vcpus, bool disk)
{
	const struct cs_manifest_saved *saved = &t->manifest->saved;

	return saved->present && saved->ram_bytes == ram_bytes && saved->vcpus == vcpus &&
	       saved->disk == disk;
}

const char *cs_template_name(const struct cs_template *t)
{
	return t->name;
}

const char *cs_template_version(const struct cs_template *t)
{
	return t->version;
}

const char *cs_template_cmdline(const struct cs_template *t)
{
	return t->manifest->cmdline;
}

const char *cs_template_kernel_release(const struct cs_template *t)
{
	return t->manifest->kernel_release;
}

bool cs_template_stock_kernel(const struct cs_template *t)
{
	return t->manifest->stock_kernel;
}

enum cs_root_format cs_template_root_format(const struct cs_template *t)
{
	return t->manifest->root_format;
}

time_t cs_template_created(const struct cs_template *t)
{
	return t->manifest->created;
}

uint64_t cs_template_input_bytes(const struct cs_template *t)
{
	return t->manifest->input_bytes;
}

const struct cs_manifest *cs_template_manifest(const struct cs_template *t)
{
	return t->manifest;
}

int cs_template_view(const struct cs_template *t, enum cs_part part, struct cs_view *ret,
		     struct cs_err *err)
{
	if (!t->manifest->part[part].present)
		return cs_fail(err, ENOENT, "template '%s': has no part '%s'", t->name,
			       cs_part_name(part));
	if (t->listed)
		return cs_fail(err, EBADF, "template '%s': is only listed", t->name);
	*ret = (struct cs_view){
		.fd = t->part_fd[part],
		.offset = t->manifest->part[part].offset,
		.bytes = t->manifest->part[part].bytes,
		.media = t->manifest->part[part].media,
	};
	return 0;
}

const char *cs_template_digest(const struct cs_template *t, enum cs_part part)
{
	return t->manifest->part[part].present ? t->manifest->part[part].sha256 : NULL;
}

struct cs_template *cs_template_free(struct cs_template *t)
{
	if (!t)
		return NULL;
	for (int part = 0; part < CS_PART_MAX; part++)
		cs_fd_closep(&t->part_fd[part]);
	t->manifest = cs_manifest_free(t->manifest);
	free(t);
	return NULL;
}
