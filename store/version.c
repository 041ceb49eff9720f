/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/version.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/held.h"
#include "store/media.h"
#include "store/note.h"
#include "store/subvol.h"

#define LINK        "active"
#define NUMBER_MAX  1000000
#define POINT_TRIES 100

/* ---- the folder of a template ---- */

static int open_folder(struct cs_store *store, const char *name, int *ret, struct cs_err *err)
{
	int fd, r;

	r = cs_name_check("template", name, err);
	if (r < 0)
		return r;
	fd = openat(cs_store_templates_fd(store), name,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return cs_fail(err, ENOENT,
			       "template '%s': not there (see: clearstore template list)", name);
	if (fd < 0)
		return cs_fail_errno(err, errno, "template '%s'", name);
	*ret = fd;
	return 0;
}

/* A list of what is in a template's folder, oldest first. */
struct names {
	struct dirent **v;
	int n;
};

static void names_freep(struct names *names)
{
	for (int i = 0; i < names->n; i++)
		free(names->v[i]);
	free(names->v);
}

static int is_version(const struct dirent *entry)
{
	return entry->d_name[0] != '.' && strcmp(entry->d_name, LINK) != 0;
}

static int by_number(const struct dirent **a, const struct dirent **b)
{
	return strverscmp((*a)->d_name, (*b)->d_name);
}

static int list(int dirfd, struct names *ret, struct cs_err *err)
{
	ret->n = scandirat(dirfd, ".", &ret->v, is_version, by_number);
	if (ret->n >= 0)
		return 0;
	ret->n = 0;
	return cs_fail_errno(err, errno, "cannot list the versions");
}

int cs_version_next(int dirfd, char ret[CS_VERSION_TEXT], struct cs_err *err)
{
	cs_auto(names_freep) struct names names = { 0 };
	uint64_t highest = 0, number;
	int r;

	r = list(dirfd, &names, err);
	if (r < 0)
		return r;
	for (int i = 0; i < names.n; i++) {
		if (cs_parse_u64(names.v[i]->d_name, NUMBER_MAX, &number) == 0 && number > highest)
			highest = number;
	}
	if (highest >= NUMBER_MAX)
		return cs_fail(err, ENOSPC, "no free number for a version");
	snprintf(ret, CS_VERSION_TEXT, "%llu", (unsigned long long)highest + 1);
	return 0;
}

/* ---- the active one ---- */

/* The link is at (path). */
static int read_link(int dirfd, const char *path, char ret[CS_VERSION_TEXT], struct cs_err *err)
{
	char target[CS_VERSION_TEXT + 1];
	ssize_t n;
	int r;

	n = readlinkat(dirfd, path, target, sizeof(target) - 1);
	if (n < 0)
		return cs_fail_errno(err, errno, "no active version");
	target[n] = '\0';
	r = cs_name_check("template version", target, err);
	if (r < 0)
		return r;
	memcpy(ret, target, (size_t)n + 1);
	return 0;
}

int cs_version_read(int dirfd, char ret[CS_VERSION_TEXT], struct cs_err *err)
{
	return read_link(dirfd, LINK, ret, err);
}

int cs_version_open_active(int templates_fd, const char *name, char ret[CS_VERSION_TEXT])
{
	struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
				.resolve = RESOLVE_NO_SYMLINKS };
	char path[2 * CS_VERSION_TEXT];
	int fd, r;

	snprintf(path, sizeof(path), "%.*s/" LINK, CS_NAME_MAX, name);
	r = read_link(templates_fd, path, ret, NULL);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%.*s/%s", CS_NAME_MAX, name, ret);
	fd = (int)syscall(SYS_openat2, templates_fd, path, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

int cs_version_active(struct cs_store *store, const char *name, char ret[CS_VERSION_TEXT],
		      struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = open_folder(store, name, &dirfd, err);
	if (r < 0)
		return r;
	r = cs_version_read(dirfd, ret, err);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", name) : 0;
}

/* The new link is made in templates/, where a sweep finds what a kill leaves: it needs no look into
 * every template. A sweeper may also take it from under us: then once more. */
int cs_version_point(struct cs_store *store, const char *name, int dirfd, const char *version,
		     struct cs_err *err)
{
	const int templates_fd = cs_store_templates_fd(store);
	char fresh[CS_NAME_MAX + 16];
	int r = -ENOENT;

	snprintf(fresh, sizeof(fresh), ".%s@active.new", name);
	for (int i = 0; i < POINT_TRIES && r == -ENOENT; i++) {
		if ((unlinkat(templates_fd, fresh, 0) < 0 && errno != ENOENT) ||
		    symlinkat(version, templates_fd, fresh) < 0)
			return cs_fail_errno(err, errno, "cannot write to the store");
		r = renameat(templates_fd, fresh, dirfd, LINK) < 0 ? -errno : 0;
	}
	if (r == 0 && fsync(dirfd) < 0)
		r = -errno;
	return r < 0 ? cs_fail_errno(err, -r, "cannot switch to version '%s'", version) : 0;
}

int cs_version_activate(struct cs_store *store, const char *name, const char *version,
			char before[CS_VERSION_TEXT], struct cs_err *err)
{
	cs_auto(cs_template_freep) struct cs_template *t = NULL;
	cs_auto(cs_fd_closep) int lock = -1, dirfd = -1;
	char whole[2 * CS_VERSION_TEXT];
	int r;

	r = cs_name_check("template version", version, err);
	if (r == 0)
		r = cs_store_lock(store, true, &lock, err);
	if (r == 0)
		r = open_folder(store, name, &dirfd, err);
	if (r < 0)
		return r;
	/* whole enough that guests can be made of it */
	snprintf(whole, sizeof(whole), "%s@%s", name, version);
	r = cs_template_open(store, whole, &t, err);
	if (r < 0)
		return r;
	if (cs_version_read(dirfd, before, NULL) < 0)
		before[0] = '\0';
	if (strcmp(before, version) == 0)
		return 0;
	r = cs_version_point(store, name, dirfd, version, err);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", name) : 0;
}

struct earlier {
	char version[CS_VERSION_TEXT]; /* the last that was whole */
	bool seen;
};

static int find_earlier(const struct cs_version *version, void *arg)
{
	struct earlier *earlier = arg;

	earlier->seen = version->active;
	if (!version->active && version->t)
		snprintf(earlier->version, sizeof(earlier->version), "%s", version->version);
	return version->active;
}

int cs_version_rollback(struct cs_store *store, const char *name, char ret[CS_VERSION_TEXT],
			struct cs_err *err)
{
	struct earlier earlier = { 0 };
	char before[CS_VERSION_TEXT];
	int r;

	r = cs_version_each(store, name, find_earlier, &earlier, err);
	if (r < 0)
		return r;
	if (!earlier.seen || !earlier.version[0])
		return cs_fail(err, ENOENT,
			       "template '%s': no version before the active one (see: clearstore "
			       "template versions %s)",
			       name, name);
	r = cs_version_activate(store, name, earlier.version, before, err);
	if (r == 0)
		memcpy(ret, earlier.version, sizeof(earlier.version));
	return r;
}

int cs_version_each(struct cs_store *store, const char *name, cs_version_fn fn, void *arg,
		    struct cs_err *err)
{
	cs_auto(names_freep) struct names names = { 0 };
	cs_auto(cs_fd_closep) int dirfd = -1;
	char active[CS_VERSION_TEXT] = "", whole[2 * CS_VERSION_TEXT];
	int r;

	r = open_folder(store, name, &dirfd, err);
	if (r == 0)
		r = list(dirfd, &names, err);
	if (r < 0)
		return r;
	cs_version_read(dirfd, active, NULL);
	for (int i = 0; i < names.n && r == 0; i++) {
		cs_auto(cs_template_freep) struct cs_template *t = NULL;
		struct cs_err broken = { 0 };
		struct cs_version version = { .version = names.v[i]->d_name, .broken = &broken };

		snprintf(whole, sizeof(whole), "%s@%.*s", name, CS_NAME_MAX, version.version);
		/* gone since it was listed */
		if (cs_template_open(store, whole, &t, &broken) < 0 &&
		    cs_missing_at(dirfd, version.version))
			continue;
		version.active = strcmp(active, version.version) == 0;
		version.t = t;
		if (t)
			version.broken = NULL;
		r = fn(&version, arg);
	}
	return r;
}

int cs_version_names(struct cs_store *store, const char *name,
		     int (*fn)(const char *version, void *arg), void *arg, struct cs_err *err)
{
	cs_auto(names_freep) struct names names = { 0 };
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	r = open_folder(store, name, &dirfd, err);
	if (r == 0)
		r = list(dirfd, &names, err);
	for (int i = 0; i < names.n && r == 0; i++)
		r = fn(names.v[i]->d_name, arg);
	return r;
}

/* ---- removing ---- */

/* What is held while versions go: nobody makes one, nobody removes the template, and when we are
 * killed a sweep knows where to look. */
struct removal {
	struct cs_store *store;
	const char *name;
	const struct cs_template_user *user;
	struct cs_media_used used;
	int lock, dirfd, mark_fd;
	char mark[CS_NAME_MAX + 16], active[CS_VERSION_TEXT];
};

static void removal_end(struct removal *removal)
{
	if (removal->mark_fd >= 0)
		cs_subvol_remove(cs_store_templates_fd(removal->store), removal->mark, NULL);
	cs_fd_closep(&removal->mark_fd);
	cs_fd_closep(&removal->dirfd);
	cs_fd_closep(&removal->lock);
}

static int removal_begin(struct removal *removal, struct cs_err *err)
{
	int r;

	r = cs_store_lock(removal->store, true, &removal->lock, err);
	if (r == 0)
		r = open_folder(removal->store, removal->name, &removal->dirfd, err);
	if (r < 0)
		return r;
	if (flock(removal->dirfd, LOCK_EX | LOCK_NB) < 0)
		return cs_fail(err, EBUSY, "template '%s': another process works on it",
			       removal->name);
	snprintf(removal->mark, sizeof(removal->mark), ".%s@gone.old", removal->name);
	r = cs_held_make(cs_store_templates_fd(removal->store), removal->mark, &removal->mark_fd,
			 err);
	if (r < 0)
		return cs_fail_in(err, r, "template '%s'", removal->name);
	if (cs_version_read(removal->dirfd, removal->active, NULL) < 0)
		removal->active[0] = '\0';
	return 0;
}

/* 1: no guest has it, and new ones do not get it. */
static int is_free(const struct removal *removal, const char *version, char guest[64],
		   struct cs_err *err)
{
	int r;

	guest[0] = '\0';
	if (strcmp(version, removal->active) == 0)
		return 0;
	if (!removal->user)
		return 1;
	r = removal->user->find(removal->user->arg, removal->name, version, guest, err);
	return r < 0 ? r : r == 0;
}

/* Out of sight at once; what that takes comes later, without the store's lock. */
static int hide(struct removal *removal, const char *version, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd =
		openat(removal->dirfd, version, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	char old[CS_VERSION_TEXT + 8];
	int r;

	if (fd >= 0)
		cs_media_note(&removal->used, fd);

	snprintf(old, sizeof(old), ".%s.old", version);
	r = cs_subvol_remove(removal->dirfd, old, err);
	if (r < 0)
		return r;
	if (renameat2(removal->dirfd, version, removal->dirfd, old, RENAME_NOREPLACE) < 0)
		return cs_fail_errno(err, errno, "version '%s'", version);
	cs_note_forget(removal->store, removal->name, version);
	return 0;
}

static int remove_hidden(struct removal *removal, struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int copy, r = 0;

	if (fsync(removal->dirfd) < 0)
		return cs_fail_errno(err, errno, "cannot write to the store");
	cs_media_sweep_used(removal->store, &removal->used);
	cs_fd_closep(&removal->lock);
	copy = openat(removal->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	while (dir && r == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' && strcmp(entry->d_name, ".") != 0 &&
		    strcmp(entry->d_name, "..") != 0)
			r = cs_subvol_remove(removal->dirfd, entry->d_name, err);
	}
	return r;
}

int cs_version_remove(struct cs_store *store, const char *name, const char *version,
		      const struct cs_template_user *user, struct cs_err *err)
{
	cs_auto(removal_end) struct removal removal = {
		.store = store, .name = name, .user = user, .lock = -1, .dirfd = -1, .mark_fd = -1
	};
	char guest[64];
	int r;

	r = cs_name_check("template version", version, err);
	if (r == 0)
		r = removal_begin(&removal, err);
	if (r < 0)
		return r;
	if (strcmp(version, LINK) == 0 || cs_missing_at(removal.dirfd, version))
		return cs_fail(err, ENOENT, "template '%s': no version '%s'", name, version);
	r = is_free(&removal, version, guest, err);
	if (r < 0)
		return r;
	if (r == 0 && !guest[0])
		return cs_fail(err, EBUSY,
			       "template '%s': version '%s' is the active one (activate another "
			       "first, or remove the whole template)",
			       name, version);
	if (r == 0)
		return cs_fail(err, EBUSY,
			       "template '%s': version '%s' is used by guest '%.63s' (remove that "
			       "first: clearstore remove %.63s)",
			       name, version, guest, guest);
	r = hide(&removal, version, err);
	if (r == 0)
		r = remove_hidden(&removal, err);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", name) : 0;
}

int cs_version_prune(struct cs_store *store, const struct cs_prune *prune, struct cs_err *err)
{
	cs_auto(removal_end) struct removal removal = { .store = store,
							.name = prune->name,
							.user = prune->user,
							.lock = -1,
							.dirfd = -1,
							.mark_fd = -1 };
	cs_auto(names_freep) struct names names = { 0 };
	char guest[64];
	int r;

	r = removal_begin(&removal, err);
	if (r < 0)
		return r;
	r = list(removal.dirfd, &names, err);
	for (int i = 0; r == 0 && (unsigned)names.n > prune->keep && i < names.n - (int)prune->keep;
	     i++) {
		r = is_free(&removal, names.v[i]->d_name, guest, err);
		if (r <= 0)
			continue;
		r = hide(&removal, names.v[i]->d_name, err);
		if (r == 0 && prune->gone)
			prune->gone(prune->arg, names.v[i]->d_name);
	}
	if (r == 0)
		r = remove_hidden(&removal, err);
	return r < 0 ? cs_fail_in(err, r, "template '%s'", prune->name) : 0;
}
