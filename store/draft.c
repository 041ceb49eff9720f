/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/draft.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/held.h"
#include "store/manifest.h"
#include "store/note.h"
#include "store/subvol.h"
#include "store/verity.h"
#include "store/version.h"

#define FIRST "1"

#define VERITY_TRIES     100
#define VERITY_WAIT_NSEC 10000000

struct cs_draft {
	struct cs_store *store;
	char name[CS_NAME_MAX + 1];
	char version[CS_NAME_MAX + 1];  /* as it will be called */
	char fresh[CS_NAME_MAX + 8];    /* the subvolume's name until then */
	char mark[2 * CS_NAME_MAX + 8]; /* folder in templates/ that we hold */
	char before[CS_NAME_MAX + 1];   /* the active version so far; "": a new template */
	int mark_fd, parent_fd, dirfd;  /* the mark, the folder around the subvolume, and that */
	bool activate;                  /* a version: new guests shall get it */
	bool shared;                    /* what it began with shares its blocks */
	bool remade[CS_PART_MAX];
	uint64_t part_shared[CS_PART_MAX]; /* of what was remade */
	int held_fd[CS_PART_MAX];          /* on another medium, until a version refers to it */
	struct cs_manifest *manifest;
};

/* ---- the subvolume ---- */

static int clone_part(const struct cs_view *view, int dirfd, const char *name, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd =
		openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	int r;

	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	r = cs_draft_clone(view->fd, view->bytes, fd, err);
	return r < 0 ? cs_fail_in(err, r, "part '%s'", name) : r;
}

/* On a file system without snapshots a part that stays is the same file in both versions: it is
 * never written to, and all guests read it through one page cache. */
static int link_parts(struct cs_draft *draft, const struct cs_template *from, int from_fd,
		      struct cs_err *err)
{
	struct cs_view view;
	int r;

	draft->shared = true;
	for (enum cs_part part = 0; part < CS_PART_MAX; part++) {
		const char *name = cs_part_name(part);

		if (cs_template_view(from, part, &view, NULL) < 0 || view.media != CS_MEDIA_FILE ||
		    linkat(from_fd, name, draft->dirfd, name, 0) == 0)
			continue;
		r = clone_part(&view, draft->dirfd, name, err);
		if (r < 0)
			return r;
		draft->shared = draft->shared && r > 0;
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
	draft->shared = shared;
	if (!shared)
		r = cs_subvol_create(draft->parent_fd, draft->fresh, err);
	if (r < 0)
		return r;
	draft->dirfd = openat(draft->parent_fd, draft->fresh,
			      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (draft->dirfd < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	return from && !shared ? link_parts(draft, from, from_fd, err) : 0;
}

/* ---- making ---- */

static struct cs_draft *new_draft(struct cs_store *store, const char *name)
{
	struct cs_draft *draft = calloc(1, sizeof(*draft));

	if (!draft)
		return NULL;
	draft->store = store;
	draft->mark_fd = draft->parent_fd = draft->dirfd = -1;
	for (int part = 0; part < CS_PART_MAX; part++)
		draft->held_fd[part] = -1;
	snprintf(draft->name, sizeof(draft->name), "%s", name);
	return draft;
}

static int take_manifest(struct cs_draft *draft, const struct cs_template *from, struct cs_err *err)
{
	draft->manifest = from ? cs_manifest_copy(cs_template_manifest(from))
			       : calloc(1, sizeof(*draft->manifest));
	if (!draft->manifest)
		return cs_fail_errno(err, ENOMEM, "manifest");
	/* of another template's version it is not one more */
	memcpy(draft->manifest->parent, draft->before, sizeof(draft->before));
	draft->manifest->shared_bytes = 0;
	return 0;
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
		r = cs_held_make(cs_store_templates_fd(store), draft->mark, &draft->mark_fd, err);
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

/* Hold the template's own folder: nobody removes it, nobody else makes a version of it. */
static int hold_template(struct cs_draft *draft, struct cs_err *err)
{
	draft->parent_fd = openat(cs_store_templates_fd(draft->store), draft->name,
				  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (draft->parent_fd < 0)
		return cs_fail_errno(err, errno, "cannot open it");
	if (flock(draft->parent_fd, LOCK_EX | LOCK_NB) < 0 ||
	    !cs_held_is(draft->parent_fd, cs_store_templates_fd(draft->store), draft->name))
		return cs_fail(err, EBUSY, "another process works on it");
	return cs_version_next(draft->parent_fd, draft->version, err);
}

int cs_draft_create_version(struct cs_store *store, const struct cs_template *from,
			    struct cs_draft **ret, struct cs_err *err)
{
	cs_auto(cs_draft_freep) struct cs_draft *draft = new_draft(store, cs_template_name(from));
	char active[CS_VERSION_TEXT];
	int r;

	if (!draft)
		return cs_fail_errno(err, ENOMEM, "template '%s'", cs_template_name(from));
	snprintf(draft->before, sizeof(draft->before), "%s", cs_template_version(from));
	r = take_manifest(draft, from, err);
	if (r == 0)
		r = hold_template(draft, err);
	if (r < 0)
		return r;
	draft->activate = cs_version_read(draft->parent_fd, active, NULL) == 0 &&
			  strcmp(active, draft->before) == 0;
	snprintf(draft->fresh, sizeof(draft->fresh), ".%s.new", draft->version);
	snprintf(draft->mark, sizeof(draft->mark), ".%s@%s.new", draft->name, draft->version);
	r = cs_held_make(cs_store_templates_fd(store), draft->mark, &draft->mark_fd, err);
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
	return draft->mark_fd;
}

const char *cs_draft_version(const struct cs_draft *draft)
{
	return draft->version;
}

void cs_draft_activate(struct cs_draft *draft, bool activate)
{
	draft->activate = activate;
}

struct cs_manifest *cs_draft_manifest(struct cs_draft *draft)
{
	return draft->manifest;
}

/* ---- parts ---- */

/* A part that is another version's file, too, or that fs-verity guards, becomes one of its own that
 * can be written to. */
static int own_part(const struct cs_draft *draft, const char *name, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd =
		openat(draft->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct cs_view view = { .fd = fd };
	char verity[CS_DIGEST_TEXT];
	struct stat st;
	int r;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	if (st.st_nlink == 1 && cs_verity_measure(fd, verity) < 0)
		return 0;
	if (unlinkat(draft->dirfd, name, 0) < 0)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	view.bytes = (uint64_t)st.st_size;
	r = clone_part(&view, draft->dirfd, name, err);
	return r < 0 ? r : 0;
}

/* A part that lies elsewhere, into the store. */
static int fetch_part(const struct cs_draft *draft, enum cs_part part, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct cs_view view;
	int r;

	r = cs_media_open(&draft->manifest->part[part], &view, err);
	if (r < 0)
		return cs_fail_in(err, r, "part '%s'", cs_part_name(part));
	fd = view.fd;
	r = view.media == CS_MEDIA_DEVDAX
		    ? cs_media_copy_out(&view, draft->dirfd, cs_part_name(part), err)
		    : clone_part(&view, draft->dirfd, cs_part_name(part), err);
	return r < 0 ? r : 0;
}

int cs_draft_open_part(struct cs_draft *draft, enum cs_part part, bool keep, int *ret,
		       struct cs_err *err)
{
	const char *name = cs_part_name(part);
	const int flags = O_RDWR | O_CREAT | O_NOFOLLOW | (keep ? 0 : O_EXCL);
	int fd, r = 0;

	if (keep && draft->manifest->part[part].media != CS_MEDIA_FILE)
		r = fetch_part(draft, part, err);
	else if (keep)
		r = own_part(draft, name, err);
	if (r < 0)
		return r;
	if (!keep && unlinkat(draft->dirfd, name, 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	fd = openat(draft->dirfd, name, flags | O_CLOEXEC, 0600);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make part '%s'", name);
	draft->manifest->part[part].present = false;
	draft->remade[part] = true;
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
	made->where[0] = made->verity[0] = '\0';
	made->present = true;
	return 0;
}

int cs_draft_place_part(struct cs_draft *draft, enum cs_part part, const struct cs_media_spec *spec,
			struct cs_err *err)
{
	struct cs_manifest_part *made = &draft->manifest->part[part];
	const char *name = cs_part_name(part);
	cs_auto(cs_fd_closep) int fd = -1;
	char file[2 * CS_NAME_MAX + 16];
	int r;

	if (spec->kind == CS_MEDIA_FILE)
		return 0;
	fd = openat(draft->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	snprintf(file, sizeof(file), "%s@%s.%s", draft->name, draft->version, name);
	r = cs_media_place(draft->store, spec, &(struct cs_media_piece){ file, fd, made->bytes },
			   made, &draft->held_fd[part], err);
	if (r < 0)
		return cs_fail_in(err, r, "part '%s'", name);
	/* it was of the file here */
	made->verity[0] = '\0';
	draft->remade[part] = true;
	draft->part_shared[part] = 0;
	if (unlinkat(draft->dirfd, name, 0) < 0)
		return cs_fail_errno(err, errno, "part '%s'", name);
	return 0;
}

int cs_draft_drop_part(struct cs_draft *draft, enum cs_part part, struct cs_err *err)
{
	if (unlinkat(draft->dirfd, cs_part_name(part), 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "part '%s'", cs_part_name(part));
	draft->manifest->part[part] = (struct cs_manifest_part){ 0 };
	return 0;
}

bool cs_draft_keeps(const struct cs_draft *draft, enum cs_part part)
{
	return draft->manifest->part[part].present && !draft->remade[part];
}

void cs_draft_part_shares(struct cs_draft *draft, enum cs_part part, uint64_t bytes)
{
	draft->part_shared[part] = bytes;
}

/* Of what is stored, the blocks that the version before has, too. */
static uint64_t count_shared(const struct cs_draft *draft)
{
	uint64_t bytes = 0;

	for (int i = 0; i < CS_PART_MAX; i++) {
		const struct cs_manifest_part *part = &draft->manifest->part[i];

		if (!part->present)
			continue;
		if (draft->remade[i])
			bytes += draft->part_shared[i] < part->stored_bytes ? draft->part_shared[i]
									    : part->stored_bytes;
		else if (draft->shared)
			bytes += part->stored_bytes;
	}
	return bytes;
}

/* ---- publishing ---- */

/* Whoever was handed the file, as a monitor that saved into it, lets go of it in a moment. */
static int enable_verity(int fd)
{
	int r = -ETXTBSY;

	for (int i = 0; i < VERITY_TRIES && r == -ETXTBSY; i++) {
		if (i)
			nanosleep(&(struct timespec){ .tv_nsec = VERITY_WAIT_NSEC }, NULL);
		r = cs_verity_enable(fd);
	}
	return r;
}

/* Where kernel and file system can, a part is guarded by them from now on; else by its SHA-256 and
 * a scrub. Not the disk, gigabytes of holes, which are hashed like data. */
static int protect_parts(struct cs_draft *draft, struct cs_err *err)
{
	int r = 0;

	for (enum cs_part part = 0; part < CS_PART_MAX && r != -EOPNOTSUPP; part++) {
		struct cs_manifest_part *made = &draft->manifest->part[part];
		cs_auto(cs_fd_closep) int fd = -1;

		if (!made->present || part == CS_PART_DISK || made->media != CS_MEDIA_FILE)
			continue;
		fd = openat(draft->dirfd, cs_part_name(part), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return cs_fail_errno(err, errno, "part '%s'", cs_part_name(part));
		r = enable_verity(fd);
		if (r == 0)
			r = cs_verity_measure(fd, made->verity);
		if (r < 0 && r != -EOPNOTSUPP)
			return cs_fail_errno(err, -r, "part '%s': cannot enable fs-verity",
					     cs_part_name(part));
	}
	return 0;
}

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
	struct cs_media_used used = { .n = 0 };
	cs_auto(cs_fd_closep) int dirfd = -1;

	if (user->find(user->arg, draft->name, draft->before, guest, NULL) != 0)
		return;
	snprintf(old, sizeof(old), ".%s.old", draft->before);
	dirfd = openat(draft->parent_fd, draft->before,
		       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd >= 0)
		cs_media_note(&used, dirfd);
	if (renameat2(draft->parent_fd, draft->before, draft->parent_fd, old, RENAME_NOREPLACE) < 0)
		return;
	cs_note_forget(draft->store, draft->name, draft->before);
	cs_subvol_remove(draft->parent_fd, old, NULL);
	cs_media_sweep_used(draft->store, &used);
}

/* After the first rename it is a version like others, after the second the active one: at every
 * moment the link leads to a whole one. */
static int publish_version(struct cs_draft *draft, const struct cs_template_user *user,
			   struct cs_err *err)
{
	int r;

	if (renameat2(draft->parent_fd, draft->fresh, draft->parent_fd, draft->version,
		      RENAME_NOREPLACE) < 0 ||
	    fsync(draft->parent_fd) < 0)
		return cs_fail_errno(err, errno, "cannot publish it");
	if (!draft->activate)
		return 0;
	r = cs_version_point(draft->store, draft->name, draft->parent_fd, draft->version, err);
	if (r < 0) {
		cs_subvol_remove(draft->parent_fd, draft->version, NULL);
		return r;
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

	if (draft->before[0])
		draft->manifest->shared_bytes = count_shared(draft);
	r = protect_parts(draft, err);
	if (r == 0)
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
	for (int part = 0; part < CS_PART_MAX; part++)
		cs_fd_closep(&draft->held_fd[part]);
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
