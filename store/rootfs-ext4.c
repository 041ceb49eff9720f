/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/run.h"

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

int cs_rootfs_to_ext4(int erofs_fd, int dirfd, const char *name, uint64_t max_bytes,
		      struct cs_err *err)
{
	return cs_fail(err, EOPNOTSUPP, "ext4: not yet");
}
