/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/quota.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "store/base/own.h"

/* Linux 6.7; Debian 12's headers are of 6.1. */
#define QUOTA_ENABLE_SIMPLE 4

/* In sysfs a file system is a folder with its UUID as name. */
static int mode_of(int fd, char *ret, size_t room)
{
	cs_auto(cs_fd_closep) int file = -1;
	struct btrfs_ioctl_fs_info_args info = { 0 };
	const unsigned char *id = info.fsid;
	char path[128];
	ssize_t n;

	if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0)
		return -errno;
	snprintf(
		path, sizeof(path),
		"/sys/fs/btrfs/%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x"
		"/qgroups/mode",
		id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10],
		id[11], id[12], id[13], id[14], id[15]);
	file = open(path, O_RDONLY | O_CLOEXEC);
	n = file < 0 ? -1 : read(file, ret, room - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return 0;
}

bool cs_quota_on(int fd)
{
	char mode[16];

	return mode_of(fd, mode, sizeof(mode)) == 0 && strncmp(mode, "squota", 6) == 0;
}

int cs_quota_enable(int fd, struct cs_err *err)
{
	struct btrfs_ioctl_quota_ctl_args enable = { .cmd = QUOTA_ENABLE_SIMPLE };
	char mode[16];

	if (cs_quota_on(fd))
		return 0;
	if (mode_of(fd, mode, sizeof(mode)) == 0)
		return cs_fail(err, EBUSY,
			       "quotas of another kind are on already (btrfs quota disable)");
	if (ioctl(fd, BTRFS_IOC_QUOTA_CTL, &enable) == 0)
		return 0;
	if (errno == ENOTTY)
		return cs_fail(err, EOPNOTSUPP,
			       "its file system is no Btrfs: the limit of a guest is the size of "
			       "its disk");
	if (errno == EINVAL)
		return cs_fail(err, EOPNOTSUPP,
			       "this kernel's Btrfs has no simple quotas (Linux 6.7 has): the "
			       "limit of a guest is the size of its disk");
	return cs_fail_errno(err, errno, "cannot turn quotas on");
}

int cs_quota_limit(int fd, uint64_t bytes, struct cs_err *err)
{
	struct btrfs_ioctl_qgroup_limit_args args = {
		.lim = { .flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = bytes },
	};

	if (ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, &args) < 0)
		return cs_fail_errno(err, errno, "cannot limit what it may take of the store");
	return 0;
}
