/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Freezing in a kernel without cgroups: SIGSTOP to every process, one by one until none is left
 * that runs, and later SIGCONT to the same ones. A process that somebody else has stopped stays
 * stopped.
 *
 * Programs may notice: a parent can see that its child was stopped, and a handler of SIGCONT runs.
 * So children go on before their parents: a shell that looks then finds them running. PID 1 cannot
 * be stopped at all, so with --init there is no freezing by signals. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"

#define NAP_MS 5

struct process {
	pid_t pid, parent;
	char state; /* of /proc/PID/stat */
	bool ours;  /* it comes from us */
};

struct scan {
	struct process *list;
	size_t n, room;
	bool failed;
};

/* ---- who is there ---- */

/* A number in (text); false: it does not begin with one. */
static bool number(const char *text, pid_t *ret)
{
	pid_t value = 0;
	const char *at = text;

	for (; *at >= '0' && *at <= '9' && value < 100000000; at++)
		value = value * 10 + (*at - '0');
	*ret = value;
	return at > text;
}

/* (name) of /proc, a pid or pid/task/tid; false: it has ended, or is none. */
static bool read_stat(int proc, const char *name, struct process *ret)
{
	char path[96], text[512], *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/stat", name);
	fd = number(name, &ret->pid) ? openat(proc, path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;

	/* "pid (name) state parent ...": the name may hold anything, but nothing behind it does. */
	at = strrchr(text, ')');
	if (!at || strlen(at) < 5)
		return false;
	ret->state = at[2];
	return number(at + 4, &ret->parent);
}

/* All threads of it stand still. With (told) one may be at work in the kernel (D), or wait there
 * for a vfork: nothing of the program runs any more before it has heard SIGCONT. */
static bool is_stopped(int proc, const struct process *p, bool told)
{
	const char *still = told ? "TtZXD" : "TtZX";
	char path[96];
	struct dirent *entry;
	bool stopped = strchr(still, p->state) != NULL;
	DIR *tasks;
	int fd;

	snprintf(path, sizeof(path), "%d/task", (int)p->pid);
	fd = stopped ? openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	tasks = fd >= 0 ? fdopendir(fd) : NULL;
	while (tasks && stopped && (entry = readdir(tasks))) {
		struct process task;

		snprintf(path, sizeof(path), "%d/task/%.16s", (int)p->pid, entry->d_name);
		if (entry->d_name[0] != '.' && read_stat(proc, path, &task))
			stopped = strchr(still, task.state) != NULL;
	}
	if (tasks)
		closedir(tasks);
	return stopped;
}

static void add(struct scan *s, const struct process *p)
{
	if (s->n == s->room) {
		size_t room = s->room ? 2 * s->room : 64;
		struct process *grown = realloc(s->list, room * sizeof(*grown));

		if (!grown) {
			s->failed = true;
			return;
		}
		s->list = grown;
		s->room = room;
	}
	s->list[s->n++] = *p;
}

/* Whoever comes from us, and not from the kernel. */
static void mark_ours(struct scan *s)
{
	const pid_t self = getpid();
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < s->n; i++) {
			struct process *p = &s->list[i];
			bool ours = p->parent == self;

			for (size_t j = 0; j < s->n && !ours; j++)
				ours = s->list[j].pid == p->parent && s->list[j].ours;
			more |= ours && !p->ours;
			p->ours = ours;
		}
	}
}

static void scan(DIR *proc, struct scan *s)
{
	struct dirent *entry;
	struct process p = { 0 };

	s->n = 0;
	rewinddir(proc);
	while ((entry = readdir(proc))) {
		if (read_stat(dirfd(proc), entry->d_name, &p))
			add(s, &p);
	}
	mark_ours(s);
}

/* ---- stop, and go on ---- */

static bool is_known(const struct cs_freezer *f, pid_t pid)
{
	for (size_t i = 0; i < f->n_stopped; i++) {
		if (f->stopped[i] == pid)
			return true;
	}
	return false;
}

/* One round. 1: somebody may still run; 0: nobody does; -errno. */
static int stop_round(struct cs_agent *a, DIR *proc, struct scan *s)
{
	struct cs_freezer *f = &a->freezer;
	int busy = 0;

	scan(proc, s);
	for (size_t i = 0; i < s->n && !s->failed; i++) {
		const struct process *p = &s->list[i];
		bool known = is_known(f, p->pid);
		pid_t *grown;

		if (!p->ours || is_stopped(dirfd(proc), p, known))
			continue;
		busy = 1;
		if (known)
			continue;
		grown = realloc(f->stopped, (f->n_stopped + 1) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		f->stopped = grown;
		if (!kill(p->pid, SIGSTOP))
			f->stopped[f->n_stopped++] = p->pid;
	}
	return s->failed ? -ENOMEM : busy;
}

int cs_signals_stop(struct cs_agent *a, uint32_t patience_ms)
{
	const struct timespec nap = { .tv_nsec = NAP_MS * 1000000L };
	const uint64_t end = cs_agent_now() + patience_ms;
	struct scan s = { 0 };
	DIR *proc;
	int r = 1;

	if (a->role == CS_ROLE_UNDER_INIT)
		return -EOPNOTSUPP;
	proc = opendir("/proc");
	if (!proc)
		return -errno;

	/* The one who was found last may just have started another. */
	while ((r = stop_round(a, proc, &s)) == 1) {
		if (cs_agent_now() > end) {
			r = -ETIMEDOUT;
			break;
		}
		nanosleep(&nap, NULL);
	}
	closedir(proc);
	free(s.list);
	if (r < 0)
		cs_signals_continue(a);
	return r;
}

void cs_signals_continue(struct cs_agent *a)
{
	struct cs_freezer *f = &a->freezer;

	/* Who was found later is the child of one found before, nearly always. */
	while (f->n_stopped)
		kill(f->stopped[--f->n_stopped], SIGCONT);
	free(f->stopped);
	f->stopped = NULL;
}
