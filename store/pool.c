/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/run.h"
#include "store/loopdev.h"
#include "store/pool-private.h"
#include "store/store.h"
#include "store/subvol.h"

#define MIN_BYTES   (256 * CS_MIB) /* mkfs.btrfs wants 109 MiB; less than this is no use */
#define MIXED_BYTES (2 * CS_GIB)

int cs_pool_place(const char *root, struct cs_pool_place *ret, struct cs_err *err)
{
	size_t bytes = strlen(root);

	while (bytes > 1 && root[bytes - 1] == '/')
		bytes--;
	if (!bytes || bytes >= sizeof(ret->root) || (bytes == 1 && root[0] == '/'))
		return cs_fail(err, EINVAL, "store '%.200s': not a folder of its own", root);
	memcpy(ret->root, root, bytes);
	ret->root[bytes] = '\0';
	snprintf(ret->image, sizeof(ret->image), "%s.img", ret->root);
	snprintf(ret->fresh, sizeof(ret->fresh), "%s.img.new", ret->root);
	return 0;
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static bool is_mounted(const char *root)
{
	struct statx st;

	return statx(AT_FDCWD, root, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) == 0 &&
	       (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* Without what begins with a dot, if (visible). */
static bool is_empty(int dirfd, bool visible)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int copy;

	copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	while (dir && (entry = readdir(dir))) {
		if (visible ? entry->d_name[0] != '.'
			    : strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			return false;
	}
	return dir != NULL;
}

/* A mount of (device) that is nowhere yet: if we are killed it goes away by itself, and the loop
 * device with it. Nothing on a store is ever run or opened as a device. */
static int mount_detached(const char *device, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fs = fsopen("btrfs", FSOPEN_CLOEXEC);
	int fd;

	if (fs < 0)
		return cs_fail_errno(err, errno,
				     "cannot mount Btrfs (run as root, on a kernel with Btrfs; or "
				     "use `clearstore init --path` on a folder)");
	if (fsconfig(fs, FSCONFIG_SET_STRING, "source", device, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "discard", "async", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return cs_fail_errno(err, errno, "cannot mount %s as Btrfs", device);
	fd = fsmount(fs, FSMOUNT_CLOEXEC,
		     MOUNT_ATTR_NOATIME | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	return fd < 0 ? cs_fail_errno(err, errno, "cannot mount %s", device) : fd;
}

static int attach_mount(int mount_fd, const char *root, struct cs_err *err)
{
	if (move_mount(mount_fd, "", AT_FDCWD, root, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return cs_fail_errno(err, errno, "cannot mount the store at '%s'", root);
	return 0;
}

/* ---- a new image ---- */

/* The file that becomes the image, locked: so a second `init` sees that one is at work, and one
 * that was killed leaves nothing but a file which the next takes over. */
static int open_fresh(const struct cs_pool_place *place, uint64_t bytes, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int flags = FS_NOCOW_FL;
	struct stat mine, named;

	fd = open(place->fresh, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make '%s'", place->fresh);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return cs_fail(err, EBUSY, "'%s': another process makes this store", place->root);
	if (fstat(fd, &mine) < 0 || stat(place->fresh, &named) < 0 || mine.st_ino != named.st_ino)
		return cs_fail(err, EEXIST, "'%s': another process made this store", place->root);
	if (ftruncate(fd, 0) < 0)
		return cs_fail_errno(err, errno, "'%s'", place->fresh);
	/* on a Btrfs: no copy-on-write below ours; elsewhere this is refused, and not needed */
	ioctl(fd, FS_IOC_SETFLAGS, &flags);
	if (ftruncate(fd, (off_t)bytes) < 0)
		return cs_fail_errno(err, errno, "'%s': cannot be so large", place->fresh);
	return cs_steal_fd(&fd);
}

static int make_btrfs(const char *path, uint64_t bytes, struct cs_err *err)
{
	/* single: the default of two copies of metadata in one file protects from nothing. mixed:
	 * on a small one, room set apart for data would soon leave none for metadata */
	const char *const argv[] = { "mkfs.btrfs", "-q",     "-f",
				     "-K",         "-m",     "single",
				     "-d",         "single", "-L",
				     "clearstore", path,     bytes < MIXED_BYTES ? "--mixed" : NULL,
				     NULL };

	return cs_run(argv, "btrfs-progs", err);
}

static int fill_image(const struct cs_pool_place *place, int image_fd, uint64_t bytes,
		      struct cs_err *err)
{
	cs_auto(cs_fd_closep) int loop = -1, mount_fd = -1, top = -1;
	char device[CS_LOOPDEV_PATH];
	int r;

	r = make_btrfs(place->fresh, bytes, err);
	if (r < 0)
		return r;
	r = cs_loopdev_attach(image_fd, false, &loop, device, err);
	if (r < 0)
		return r;
	mount_fd = mount_detached(device, err);
	if (mount_fd < 0)
		return mount_fd;
	/* a mount's own descriptor is for paths only, and no more when it is attached */
	top = openat(mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0)
		return cs_fail_errno(err, errno, "'%s'", place->fresh);
	r = cs_store_format(top, err);
	if (r < 0)
		return r;
	if (syncfs(top) < 0 || fsync(image_fd) < 0)
		return cs_fail_errno(err, errno, "cannot write '%s'", place->fresh);
	/* from here on it is a store: a kill before the mount is mended by the next command */
	if (renameat2(AT_FDCWD, place->fresh, AT_FDCWD, place->image, RENAME_NOREPLACE) < 0)
		return cs_fail_errno(err, errno, "cannot make '%s'", place->image);
	return attach_mount(mount_fd, place->root, err);
}

static int init_image(const struct cs_pool_place *place, uint64_t bytes, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int root = -1, fd = -1;
	bool made = false;
	int r;

	if (bytes < MIN_BYTES)
		return cs_fail(err, EINVAL, "a store of %llu MiB: too small (256M at least)",
			       (unsigned long long)(bytes / CS_MIB));
	root = open_dir(place->root);
	if (root == -ENOENT) {
		r = cs_mkdir_path(AT_FDCWD, place->root, 0755);
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot make '%s'", place->root);
		made = true;
	} else if (root < 0) {
		return cs_fail_errno(err, -root, "'%s'", place->root);
	} else if (!is_empty(root, false) || is_mounted(place->root)) {
		return cs_fail(err, ENOTEMPTY,
			       "'%s' is in use and no store (give another --store, or make it one "
			       "with --path)",
			       place->root);
	}
	fd = open_fresh(place, bytes, err);
	r = fd < 0 ? fd : fill_image(place, fd, bytes, err);
	if (r < 0 && fd >= 0)
		unlink(place->fresh);
	if (r < 0 && made)
		rmdir(place->root);
	return r;
}

/* ---- an existing folder ---- */

static int link_root(const struct cs_pool_place *place, int dirfd, const char *path,
		     struct cs_err *err)
{
	struct stat a, b;
	char target[PATH_MAX];

	if (fstat(dirfd, &a) == 0 && stat(place->root, &b) == 0 && a.st_dev == b.st_dev &&
	    a.st_ino == b.st_ino)
		return 0; /* the folder is the root itself, or linked already */
	if (!realpath(path, target))
		return cs_fail_errno(err, errno, "'%s'", path);
	/* an empty folder is in the way of nothing */
	rmdir(place->root);
	if (symlink(target, place->root) < 0)
		return cs_fail_errno(err, errno, "cannot link '%s' to '%s'", place->root, path);
	return 0;
}

/* Take a store's own files away again. Only called where nothing of a user's is in it: what is
 * there are marks of sweepers and the like. */
static int unformat(int dirfd, struct cs_err *err)
{
	static const char *const own[] = { "templates", "guests", "quarantine", "media",
					   "id",        ".lock",  "store.json" };
	int r = 0;

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]) && r == 0; i++)
		r = cs_subvol_remove(dirfd, own[i], err);
	return r;
}

static int fill_folder(const struct cs_pool_place *place, int dirfd, const char *path,
		       struct cs_err *err)
{
	bool fresh;
	int r;

	r = cs_store_check(dirfd, path, err);
	fresh = r == -ENOENT;
	if (fresh && !is_empty(dirfd, false))
		return cs_fail(err, ENOTEMPTY,
			       "'%s' holds other things (give a new folder: --path %s/clearstore)",
			       path, path);
	if (fresh)
		r = cs_store_format(dirfd, err);
	if (r == 0)
		r = link_root(place, dirfd, path, err);
	if (r < 0 && fresh)
		unformat(dirfd, NULL);
	return r;
}

static int init_folder(const struct cs_pool_place *place, const char *path, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = open_dir(path);
	bool made = false;
	int r;

	if (dirfd == -ENOENT) {
		r = cs_mkdir_path(AT_FDCWD, path, 0755);
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot make '%s'", path);
		made = true;
		dirfd = open_dir(path);
	}
	if (dirfd < 0)
		return cs_fail_errno(err, -dirfd, "'%s'", path);
	r = fill_folder(place, dirfd, path, err);
	if (r < 0 && made)
		rmdir(path);
	return r;
}

/* ---- both ---- */

int cs_pool_init(const struct cs_pool_spec *spec, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	struct cs_pool_place place;
	int r;

	r = cs_pool_place(spec->root, &place, err);
	if (r < 0)
		return r;
	dirfd = open_dir(place.root);
	r = dirfd < 0 ? -ENOENT : cs_store_check(dirfd, place.root, err);
	if (r == 0 || access(place.image, F_OK) == 0)
		return cs_fail(err, EEXIST, "'%s': there is a store already", place.root);
	if (r != -ENOENT)
		return r;
	if (dirfd == -ENOENT && faccessat(AT_FDCWD, place.root, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return cs_fail(err, EEXIST,
			       "'%s': a link to what is not there (mount its disk, or remove the "
			       "link)",
			       place.root);
	cs_fd_closep(&dirfd);
	if (spec->path)
		return init_folder(&place, spec->path, err);
	return init_image(&place, spec->bytes ? spec->bytes : CS_POOL_BYTES, err);
}

int cs_pool_open_image(const struct cs_pool_place *place, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = open(place->image, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return cs_fail_errno(err, errno, "'%s'", place->image);
	while (flock(fd, LOCK_EX) < 0) {
		if (errno != EINTR)
			return cs_fail_errno(err, errno, "cannot lock '%s'", place->image);
	}
	return cs_steal_fd(&fd);
}

int cs_pool_mount(const char *root, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int image = -1, loop = -1, mount_fd = -1;
	char device[CS_LOOPDEV_PATH];
	struct cs_pool_place place;
	int r;

	r = cs_pool_place(root, &place, err);
	if (r < 0)
		return r;
	image = cs_pool_open_image(&place, err);
	if (image < 0)
		return image;
	if (is_mounted(place.root))
		return 0;
	r = cs_mkdir_path(AT_FDCWD, place.root, 0755);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot make '%s'", place.root);
	r = cs_loopdev_attach(image, false, &loop, device, err);
	if (r < 0)
		return r;
	mount_fd = mount_detached(device, err);
	if (mount_fd < 0)
		return mount_fd;
	return attach_mount(mount_fd, place.root, err);
}

int cs_pool_unmount(const char *root, struct cs_err *err)
{
	struct cs_pool_place place;
	int r;

	r = cs_pool_place(root, &place, err);
	if (r < 0)
		return r;
	if (!is_mounted(place.root))
		return 0;
	if (umount2(place.root, UMOUNT_NOFOLLOW) < 0)
		return cs_fail_errno(err, errno, "cannot unmount '%s'", place.root);
	return 0;
}

/* -ENOTEMPTY when the store still holds something of its user's. */
static int check_unused(const char *root, struct cs_err *err)
{
	static const char *const folders[] = { "templates", "guests" };
	cs_auto(cs_fd_closep) int dirfd = open_dir(root), lock = -1;
	int r;

	r = dirfd < 0 ? -ENOENT : cs_store_check(dirfd, root, err);
	if (r == -ENOENT)
		return cs_fail(err, ENOENT, "'%s': no store here", root);
	if (r < 0)
		return r;
	/* whoever makes a guest or publishes a template right now has it */
	lock = openat(dirfd, ".lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0)
		return cs_fail(err, EBUSY, "'%s': another process works on it", root);
	for (int i = 0; i < 2; i++) {
		cs_auto(cs_fd_closep) int fd =
			openat(dirfd, folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd >= 0 && !is_empty(fd, true))
			return cs_fail(err, ENOTEMPTY, "'%s' still holds %s (remove them first)",
				       root, folders[i]);
	}
	return 0;
}

int cs_pool_remove(const char *root, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int image = -1, dirfd = -1;
	struct cs_pool_place place;
	int r;

	r = cs_pool_place(root, &place, err);
	if (r == 0 && access(place.image, F_OK) == 0)
		r = cs_pool_mount(place.root, err);
	if (r == 0)
		r = check_unused(place.root, err);
	if (r < 0)
		return r;

	if (is_mounted(place.root) && access(place.image, F_OK) == 0) {
		image = cs_pool_open_image(&place, err);
		r = image < 0 ? image : cs_pool_unmount(place.root, err);
		if (r < 0)
			return r;
		if (unlink(place.image) < 0)
			return cs_fail_errno(err, errno, "cannot delete '%s'", place.image);
		rmdir(place.root);
		return 0;
	}
	dirfd = open_dir(place.root);
	if (dirfd < 0)
		return cs_fail_errno(err, -dirfd, "'%s'", place.root);
	r = unformat(dirfd, err);
	if (r < 0)
		return cs_fail_in(err, r, "store '%s'", place.root);
	if (unlink(place.root) < 0 && errno == EISDIR)
		rmdir(place.root);
	return 0;
}
