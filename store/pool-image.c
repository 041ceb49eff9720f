/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The image under a store that is there: how large it is, larger, smaller on its disk. */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "store/loopdev.h"
#include "store/pool-private.h"
#include "store/pool.h"

#define DEVICE 1 /* the only one of our Btrfs */

int cs_pool_info(const char *root, struct cs_pool_info *ret, struct cs_err *err)
{
	struct cs_pool_place place;
	struct statvfs under;
	struct stat st;
	int r;

	r = cs_pool_place(root, &place, err);
	if (r < 0)
		return r;
	if (stat(place.image, &st) < 0 || statvfs(place.image, &under) < 0)
		return cs_fail_errno(err, errno, "'%s'", place.image);
	*ret = (struct cs_pool_info){
		.bytes = (uint64_t)st.st_size,
		.stored_bytes = (uint64_t)st.st_blocks * 512,
		.disk_free_bytes = (uint64_t)under.f_bavail * under.f_frsize,
	};
	memcpy(ret->image, place.image, sizeof(ret->image));
	return 0;
}

static int open_root(const struct cs_pool_place *place, struct cs_err *err)
{
	int fd = open(place->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? cs_fail_errno(err, errno, "store '%s'", place->root) : fd;
}

/* The device and the file system follow the file; each step can be done again. */
static int follow(int image_fd, int root_fd, struct cs_err *err)
{
	struct btrfs_ioctl_vol_args resize = { .name = "1:max" };
	cs_auto(cs_fd_closep) int loop = -1;
	char device[CS_LOOPDEV_PATH];
	int r;

	r = cs_loopdev_attach(image_fd, false, &loop, device, err);
	if (r < 0)
		return r;
	if (ioctl(loop, LOOP_SET_CAPACITY, 0) < 0)
		return cs_fail_errno(err, errno, "%s: cannot take the image's new size", device);
	if (ioctl(root_fd, BTRFS_IOC_RESIZE, &resize) < 0)
		return cs_fail_errno(err, errno, "cannot let Btrfs grow");
	return 0;
}

int cs_pool_grow(const char *root, uint64_t bytes, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int image = -1, root_fd = -1;
	char has[CS_BYTES_TEXT], wants[CS_BYTES_TEXT];
	struct cs_pool_place place;
	struct stat st;
	int r;

	r = cs_pool_place(root, &place, err);
	if (r < 0)
		return r;
	if (access(place.image, F_OK) < 0)
		return cs_fail(err, ENOENT,
			       "store '%s': is no image of clearstore's but a folder: let its own "
			       "file system grow",
			       root);
	r = cs_pool_mount(root, err);
	if (r < 0)
		return r;
	image = cs_pool_open_image(&place, err);
	root_fd = image < 0 ? image : open_root(&place, err);
	if (root_fd < 0)
		return root_fd;
	if (fstat(image, &st) < 0)
		return cs_fail_errno(err, errno, "'%s'", place.image);
	if (cs_align_down(bytes, CS_MIB) < (uint64_t)st.st_size)
		return cs_fail(err, EINVAL,
			       "size of %s: the store has %s, and can only grow (what it does not "
			       "need it gives back: clearstore store trim)",
			       cs_format_bytes(bytes, wants),
			       cs_format_bytes((uint64_t)st.st_size, has));
	if (ftruncate(image, (off_t)cs_align_down(bytes, CS_MIB)) < 0 || fsync(image) < 0)
		return cs_fail_errno(err, errno, "'%s': cannot be so large", place.image);
	r = follow(image, root_fd, err);
	return r < 0 ? cs_fail_in(err, r, "store '%s'", root) : 0;
}

int cs_pool_trim(int dirfd, struct cs_err *err)
{
	struct fstrim_range all = { .len = UINT64_MAX };

	/* what was just deleted is free when that is committed */
	if (syncfs(dirfd) < 0)
		return cs_fail_errno(err, errno, "cannot write the store out");
	if (ioctl(dirfd, FITRIM, &all) < 0)
		return cs_fail_errno(err, errno,
				     "what is free cannot be given back (the disk under the store "
				     "takes no discard)");
	return 0;
}

int cs_pool_check(int dirfd, struct cs_pool_health *ret, struct cs_err *err)
{
	struct btrfs_ioctl_get_dev_stats stats = { .devid = DEVICE,
						   .nr_items = BTRFS_DEV_STAT_VALUES_MAX };
	struct btrfs_ioctl_dev_info_args info = { .devid = DEVICE };
	struct cs_pool_health health = { 0 };
	struct statvfs fs;

	if (fstatvfs(dirfd, &fs) < 0)
		return cs_fail_errno(err, errno, "cannot ask the file system");
	health.read_only = fs.f_flag & ST_RDONLY;
	if (ioctl(dirfd, BTRFS_IOC_DEV_INFO, &info) == 0)
		health.bytes = info.total_bytes;
	if (ioctl(dirfd, BTRFS_IOC_GET_DEV_STATS, &stats) == 0) {
		for (int i = 0; i < BTRFS_DEV_STAT_VALUES_MAX; i++)
			health.errors += stats.values[i];
	}
	*ret = health;
	return 0;
}
