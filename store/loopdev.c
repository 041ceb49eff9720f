/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/loopdev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "store/base/num.h"
#include "store/base/own.h"

/* Others may take the free number that we were told before we can. */
#define TRIES 32

static int open_loop(unsigned number, int flags, char path[CS_LOOPDEV_PATH])
{
	int fd;

	snprintf(path, CS_LOOPDEV_PATH, "/dev/loop%u", number);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		/* a /dev that is no devtmpfs: the device is there, its node is not */
		if (mknod(path, S_IFBLK | 0600, makedev(7, number)) < 0 && errno != EEXIST)
			return -ENOENT;
		fd = open(path, flags | O_CLOEXEC);
	}
	return fd < 0 ? -errno : fd;
}

static bool is_attached(int fd, const struct stat *image)
{
	struct loop_info64 info;

	return ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && info.lo_device == image->st_dev &&
	       info.lo_inode == image->st_ino;
}

/* Among the loop devices in use; -ENODEV: on none. */
static int find_attached(const struct stat *image, int flags, char path[CS_LOOPDEV_PATH])
{
	cs_auto(cs_dir_closep) DIR *dir = opendir("/sys/block");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		cs_auto(cs_fd_closep) int fd = -1;
		char in_use[300];
		uint64_t number;

		if (strncmp(entry->d_name, "loop", 4) ||
		    cs_parse_u64(entry->d_name + 4, 1 << 20, &number) < 0)
			continue;
		snprintf(in_use, sizeof(in_use), "/sys/block/%s/loop/backing_file", entry->d_name);
		if (access(in_use, F_OK) < 0)
			continue;
		fd = open_loop((unsigned)number, flags, path);
		if (fd >= 0 && is_attached(fd, image))
			return cs_steal_fd(&fd);
	}
	return -ENODEV;
}

/* The old way, of kernels before 5.8 and where LOOP_CONFIGURE refuses what it is asked. */
static int configure_in_steps(int fd, const struct loop_config *config)
{
	if (ioctl(fd, LOOP_SET_FD, config->fd) < 0)
		return -errno;
	if (ioctl(fd, LOOP_SET_STATUS64, &config->info) < 0) {
		int saved = errno;

		ioctl(fd, LOOP_CLR_FD, 0);
		return -saved;
	}
	/* without it all works, only with pages cached twice */
	ioctl(fd, LOOP_SET_DIRECT_IO, 1UL);
	return 0;
}

/* What losetup(8) shows where sysfs cannot be asked. */
static void name_after(int image_fd, char *name, size_t room)
{
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", image_fd);
	n = readlink(link, name, room - 1);
	name[n > 0 ? n : 0] = '\0';
}

/* The device keeps the open file that it is given, and with it any flock that is on it: so it gets
 * one of its own. */
static int reopen(int image_fd, bool read_only)
{
	char link[32];
	int fd;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", image_fd);
	fd = open(link, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int configure(int fd, int image_fd, bool read_only)
{
	cs_auto(cs_fd_closep) int own = reopen(image_fd, read_only);
	struct loop_config config = {
		.fd = (unsigned)own,
		.block_size = 4096,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};

	if (own < 0)
		return own;
	if (read_only)
		config.info.lo_flags |= LO_FLAGS_READ_ONLY;
	name_after(image_fd, (char *)config.info.lo_file_name, sizeof(config.info.lo_file_name));
	if (ioctl(fd, LOOP_CONFIGURE, &config) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOTTY)
		return -errno;
	config.info.lo_flags &= ~(unsigned)LO_FLAGS_DIRECT_IO;
	return configure_in_steps(fd, &config);
}

int cs_loopdev_attach(int image_fd, bool read_only, int *ret_fd, char path[CS_LOOPDEV_PATH],
		      struct cs_err *err)
{
	cs_auto(cs_fd_closep) int control = -1;
	int flags = read_only ? O_RDONLY : O_RDWR;
	struct stat image;
	int number, fd, r;

	if (fstat(image_fd, &image) < 0)
		return cs_fail_errno(err, errno, "loop device");
	fd = find_attached(&image, flags, path);
	if (fd >= 0) {
		*ret_fd = fd;
		return 0;
	}

	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return cs_fail_errno(err, errno,
				     "/dev/loop-control (run as root, with the loop module; or use "
				     "`clearstore init --path` on a folder)");
	for (int i = 0; i < TRIES; i++) {
		number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return cs_fail_errno(err, errno, "no free loop device");
		fd = open_loop((unsigned)number, flags, path);
		if (fd < 0)
			return cs_fail_errno(err, -fd, "cannot open %s", path);
		r = configure(fd, image_fd, read_only);
		if (r == 0) {
			*ret_fd = fd;
			return 0;
		}
		cs_fd_closep(&fd);
		if (r != -EBUSY)
			return cs_fail_errno(err, -r, "cannot set up %s", path);
	}
	return cs_fail(err, EBUSY, "others took %d loop devices before us", TRIES);
}
