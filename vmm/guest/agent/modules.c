/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stage (a): a distribution's kernel has its drivers in modules, so it cannot mount the root by
 * itself. The initramfs holds this program as /init and the modules it needs, in order. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/cmdline.h"
#include "vmm/guest/agent/file.h"

#define ROOT_DEVICE "/dev/pmem0"
#define ROOT_TRIES  3000
#define ROOT_NAP_MS 10

static void load(struct cs_agent *a, const char *name, const char *cmdline)
{
	char path[300], *parameters = cs_cmdline_module(cmdline, name);
	int fd;

	snprintf(path, sizeof(path), "/modules/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || !parameters)
		cs_agent_say(a, "modules: cannot open %s: %s", name, strerror(errno));
	else if (syscall(SYS_finit_module, fd, parameters, 0) < 0 && errno != EEXIST)
		cs_agent_say(a, "modules: cannot load %s: %s", name, strerror(errno));

	if (fd >= 0)
		close(fd);
	free(parameters);
	unlink(path); /* the initramfs is memory */
}

static void load_all(struct cs_agent *a, const char *cmdline)
{
	char *order = cs_file_load("/modules/order"), *save = NULL;

	if (!order)
		cs_agent_die(a, "modules: cannot read /modules/order: %s", strerror(errno));

	/* A module that fails need not be one that matters: the root decides. */
	for (char *name = strtok_r(order, "\n", &save); name; name = strtok_r(NULL, "\n", &save))
		load(a, name, cmdline);
	free(order);
	unlink("/modules/order");
}

static void mount_root(struct cs_agent *a, const char *cmdline)
{
	const struct timespec nap = { .tv_nsec = ROOT_NAP_MS * 1000000L };
	char *type = cs_cmdline_value(cmdline, "rootfstype");
	char *flags = cs_cmdline_value(cmdline, "rootflags");
	int r = -ENOENT;

	if (!type)
		cs_agent_die(a, "the command line has no rootfstype=");

	/* The driver makes the device in a thread of its own. */
	for (int i = 0; i < ROOT_TRIES; i++) {
		r = cs_mounts_one(ROOT_DEVICE, "/root", type, MS_RDONLY, flags);
		if (r != -ENOENT && r != -ENXIO)
			break;
		nanosleep(&nap, NULL);
	}
	if (r < 0)
		cs_agent_die(a, "cannot mount the root " ROOT_DEVICE " (%s, %s): %s", type,
			     flags ? flags : "no flags", strerror(-r));
	free(type);
	free(flags);
}

void cs_modules_boot(struct cs_agent *a)
{
	char *const argv[] = { (char *)"/sbin/clearstore-agent", NULL };
	char *const env[] = { (char *)"HOME=/", (char *)"TERM=linux", NULL };
	char *cmdline;

	/* The agent needs a console and modules may look at any of these. */
	cs_mounts_one("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL);
	cs_mounts_one("sysfs", "/sys", "sysfs", 0, NULL);
	if (cs_mounts_one("proc", "/proc", "proc", 0, NULL) < 0)
		cs_agent_die(a, "cannot mount /proc: %s", strerror(errno));
	cmdline = cs_file_load("/proc/cmdline");
	if (!cmdline)
		cs_agent_die(a, "cannot read /proc/cmdline: %s", strerror(errno));

	load_all(a, cmdline);
	mount_root(a, cmdline);
	free(cmdline);
	unlink("/init");

	/* Stage (b) finds what the kernel would have left it: the root, and /dev if there is room
	 * for it. */
	umount2("/proc", MNT_DETACH);
	umount2("/sys", MNT_DETACH);
	if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) < 0)
		umount2("/dev", MNT_DETACH);
	if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0)
		cs_agent_die(a, "cannot change to the root: %s", strerror(errno));

	execve(argv[0], argv, env);
	cs_agent_die(a, "cannot run %s: %s (was the root imported by clearstore?)", argv[0],
		     strerror(errno));
}
