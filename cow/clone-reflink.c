/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/clone-private.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "store/base/own.h"

static int clone_file(int source_fd, int dirfd, const char *name, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int error, r;

	r = cs_clone_make(dirfd, name, &fd, err);
	if (r < 0)
		return r;
	if (ioctl(fd, FICLONE, source_fd) == 0)
		return 0;
	/* ENOTTY: a file system that has never heard of it; ENOSYS: FUSE's way to say so */
	error = errno == ENOTTY || errno == ENOSYS ? EOPNOTSUPP : errno;
	unlinkat(dirfd, name, 0);
	return cs_fail_errno(err, error, "cannot reflink '%s'", name);
}

const struct cs_clone cs_clone_reflink = {
	.name = "reflink",
	.clone_file = clone_file,
};
