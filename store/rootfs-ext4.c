/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "store/base/guest.h"
#include "store/base/num.h"
#include "store/base/run.h"
#include "store/loopdev.h"

static int create(int dirfd, const char *name, uint64_t bytes, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;

	fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return cs_fail_errno(err, errno, "cannot make '%s'", name);
	return 0;
}

int cs_rootfs_empty_disk(int dirfd, const char *name, uint64_t bytes, struct cs_err *err)
{
	char path[64];
	/* no space kept for root or for growing; inode tables are holes and known to be zero, so
	 * neither this nor the guest writes them */
	const char *const argv[] = { "mke2fs",
				     "-q",
				     "-F",
				     "-t",
				     "ext4",
				     "-b",
				     "4096",
				     "-m",
				     "0",
				     "-L",
				     "clearstore",
				     "-J",
				     "size=8",
				     "-O",
				     "^resize_inode",
				     "-E",
				     "nodiscard,assume_storage_prezeroed=1",
				     path,
				     NULL };
	int r;

	r = create(dirfd, name, bytes, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d/%s", (int)getpid(), dirfd, name);
	return cs_run(argv, "e2fsprogs", err);
}

int cs_rootfs_resize_disk(int dirfd, const char *name, uint64_t bytes, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char path[64], size[32];
	const char *const argv[] = { "resize2fs", "-p", path, size, NULL };
	int r;

	fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot open '%s'", name);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), fd);
	snprintf(size, sizeof(size), "%lluK", (unsigned long long)(bytes / 1024));
	r = cs_run(argv, "e2fsprogs", err);
	if (r == 0 && ftruncate(fd, (off_t)bytes) < 0)
		r = cs_fail_errno(err, errno, "'%s': cannot be so large", name);
	return r;
}

/* A read-only mount of an EROFS that is nowhere in the tree of folders: it is reached by descriptor
 * only, and gone with it, also when we are killed. */
static int mount_erofs(int erofs_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int loop = -1, fs = -1;
	char device[CS_LOOPDEV_PATH];
	int fd, r;

	r = cs_loopdev_attach(erofs_fd, true, &loop, device, err);
	if (r < 0)
		return r;
	fs = fsopen("erofs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return cs_fail_errno(err, errno,
				     "an ext4 root is made from an EROFS, which this host's kernel "
				     "cannot mount (modprobe erofs; or take --root-format erofs)");
	if (fsconfig(fs, FSCONFIG_SET_STRING, "source", device, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return cs_fail_errno(err, errno, "cannot mount the EROFS on %s", device);
	fd = fsmount(fs, FSMOUNT_CLOEXEC,
		     MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	return fd < 0 ? cs_fail_errno(err, errno, "cannot mount the EROFS on %s", device) : fd;
}

static int make_ext4(int mount_fd, const char *path, uint64_t inodes, struct cs_err *err)
{
	char from[64], count[32];
	const char *const argv[] = { "mke2fs",
				     "-q",
				     "-F",
				     "-t",
				     "ext4",
				     "-b",
				     "4096",
				     "-m",
				     "0",
				     "-L",
				     "clearstore",
				     "-N",
				     count,
				     "-O",
				     "^has_journal,^resize_inode",
				     "-E",
				     "nodiscard,assume_storage_prezeroed=1",
				     "-d",
				     from,
				     path,
				     NULL };

	snprintf(from, sizeof(from), "/proc/%d/fd/%d", (int)getpid(), mount_fd);
	snprintf(count, sizeof(count), "%llu", (unsigned long long)inodes);
	return cs_run(argv, "e2fsprogs", err);
}

int cs_rootfs_to_ext4(int erofs_fd, int dirfd, const char *name, uint64_t max_bytes,
		      struct cs_err *err)
{
	cs_auto(cs_fd_closep) int mount_fd = mount_erofs(erofs_fd, err);
	uint64_t bytes, inodes;
	struct statfs fs;
	char path[64];
	int r = -EIO;

	if (mount_fd < 0)
		return mount_fd;
	if (fstatfs(mount_fd, &fs) < 0)
		return cs_fail_errno(err, errno, "cannot mount the EROFS");
	/* A folder and a long link take a block each here, and inodes 256 bytes: so much more than
	 * the EROFS, for a start. mke2fs says when it is too little. */
	inodes = (uint64_t)fs.f_files - fs.f_ffree + 64;
	bytes = (uint64_t)fs.f_blocks * 4096 + inodes * 512 + (4 << 20);
	for (int tries = 0; tries < 6; tries++, bytes += bytes / 4) {
		bytes = cs_align_up(bytes, CS_ROOT_GRAIN);
		if (bytes > max_bytes)
			return cs_fail(err, ENOSPC,
				       "as ext4 it needs more room than the store has (remove a "
				       "template, or make room on the disk under the store)");
		unlinkat(dirfd, name, 0);
		r = create(dirfd, name, bytes, err);
		if (r < 0)
			return r;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d/%s", (int)getpid(), dirfd, name);
		r = make_ext4(mount_fd, path, inodes, err);
		if (r == 0 || r != -EIO)
			return r;
	}
	return r;
}
