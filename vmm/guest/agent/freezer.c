/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everybody but the agent stands still, so that a picture can be taken of the guest.
 *
 * By cgroup v2. A process that the agent starts is born in a cgroup below the agent's, what it
 * starts is born there too, and the freezer of that cgroup holds them all. All of them live in a
 * cgroup namespace, so that nobody moves out by mistake: what they see as /sys/fs/cgroup is below.
 *
 *   /            the agent, and the kernel's own threads
 *   /guest       is frozen. Without --init also the namespace's root, and every process is here
 *   /guest/init  with --init: the namespace's root, PID 1 and the cgroups that it makes
 *   /guest/exec  with --init: what the agent starts. Beside the other, since a cgroup that hands
 *                controllers on to others, as an init's does, may have no process itself
 *   /wake        runs while /guest is frozen: the hooks
 *
 * Without --init no controllers are handed on: memory of a cgroup that has one is counted page by
 * page, which costs time and memory in each guest, whether anybody asks for it or not. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/exec.h"
#include "vmm/guest/agent/file.h"

#define CGROUPS "/sys/fs/cgroup"
#define PATIENCE_MS                                                                                \
	30000 /* a process that waits for its disk cannot be frozen before that is done */

/* ---- where processes are ---- */

static int open_folder(int at, const char *name)
{
	return openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int make_folder(int at, const char *name)
{
	return mkdirat(at, name, 0755) < 0 && errno != EEXIST ? -1 : open_folder(at, name);
}

/* (text) into a file of the kernel's. 0 or -errno. */
static int put(int at, const char *name, const char *text)
{
	int fd = openat(at, name, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = cs_file_write_all(fd, text, strlen(text));
	close(fd);
	return r;
}

/* All controllers of (at) to the cgroups in it: an init without them could limit nothing. */
static void hand_on(struct cs_agent *a, int at)
{
	char names[256], *save = NULL;
	int fd = openat(at, "cgroup.controllers", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, names, sizeof(names) - 1);

	if (fd >= 0)
		close(fd);
	names[n > 0 ? n : 0] = 0;
	for (char *name = strtok_r(names, " \n", &save); name;
	     name = strtok_r(NULL, " \n", &save)) {
		char word[sizeof(names) + 1];

		/* One by one: a kernel may refuse one of them. */
		snprintf(word, sizeof(word), "+%s", name);
		if (put(at, "cgroup.subtree_control", word) < 0)
			cs_agent_say(a, "cannot hand on the cgroup controller %s", name);
	}
}

static int open_all(struct cs_agent *a, int root, bool run_init)
{
	struct cs_freezer *f = &a->freezer;
	int guest = make_folder(root, "guest");

	f->guest = guest;
	if (guest < 0)
		return -errno;
	f->hooks = make_folder(root, "wake");
	if (f->hooks < 0)
		return -errno;
	f->freeze = openat(guest, "cgroup.freeze", O_WRONLY | O_CLOEXEC);
	if (f->freeze < 0)
		return -errno;
	f->events.fd = openat(guest, "cgroup.events", O_RDONLY | O_CLOEXEC);
	if (f->events.fd < 0)
		return -errno;
	f->back = openat(root, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	if (f->back < 0)
		return -errno;
	if (!run_init)
		return 0;

	hand_on(a, root);
	hand_on(a, guest);
	f->guest = make_folder(guest, "exec");
	close(guest);
	return f->guest < 0 ? -errno : 0;
}

static void events_ready(struct cs_agent *a, struct cs_watch *w, uint32_t events);

int cs_freezer_open(struct cs_agent *a, const char *base, bool run_init)
{
	int root = open(base, O_PATH | O_DIRECTORY | O_CLOEXEC), r;

	a->freezer.events.ready = events_ready;
	if (root < 0)
		return -errno;
	r = open_all(a, root, run_init);
	close(root);
	if (r < 0)
		cs_freezer_close(a);
	return r;
}

void cs_freezer_close(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;
	int *const fds[] = { &f->guest, &f->hooks, &f->freeze, &f->back };

	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	cs_watch_close(a, &f->events);
	free(f->stopped);
	f->stopped = NULL;
	f->n_stopped = 0;
}

/* A cgroup namespace has its root where the one who makes it is: so we have to go there ourselves.
 */
static int enclose(const char *world)
{
	int r = put(AT_FDCWD, world, "0");

	if (r == 0 && unshare(CLONE_NEWCGROUP) < 0)
		r = -errno;
	if (r == 0 && umount2(CGROUPS, MNT_DETACH) < 0)
		r = -errno;
	return r == 0 ? cs_mounts_one("cgroup2", CGROUPS, "cgroup2",
				      MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)
		      : r;
}

void cs_freezer_boot(struct cs_agent *a, bool run_init)
{
	int r = cs_mounts_one("cgroup2", CGROUPS, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC,
			      NULL);

	/* A kernel without them, or without a freezer in them (before 5.2). */
	if (r == 0)
		r = cs_freezer_open(a, CGROUPS, run_init);
	if (r == -ENODEV || r == -ENOENT || r == -EPERM)
		return;
	if (r == 0 && run_init)
		mkdir(CGROUPS "/guest/init", 0755);
	if (r == 0)
		r = enclose(run_init ? CGROUPS "/guest/init/cgroup.procs"
				     : CGROUPS "/guest/cgroup.procs");
	if (r < 0)
		cs_agent_say(a, "cannot set up cgroups: %s", strerror(-r));
}

void cs_freezer_leave(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;

	if (f->back < 0)
		return;
	/* In there we would freeze ourselves. */
	if (cs_file_write_all(f->back, "0", 1) < 0)
		cs_freezer_leak(a);
	else
		close(f->back);
	f->back = -1;
}

void cs_freezer_leak(struct cs_agent *a)
{
	cs_agent_say(a, "a process is not in its cgroup: freezing by signals from now on");
	cs_freezer_close(a);
}

/* ---- freezing ---- */

static void answer(struct cs_agent *a, int error)
{
	if (!a->freezer.asked)
		return;
	a->freezer.asked = false;
	cs_control_u32(a, CS_WIRE_FROZEN, (uint32_t)error);
}

static int hold(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;

	if (f->freeze < 0)
		return cs_signals_stop(a, PATIENCE_MS);
	return pwrite(f->freeze, "1", 1, 0) == 1 ? 0 : -errno;
}

void cs_freezer_hold(struct cs_agent *a)
{
	int r = hold(a);

	if (r < 0)
		cs_agent_trouble(a, "cannot freeze the guest's processes: %s", strerror(-r));
	a->freezer.state = CS_FREEZER_ON;
}

/* Nothing moves any more. What is done now is in the picture, and done once for all its clones. */
static void complete(struct cs_agent *a, bool empty)
{
	struct cs_freezer *f = &a->freezer;

	cs_watch_set(a, &f->events, 0);
	cs_deadline_set(a, &f->patience, 0);
	/* COMMAND may have ended on the way here: then there is no picture to be taken. */
	cs_agent_reap(a);
	if (f->state != CS_FREEZER_GOING)
		return;

	/* We start nobody before the thaw, so nobody comes: there will be nothing to thaw. */
	f->empty = empty && pwrite(f->freeze, "0", 1, 0) == 1;
	f->state = CS_FREEZER_ON;
	cs_wake_prepare(a);
	if (f->flags & CS_WIRE_FREEZE_SYNC && a->disk >= 0 && syncfs(a->disk) < 0)
		cs_agent_trouble(a, "disk: cannot write everything to it: %s", strerror(errno));
	if (f->flags & CS_WIRE_FREEZE_DROP && put(AT_FDCWD, "/proc/sys/vm/drop_caches", "3") < 0)
		cs_agent_say(a, "cannot drop caches");
	answer(a, 0);
}

static void look(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;
	char text[128];
	ssize_t n;

	if (f->freeze < 0) {
		complete(a, false);
		return;
	}

	/* Reading it is also what makes the next change an event. */
	n = pread(f->events.fd, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = 0;
	if (strstr(text, "frozen 1"))
		complete(a, strstr(text, "populated 0"));
	else if (n <= 0 || cs_watch_set(a, &f->events, EPOLLPRI) < 0)
		cs_freezer_expire(a);
}

static void events_ready(struct cs_agent *a, struct cs_watch *w, uint32_t events)
{
	look(a);
}

void cs_freezer_begin(struct cs_agent *a, uint32_t flags)
{
	const uint32_t known = CS_WIRE_FREEZE_SYNC | CS_WIRE_FREEZE_DROP;
	struct cs_freezer *f = &a->freezer;
	const bool again = f->state != CS_FREEZER_OFF;
	int r = 0;

	cs_freezer_thaw(a);
	f->asked = true;
	f->flags = flags;
	if (a->stop.phase != CS_STOP_NONE)
		r = -ECANCELED;
	else if (again || flags & ~known)
		r = -EINVAL;
	if (r == 0) {
		/* The most of it while everybody runs: a file system may need one of them for it.
		 * Behind the freeze only the disk, which is the kernel's alone. */
		if (flags & CS_WIRE_FREEZE_SYNC)
			sync();
		r = hold(a);
	}
	if (r < 0) {
		answer(a, -r);
		return;
	}

	f->state = CS_FREEZER_GOING;
	cs_deadline_set(a, &f->patience, cs_agent_now() + PATIENCE_MS);
	look(a);
}

void cs_freezer_expire(struct cs_agent *a)
{
	cs_freezer_release(a);
	answer(a, ETIMEDOUT);
	cs_freezer_settle(a);
}

/* ---- thawing ---- */

void cs_freezer_release(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;

	cs_watch_set(a, &f->events, 0);
	cs_deadline_set(a, &f->patience, 0);
	if (f->n_stopped)
		cs_signals_continue(a);
	if (f->freeze >= 0 && !f->empty && pwrite(f->freeze, "0", 1, 0) != 1)
		cs_agent_trouble(a, "cannot thaw the guest's processes: %s", strerror(errno));
	f->state = CS_FREEZER_OFF;
	f->empty = false;
}

void cs_freezer_settle(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;
	const bool ended = f->ended, typed = f->typed;

	f->ended = f->typed = false;
	if (ended)
		cs_agent_reap(a);
	if (typed && a->console.fd >= 0)
		cs_watch_set(a, &a->console, EPOLLIN);
	cs_service_resume(a);
}

void cs_freezer_thaw(struct cs_agent *a)
{
	if (a->freezer.state == CS_FREEZER_OFF)
		return;

	cs_freezer_release(a);
	answer(a, ECANCELED);
	cs_freezer_settle(a);
}

/* ---- what hooks leave behind ---- */

void cs_freezer_adopt(struct cs_agent *a, bool kill)
{
	struct cs_freezer *f = &a->freezer;
	int fd = f->hooks < 0 ? -1 : openat(f->hooks, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	char *pids = fd < 0 ? NULL : cs_file_read(fd), *save = NULL;

	if (fd >= 0)
		close(fd);
	/* Since 5.14. */
	if (kill && f->hooks >= 0)
		put(f->hooks, "cgroup.kill", "1");
	for (char *pid = pids ? strtok_r(pids, "\n", &save) : NULL; pid && !kill;
	     pid = strtok_r(NULL, "\n", &save)) {
		/* Unless it has just ended. */
		if (put(f->guest, "cgroup.procs", pid) == -EBUSY)
			cs_agent_say(a, "process %s of a hook cannot join the others", pid);
	}
	free(pids);
}
