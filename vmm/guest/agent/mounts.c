/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The writable root. The kernel has mounted the shared one, read-only and DAX, at /; all guests map
 * the same pages of it. Above it goes an overlay whose lower half is that mount: a file that nobody
 * changed is still opened, and mapped, from there.
 *
 * While it is being made, the upper half's file system is mounted over some folder of the shared
 * root; afterwards the old root, and with it that mount, is detached as a whole: overlayfs holds
 * its own copies of both. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"

#define DISK_TRIES  100
#define DISK_NAP_MS 50

int cs_mounts_one(const char *source, const char *target, const char *type, unsigned long flags,
		  const char *data)
{
	if (!mount(source, target, type, flags, data))
		return 0;
	if (errno != ENOENT)
		return -errno;
	/* If the folder is there it is (source) that is missing. */
	if (mkdir(target, 0755) < 0)
		return errno == EEXIST ? -ENOENT : -errno;

	return mount(source, target, type, flags, data) < 0 ? -errno : 0;
}

/* Somewhere to stand: any folder that this root has. What is in it does not matter, not even that
 * we were started from there. */
static const char *find_place(void)
{
	static const char *const places[] = { "/run", "/mnt", "/tmp", "/proc", "/dev", "/sbin" };
	struct stat st;

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		if (!stat(places[i], &st) && S_ISDIR(st.st_mode))
			return places[i];
	}

	return NULL;
}

/* The persistent disk at ./disk, opened for cs_stop_disk(). */
static int mount_disk(struct cs_agent *a)
{
	const struct timespec nap = { .tv_nsec = DISK_NAP_MS * 1000000L };
	int r = -ENOENT;

	if (mkdir("dev", 0755) < 0 || mkdir("disk", 0755) < 0 ||
	    mount("devtmpfs", "dev", "devtmpfs", MS_NOSUID, NULL) < 0)
		return -errno;

	/* A driver that is a module may still be looking for it. Without initialising inode tables
	 * in the background: that would wake an idle guest and fill the sparse disk. What is
	 * removed becomes a hole in it again. */
	for (int i = 0; i < DISK_TRIES; i++) {
		r = mount("dev/vda", "disk", "ext4", 0, "noinit_itable,discard") < 0 ? -errno : 0;
		if (r != -ENOENT && r != -ENXIO)
			break;
		nanosleep(&nap, NULL);
	}
	if (r < 0)
		return r;

	a->disk = open("disk", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return a->disk < 0 ? -errno : 0;
}

static int stack(bool persist, bool *fresh)
{
	const char *upper = persist ? "disk/upper" : "upper",
		   *work = persist ? "disk/work" : "work";
	char options[160];
	struct stat st;

	*fresh = mkdir(upper, 0755) == 0;
	if (!*fresh && errno != EEXIST)
		return -errno;
	if ((mkdir(work, 0755) < 0 && errno != EEXIST) || mkdir("root", 0755) < 0)
		return -errno;
	/* The root folder's own owner and mode are those of the upper half. */
	if (*fresh && !stat("/", &st) &&
	    (chmod(upper, st.st_mode & 07777) < 0 || chown(upper, st.st_uid, st.st_gid) < 0))
		return -errno;

	snprintf(options, sizeof(options),
		 "lowerdir=/,upperdir=%s,workdir=%s,redirect_dir=on,index=off,metacopy=off", upper,
		 work);
	return mount("overlay", "root", "overlay", 0, options) < 0 ? -errno : 0;
}

/* Make ./root the root, and let go of everything that was mounted until now. */
static int move_in(void)
{
	if (chdir("root") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	    umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;

	return 0;
}

/* What a root needs of the kernel. A kernel without one of them, or a root that cannot have it, is
 * still a guest. */
static void mount_kernel(struct cs_agent *a)
{
	static const struct {
		const char *type, *target, *data;
		unsigned long flags;
	} mounts[] = {
		{ "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "devtmpfs", "/dev", NULL, MS_NOSUID },
		{ "devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC },
		{ "tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV },
		{ "tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" },
		{ "fd/0", "/dev/stdin" },
		{ "fd/1", "/dev/stdout" },
		{ "fd/2", "/dev/stderr" },
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
		int r = cs_mounts_one(mounts[i].type, mounts[i].target, mounts[i].type,
				      mounts[i].flags, mounts[i].data);

		if (r < 0 && r != -ENODEV && r != -EPERM && r != -ENOENT)
			cs_agent_say(a, "cannot mount %s: %s", mounts[i].target, strerror(-r));
	}

	/* Debian's /var/lock leads there. */
	if (!mkdir("/run/lock", 0755))
		chmod("/run/lock", 01777);
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++) {
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			cs_agent_say(a, "cannot make %s: %s", links[i][1], strerror(errno));
	}
}

int cs_mounts_root(struct cs_agent *a, bool persist, bool *fresh, const char **what)
{
	const char *place = find_place();
	int r;

	*what = "a folder to stand in";
	if (!place)
		return -ENOENT;

	*what = "tmpfs";
	if (mount("tmpfs", place, "tmpfs", 0, "mode=755") < 0 || chdir(place) < 0)
		return -errno;

	*what = "the disk /dev/vda";
	r = persist ? mount_disk(a) : 0;
	if (r < 0)
		return r;

	*what = "the writable root (overlayfs)";
	r = stack(persist, fresh);
	if (r < 0)
		return r;

	*what = "the new root";
	r = move_in();
	if (r < 0)
		return r;

	mount_kernel(a);
	return 0;
}
