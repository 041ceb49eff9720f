/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/subvol.h"

#include <btrfsutil.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"

/* Nothing of ours is nested deeper than guests/<name>/<subvolume>/... by hand. */
#define DEPTH_MAX 64

static bool on_btrfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC;
}

/* The library's words say which step failed, errno says why. */
static int fail_util(struct cs_err *err, enum btrfs_util_error e, const char *name)
{
	int saved = errno ? errno : EIO;

	return cs_fail_errno(err, saved, "'%s': %s", name, btrfs_util_strerror(e));
}

int cs_subvol_create(int dirfd, const char *name, struct cs_err *err)
{
	enum btrfs_util_error e;

	if (!on_btrfs(dirfd)) {
		if (mkdirat(dirfd, name, 0755) < 0)
			return cs_fail_errno(err, errno, "cannot make folder '%s'", name);
		return 0;
	}
	e = btrfs_util_create_subvolume_fd(dirfd, name, 0, NULL, NULL);
	return e == BTRFS_UTIL_OK ? 0 : fail_util(err, e, name);
}

static int open_dir(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

bool cs_subvol_is(int dirfd, const char *name)
{
	cs_auto(cs_fd_closep) int fd = open_dir(dirfd, name);

	return fd >= 0 && btrfs_util_is_subvolume_fd(fd) == BTRFS_UTIL_OK;
}

/* A folder for a stand-in: nothing in it can be written to by accident. Root still can. */
static int seal_folder(int fd, const char *name, struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int copy;

	copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir)
		return cs_fail_errno(err, errno, "cannot read folder '%s'", name);
	while ((entry = readdir(dir))) {
		struct stat st;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISLNK(st.st_mode))
			continue;
		if (fchmodat(fd, entry->d_name, st.st_mode & 07555, 0) < 0)
			return cs_fail_errno(err, errno, "cannot seal '%s/%s'", name,
					     entry->d_name);
	}
	if (fchmod(fd, 0555) < 0)
		return cs_fail_errno(err, errno, "cannot seal '%s'", name);
	return 0;
}

int cs_subvol_seal(int dirfd, const char *name, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open_dir(dirfd, name);
	enum btrfs_util_error e;

	if (fd < 0)
		return cs_fail_errno(err, -fd, "cannot seal '%s'", name);
	if (btrfs_util_is_subvolume_fd(fd) != BTRFS_UTIL_OK)
		return seal_folder(fd, name, err);
	e = btrfs_util_set_subvolume_read_only_fd(fd, true);
	return e == BTRFS_UTIL_OK ? 0 : fail_util(err, e, name);
}

int cs_subvol_snapshot(int source_dirfd, int dirfd, const char *name, struct cs_err *err)
{
	enum btrfs_util_error e;

	if (!on_btrfs(source_dirfd) || !on_btrfs(dirfd))
		return cs_fail(err, EOPNOTSUPP, "'%s': no snapshots on this file system", name);
	e = btrfs_util_create_snapshot_fd2(source_dirfd, dirfd, name, 0, NULL, NULL);
	return e == BTRFS_UTIL_OK ? 0 : fail_util(err, e, name);
}

static int remove_at(int dirfd, const char *name, unsigned depth, struct cs_err *err);

static int remove_children(int fd, const char *name, unsigned depth, struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int copy, r;

	copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir)
		return cs_fail_errno(err, errno, "cannot read folder '%s'", name);
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		r = remove_at(fd, entry->d_name, depth + 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What is in it goes first. A deleted subvolume is emptied by the kernel in its own time, and until
 * then its room is not free: the next import would be told that the store is full. */
static int remove_subvolume(int dirfd, const char *name, int fd, unsigned depth, struct cs_err *err)
{
	enum btrfs_util_error e;
	bool sealed = false;
	int r;

	e = btrfs_util_get_subvolume_read_only_fd(fd, &sealed);
	if (e == BTRFS_UTIL_OK && sealed)
		e = btrfs_util_set_subvolume_read_only_fd(fd, false);
	if (e != BTRFS_UTIL_OK)
		return fail_util(err, e, name);
	r = remove_children(fd, name, depth, err);
	if (r < 0)
		return r;
	e = btrfs_util_delete_subvolume_fd(dirfd, name, 0);
	return e == BTRFS_UTIL_OK ? 0 : fail_util(err, e, name);
}

static int remove_at(int dirfd, const char *name, unsigned depth, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open_dir(dirfd, name);
	int r;

	if (depth > DEPTH_MAX)
		return cs_fail(err, ELOOP, "'%s': nested over %d folders deep", name, DEPTH_MAX);
	if (fd == -ENOENT)
		return 0;
	if (fd == -ENOTDIR || fd == -ELOOP) {
		if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
			return cs_fail_errno(err, errno, "cannot remove '%s'", name);
		return 0;
	}
	if (fd < 0)
		return cs_fail_errno(err, -fd, "cannot remove '%s'", name);

	if (btrfs_util_is_subvolume_fd(fd) == BTRFS_UTIL_OK)
		return remove_subvolume(dirfd, name, fd, depth, err);
	/* a sealed folder refuses its owner, unless that is root */
	fchmod(fd, 0700);
	r = remove_children(fd, name, depth, err);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "cannot remove '%s'", name);
	return 0;
}

int cs_subvol_remove(int dirfd, const char *name, struct cs_err *err)
{
	return remove_at(dirfd, name, 0, err);
}
