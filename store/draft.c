/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/draft.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/manifest.h"
#include "store/subvol.h"

#define FIRST "1"

struct cs_draft {
	struct cs_store *store;
	char name[CS_NAME_MAX + 1];
	char version[CS_NAME_MAX + 1];  /* as it will be called */
	char fresh[CS_NAME_MAX + 8];    /* the subvolume's name until then */
	char mark[2 * CS_NAME_MAX + 8]; /* folder in templates/ that we hold */
	char before[CS_NAME_MAX + 1];   /* the active version so far; "": a new template */
	int mark_fd, parent_fd, dirfd;  /* the mark, the folder around the subvolume, and that */
	struct cs_manifest *manifest;
};

/* ---- the folder that is held ---- */

/* Is the folder (fd) still the one called (name)? A sweeper may have been faster than our lock. */
static bool is_named(int fd, int dirfd, const char *name)
{
	struct stat held, named;

	return fstat(fd, &held) == 0 && fstatat(dirfd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

/* Make draft->mark and lock it. One that is there and can be locked is a dead maker's: away with
 * it. */
static int hold_mark(struct cs_draft *draft, struct cs_err *err)
{
	int templates_fd = cs_store_templates_fd(draft->store), r;

	for (int tries = 0; tries < 100; tries++) {
		cs_auto(cs_fd_closep) int fd = -1;
		bool made = mkdirat(templates_fd, draft->mark, 0700) == 0;

		if (!made && errno != EEXIST)
			return cs_fail_errno(err, errno, "cannot write to the store");
		fd = openat(templates_fd, draft->mark,
			    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return cs_fail_errno(err, errno, "cannot write to the store");
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (tries < 20) { /* a sweeper is done in a moment, a maker is not */
				nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
				continue;
			}
			return cs_fail(err, EBUSY, "another process adds it right now");
		}
		if (!is_named(fd, templates_fd, draft->mark))
			continue;
		if (made) {
			draft->mark_fd = cs_steal_fd(&fd);
			return 0;
		}
		r = cs_subvol_remove(templates_fd, draft->mark, err);
		if (r < 0)
			return r;
	}
	return cs_fail(err, EBUSY, "another process adds it right now");
}

/* ---- the subvolume ---- */

/* On a file system without snapshots: share the blocks, or copy. */
static int copy_part(int from_fd, uint64_t bytes, int to_fd, struct cs_err *err)
{
	loff_t in = 0, out = 0;

	if (ioctl(to_fd, FICLONE, from_fd) == 0)
		return 0;
	while ((uint64_t)in < bytes) {
		ssize_t n = copy_file_range(from_fd, &in, to_fd, &out, bytes - (uint64_t)in, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return cs_fail_errno(err, n ? errno : EIO, "cannot copy it");
	}
	return 0;
}

static int copy_parts(struct cs_draft *draft, const struct cs_template *from, struct cs_err *err)
{
	int r;

	for (enum cs_part part = 0; part < CS_PART_MAX; part++) {
		cs_auto(cs_fd_closep) int fd = -1;
		struct cs_view view;

		if (cs_template_view(from, part, &view, NULL) < 0)
			continue;
		fd = openat(draft->dirfd, cs_part_name(part),
			    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
		if (fd < 0)
			return cs_fail_errno(err, errno, "cannot make part '%s'",
					     cs_part_name(part));
		r = copy_part(view.fd, view.bytes, fd, err);
		if (r < 0)
			return cs_fail_in(err, r, "part '%s'", cs_part_name(part));
	}
	return 0;
}

/* Descriptor of the sealed version that (t) is. */
static int open_version(const struct cs_draft *draft, const struct cs_template *t, int *ret,
			struct cs_err *err)
{
	char path[2 * CS_NAME_MAX + 4];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", cs_template_name(t), cs_template_version(t));
	fd = openat(cs_store_templates_fd(draft->store), path,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "version '%s'", cs_template_version(t));
	*ret = fd;
	return 0;
}

static int make_subvolume(struct cs_draft *draft, const struct cs_template *from,
			  struct cs_err *err)
{
	cs_auto(cs_fd_closep) int from_fd = -1;
	bool shared = false;
	int r = 0;

	if (from) {
		r = open_version(draft, from, &from_fd, err);
		if (r < 0)
			return r;
		r = cs_subvol_snapshot(from_fd, draft->parent_fd, draft->fresh, err);
		shared = r == 0;
		if (r < 0 && r != -EOPNOTSUPP)
			return r;
	}
	if (!shared)
		r = cs_subvol_create(draft->parent_fd, draft->fresh, err);
	if (r < 0)
		return r;
	draft->dirfd = openat(draft->parent_fd, draft->fresh,
			      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (draft->dirfd < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	return from && !shared ? copy_parts(draft, from, err) : 0;
}

/* ---- making ---- */

static struct cs_draft *new_draft(struct cs_store *store, const char *name)
{
	struct cs_draft *draft = calloc(1, sizeof(*draft));

	if (!draft)
		return NULL;
	draft->store = store;
	draft->mark_fd = draft->parent_fd = draft->dirfd = -1;
	snprintf(draft->name, sizeof(draft->name), "%s", name);
	return draft;
}

static int take_manifest(struct cs_draft *draft, const struct cs_template *from, struct cs_err *err)
{
	draft->manifest = from ? cs_manifest_copy(cs_template_manifest(from))
			       : calloc(1, sizeof(*draft->manifest));
	return draft->manifest ? 0 : cs_fail_errno(err, ENOMEM, "manifest");
}

int cs_draft_create(struct cs_store *store, const char *name, const struct cs_template *from,
		    struct cs_draft **ret, struct cs_err *err)
{
	cs_auto(cs_draft_freep) struct cs_draft *draft = NULL;
	int r;

	r = cs_name_check("template", name, err);
	if (r < 0)
		return r;
	draft = new_draft(store, name);
	if (!draft)
		return cs_fail_errno(err, ENOMEM, "template '%s'", name);
	snprintf(draft->version, sizeof(draft->version), FIRST);
	snprintf(draft->fresh, sizeof(draft->fresh), FIRST);
	snprintf(draft->mark, sizeof(draft->mark), ".%s.new", name);
	if (!cs_missing_at(cs_store_templates_fd(store), name))
		return cs_fail(err, EEXIST,
			       "there is one of that name (clearstore template remove %s, or take "
			       "another name)",
			       name);
	r = take_manifest(draft, from, err);
	if (r == 0)
		r = hold_mark(draft, err);
	if (r < 0)
		return r;
	draft->parent_fd = fcntl(draft->mark_fd, F_DUPFD_CLOEXEC, 0);
	if (draft->parent_fd < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	r = make_subvolume(draft, from, err);
	if (r < 0)
		return r;
	*ret = cs_steal(draft);
	return 0;
}

/* The number behind the highest that is there or was left behind. */
static int next_version(struct cs_draft *draft, struct cs_err *err)
{
	for (unsigned n = 2; n < 1000000; n++) {
		snprintf(draft->version, sizeof(draft->version), "%u", n);
		if (cs_missing_at(draft->parent_fd, draft->version))
			return 0;
	}
	return cs_fail(err, ENOSPC, "no free number for a version");
}

/* Hold the template's own folder: nobody removes it, nobody else makes a version of it. */
static int hold_template(struct cs_draft *draft, struct cs_err *err)
{
	draft->parent_fd = openat(cs_store_templates_fd(draft->store), draft->name,
				  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (draft->parent_fd < 0)
		return cs_fail_errno(err, errno, "cannot open it");
	if (flock(draft->parent_fd, LOCK_EX | LOCK_NB) < 0 ||
	    !is_named(draft->parent_fd, cs_store_templates_fd(draft->store), draft->name))
		return cs_fail(err, EBUSY, "another process works on it");
	return next_version(draft, err);
}

int cs_draft_create_version(struct cs_store *store, const struct cs_template *from,
			    struct cs_draft **ret, struct cs_err *err)
{
	cs_auto(cs_draft_freep) struct cs_draft *draft = new_draft(store, cs_template_name(from));
	int r;

	if (!draft)
		return cs_fail_errno(err, ENOMEM, "template '%s'", cs_template_name(from));
	snprintf(draft->before, sizeof(draft->before), "%s", cs_template_version(from));
	r = take_manifest(draft, from, err);
	if (r == 0)
		r = hold_template(draft, err);
	if (r < 0)
		return r;
	snprintf(draft->fresh, sizeof(draft->fresh), ".%s.new", draft->version);
	snprintf(draft->mark, sizeof(draft->mark), ".%s@%s.new", draft->name, draft->version);
	r = hold_mark(draft, err);
	if (r == 0)
		r = cs_subvol_remove(draft->parent_fd, draft->fresh, err);
	if (r == 0)
		r = make_subvolume(draft, from, err);
	if (r < 0)
		return r;
	*ret = cs_steal(draft);
	return 0;
}

int cs_draft_dirfd(const struct cs_draft *draft)
{
	return draft->dirfd;
}

int cs_draft_folder(const struct cs_draft *draft)
{
	return draft->before[0] ? -1 : draft->mark_fd;
}

const char *cs_draft_version(const struct cs_draft *draft)
{
	return draft->version;
}

struct cs_manifest *cs_draft_manifest(struct cs_draft *draft)
{
	return draft->manifest;
}

/* ---- parts ---- */

int cs_draft_open_part(struct cs_draft *draft, enum cs_part part, bool keep, int *ret,
		       struct cs_err *err)
{
	const char *name = cs_part_name(part);
	const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | (keep ? 0 : O_EXCL);
	int fd;

	if (!keep && unlinkat(draft->dirfd, name, 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	fd = openat(draft->dirfd, name, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	draft->manifest->part[part].present = false;
	*ret = fd;
	return 0;
}

int cs_draft_seal_part(struct cs_draft *draft, enum cs_part part, struct cs_err *err)
{
	struct cs_manifest_part *made = &draft->manifest->part[part];
	const char *name = cs_part_name(part);
	cs_auto(cs_fd_closep) int fd =
		openat(draft->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct cs_view view;
	struct stat st;
	int r;

	if (fd < 0 || fchmod(fd, 0444) < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	/* let the disk work while the processor does */
	sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	view = (struct cs_view){ .fd = fd, .bytes = (uint64_t)st.st_size };
	r = cs_manifest_digest(part, &view, NULL, made->sha256, err);
	if (r < 0)
		return cs_fail_in(err, r, "part '%s'", name);
	if (fdatasync(fd) < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot write part '%s'", name);
	made->bytes = (uint64_t)st.st_size;
	made->stored_bytes = (uint64_t)st.st_blocks * 512;
	made->media = CS_MEDIA_FILE;
	made->present = true;
	return 0;
}

int cs_draft_drop_part(struct cs_draft *draft, enum cs_part part, struct cs_err *err)
{
	if (unlinkat(draft->dirfd, cs_part_name(part), 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "part '%s'", cs_part_name(part));
	draft->manifest->part[part] = (struct cs_manifest_part){ 0 };
	return 0;
}

/* ---- publishing ---- */

/* Sealed first: a sealed subvolume cannot be moved to another folder, but the folder around it can
 * be renamed. After the rename the template is there, and whole. */
static int publish_template(struct cs_draft *draft, struct cs_err *err)
{
	int templates_fd = cs_store_templates_fd(draft->store);

	if (fchmod(draft->parent_fd, 0755) < 0 ||
	    symlinkat(draft->version, draft->parent_fd, "active") < 0 ||
	    fsync(draft->parent_fd) < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	if (renameat2(templates_fd, draft->mark, templates_fd, draft->name, RENAME_NOREPLACE) < 0) {
		if (errno == EEXIST)
			return cs_fail(err, EEXIST, "another process added it meanwhile");
		return cs_fail_errno(err, errno, "cannot publish it");
	}
	cs_fd_closep(&draft->mark_fd);
	return 0;
}

/* The version before, unless a guest has it: out of sight first. The new one is published: what
 * cannot be deleted stays until the template goes. */
static void drop_before(struct cs_draft *draft, const struct cs_template_user *user)
{
	char guest[64], old[CS_NAME_MAX + 8];

	if (user->find(user->arg, draft->name, draft->before, guest, NULL) != 0)
		return;
	snprintf(old, sizeof(old), ".%s.old", draft->before);
	if (renameat2(draft->parent_fd, draft->before, draft->parent_fd, old, RENAME_NOREPLACE) ==
	    0)
		cs_subvol_remove(draft->parent_fd, old, NULL);
}

/* The link is replaced by rename: at every moment it leads to a whole version. */
static int publish_version(struct cs_draft *draft, const struct cs_template_user *user,
			   struct cs_err *err)
{
	const char *link = ".active.new";

	if (renameat2(draft->parent_fd, draft->fresh, draft->parent_fd, draft->version,
		      RENAME_NOREPLACE) < 0)
		return cs_fail_errno(err, errno, "cannot publish it");
	if ((unlinkat(draft->parent_fd, link, 0) < 0 && errno != ENOENT) ||
	    symlinkat(draft->version, draft->parent_fd, link) < 0 || fsync(draft->parent_fd) < 0 ||
	    renameat(draft->parent_fd, link, draft->parent_fd, "active") < 0 ||
	    fsync(draft->parent_fd) < 0) {
		cs_fail_errno(err, errno, "cannot publish it");
		cs_subvol_remove(draft->parent_fd, draft->version, NULL);
		return -EIO;
	}
	if (user)
		drop_before(draft, user);
	return 0;
}

int cs_draft_publish(struct cs_draft *draft, const struct cs_template_user *user,
		     struct cs_err *err)
{
	cs_auto(cs_fd_closep) int lock = -1;
	int r;

	r = cs_manifest_save(draft->dirfd, draft->manifest, err);
	if (r == 0)
		r = cs_subvol_seal(draft->parent_fd, draft->fresh, err);
	if (r < 0)
		return r;
	if (fsync(draft->dirfd) < 0 || fsync(draft->parent_fd) < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	r = cs_store_lock(draft->store, true, &lock, err);
	if (r < 0)
		return r;
	r = draft->before[0] ? publish_version(draft, user, err) : publish_template(draft, err);
	if (r < 0)
		return r;
	cs_fd_closep(&draft->dirfd);
	r = cs_sync_dir(cs_store_templates_fd(draft->store));
	return r < 0 ? cs_fail_errno(err, -r, "cannot write to the store") : 0;
}

struct cs_draft *cs_draft_free(struct cs_draft *draft)
{
	if (!draft)
		return NULL;
	cs_fd_closep(&draft->dirfd);
	/* Published, a template's mark is ours no more; a version's goes when its work is done. */
	if (draft->mark_fd >= 0) {
		if (draft->before[0] && draft->parent_fd >= 0)
			cs_subvol_remove(draft->parent_fd, draft->fresh, NULL);
		cs_subvol_remove(cs_store_templates_fd(draft->store), draft->mark, NULL);
	}
	cs_fd_closep(&draft->parent_fd);
	cs_fd_closep(&draft->mark_fd);
	cs_manifest_free(draft->manifest);
	free(draft);
	return NULL;
}
