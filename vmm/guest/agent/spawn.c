/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* By vfork: on a slow guest kernel a fork's copied page tables and broken pages cost more than the
 * rest of an exec. The child borrows our memory until it executes, so it makes only raw system
 * calls, and its failure is simply written into the shared struct: when vfork returns here, the
 * program has been executed or (error) says why not. */
#include "vmm/guest/agent/spawn.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/guest/agent/file.h"
#include "vmm/guest/agent/kernel.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum step { STEP_SETUP, STEP_USER, STEP_FOLDER, STEP_EXECUTE };

/* What the child works with, and tells back. */
struct launch {
	const struct cs_spawn *spawn;
	char *const *argv, *const *env;
	const char *search; /* a PATH */
	const uint64_t *files;
	bool change_user, adjust_oom;
	int cgroup;           /* where it is to be, when it could not be born there; -1 */
	volatile bool astray; /* it is not there */
	volatile int error;
	volatile enum step step;
	const char *volatile tried; /* what it last asked the kernel to execute */
	volatile bool exists;       /* ... and that file is there */
	char path[1024];
};

/* ---- in the child: no libc but wrappers of one system call ---- */

/* A sanitizer marks what lies below the frames of a function, and unmarks it when that returns.
 * These never do, and their stack is the parent's. */
#define CHILD __attribute__((no_sanitize("address")))

CHILD static void child_user(struct launch *l)
{
	const struct cs_user *u = &l->spawn->user;

	/* Not musl's setuid() and the like: they would reach out to all threads of "this process".
	 */
	if (syscall(SYS_setgroups, u->n_groups, u->groups) < 0 ||
	    syscall(SYS_setresgid, u->gid, u->gid, u->gid) < 0 ||
	    syscall(SYS_setresuid, u->uid, u->uid, u->uid) < 0)
		l->error = errno;
}

CHILD static bool child_write(int folder, const char *path)
{
	int fd = openat(folder, path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, "0", 1) == 1;

	if (fd >= 0)
		close(fd);
	return done;
}

/* Join a folder of the PATH and the name. false: too long. */
CHILD static bool join(char *into, size_t room, const char *folder, size_t n, const char *name)
{
	size_t length = strlen(name);

	if (n + length + 2 > room)
		return false;

	memcpy(into, folder, n);
	into[n] = '/';
	memcpy(into + n + 1, name, length + 1);
	return true;
}

/* Returns the errno of a program that could not be executed. Asks for the file first: that is
 * cheaper than an exec that fails, and tells a missing file from a missing interpreter. */
CHILD static int child_try(struct launch *l, const char *path)
{
	const char *const login[] = { l->spawn->login, NULL };

	l->tried = path;
	l->exists = !access(path, F_OK);
	if (l->exists)
		execve(path, l->spawn->login ? (char *const *)login : l->argv, l->env);
	return errno;
}

/* As execvp() does it: returns only when nothing could be executed. What is tried on the way must
 * not reach l->error: the parent sees it also when a later one succeeds. */
CHILD static void child_execute(struct launch *l)
{
	const char *name = l->argv[0], *at = l->search, *end;
	int worst = ENOENT, error;

	if (strchr(name, '/') || !*name) {
		l->error = child_try(l, name);
		return;
	}

	for (; at; at = *end ? end + 1 : NULL) {
		end = strchrnul(at, ':');
		if (end == at || !join(l->path, sizeof(l->path), at, (size_t)(end - at), name))
			continue;

		error = child_try(l, l->path);
		if (error != ENOENT && error != ENOTDIR)
			worst = error;
		/* A file that may not be executed does not hide one further on. */
		if (l->exists && error != EACCES)
			break;
	}
	l->error = worst;
}

CHILD static __attribute__((noreturn)) void child(struct launch *l)
{
	const struct cs_spawn *s = l->spawn;
	sigset_t none;

	sigemptyset(&none);
	setsid();
	for (int i = 0; i < 3; i++) {
		if (dup2(s->fd[i], i) < 0)
			l->error = errno;
	}
	if (s->terminal && ioctl(0, TIOCSCTTY, 0) < 0)
		l->error = errno;
	if (l->files[0])
		syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, l->files, NULL);
	/* If it fails the process is as hard to kill as we are: no reason not to run it. */
	if (l->adjust_oom)
		child_write(-1, "/proc/self/oom_score_adj");
	if (l->cgroup >= 0)
		l->astray = !child_write(l->cgroup, "cgroup.procs");

	if (!l->error && l->change_user) {
		l->step = STEP_USER;
		child_user(l);
	}
	if (!l->error && *s->folder) {
		l->step = STEP_FOLDER;
		if (chdir(s->folder) < 0)
			l->error = errno;
	}
	if (!l->error) {
		l->step = STEP_EXECUTE;
		sigprocmask(SIG_SETMASK, &none, NULL);
		child_execute(l);
	}
	_exit(127);
}

/* ---- in the parent ---- */

/* PT_INTERP's string in the first (n) bytes of an ELF file, followed by a NUL; NULL: not there. */
static const char *elf_interpreter(const char *head, size_t n)
{
	Elf64_Ehdr elf;

	memcpy(&elf, head, sizeof(elf));
	for (size_t i = 0; i < elf.e_phnum; i++) {
		Elf64_Phdr ph;

		if (elf.e_phoff > n || n - elf.e_phoff < (i + 1) * sizeof(ph))
			break;
		memcpy(&ph, head + elf.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_INTERP)
			return ph.p_offset < n ? head + ph.p_offset : NULL;
	}

	return NULL;
}

/* The interpreter that (path) asks for, from its first bytes: "#!" or ELF. false: cannot tell. */
static bool find_interpreter(const char *path, char *into, size_t room)
{
	char head[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = fd < 0 ? -1 : read(fd, &head, sizeof(head) - 1);
	const char *from = NULL;

	if (fd >= 0)
		close(fd);
	if (n <= 2)
		return false;

	head[n] = 0;
	if (head[0] == '#' && head[1] == '!')
		from = head + 2 + strspn(head + 2, " \t");
	else if (n > (ssize_t)sizeof(Elf64_Ehdr) && !memcmp(head, ELFMAG, SELFMAG))
		from = elf_interpreter(head, (size_t)n);
	if (!from || !*from)
		return false;

	snprintf(into, room, "%.*s", (int)strcspn(from, " \t\r\n"), from);
	return true;
}

static void explain_execute(struct cs_spawn *s, const struct launch *l)
{
	const char *name = s->argv[0];
	char interpreter[100];

	switch (l->error) {
	case ENOENT:
		if (!l->exists)
			snprintf(s->words, sizeof(s->words), "%.100s: not found in the guest",
				 name);
		else if (find_interpreter(l->tried, interpreter, sizeof(interpreter)))
			snprintf(s->words, sizeof(s->words),
				 "%.60s: cannot execute: its interpreter %.60s is not there (is "
				 "there a libc in this root?)",
				 name, interpreter);
		else
			snprintf(s->words, sizeof(s->words),
				 "%.60s: cannot execute: no interpreter (is there a libc in this "
				 "root?)",
				 name);
		break;
	case EACCES:
		snprintf(s->words, sizeof(s->words),
			 "%.80s: cannot execute: no permission (a folder, or not executable?)",
			 name);
		break;
	case ENOEXEC:
		snprintf(s->words, sizeof(s->words),
			 "%.80s: cannot execute: not a program for this machine (no #! line?)",
			 name);
		break;
	default:
		snprintf(s->words, sizeof(s->words), "%.80s: cannot execute: %s", name,
			 strerror(l->error));
	}
}

static void explain(struct cs_spawn *s, const struct launch *l)
{
	s->error = l->error;

	if (l->step == STEP_EXECUTE)
		explain_execute(s, l);
	else if (l->step == STEP_FOLDER)
		snprintf(s->words, sizeof(s->words), "folder %.100s: %s", s->folder,
			 strerror(l->error));
	else
		snprintf(s->words, sizeof(s->words), "cannot %s: %s",
			 l->step == STEP_USER ? "become that user" : "set up the process",
			 strerror(l->error));
}

static const char *env_find(char *const *env, const char *name)
{
	size_t n = strlen(name);

	for (; env && *env; env++) {
		if (!strncmp(*env, name, n) && (*env)[n] == '=')
			return *env + n + 1;
	}

	return NULL;
}

/* The defaults that (env) does not have itself. Strings live in (text). */
static size_t env_defaults(struct cs_agent *a, const struct cs_spawn *s, char **into,
			   char (*text)[272])
{
	const char *const name[] = { "PATH", "HOME", "TERM", "HOSTNAME", "USER" };
	const char *const value[] = { PATH_DEFAULT, *s->user.home ? s->user.home : "/root", "linux",
				      a->config.hostname, s->user.name };
	size_t n = 0;

	for (size_t i = 0; i < 5; i++) {
		if (!*value[i] || env_find(s->env, name[i]))
			continue;
		snprintf(text[n], sizeof(text[n]), "%s=%s", name[i], value[i]);
		into[n] = text[n];
		n++;
	}

	return n;
}

/* vfork() by clone3(2), which can do more: the pid, 0, or -errno. The child returns first and runs
 * on over the stack, so the way back to our caller is kept in a register that the call preserves.
 */
static __attribute__((naked, noinline, returns_twice)) long vfork_as(struct cs_clone *how,
								     size_t bytes)
{
	__asm__("pop %rdx\n\t"
		"mov $435, %eax\n\t"
		"syscall\n\t"
		"push %rdx\n\t"
		"ret");
}

/* A separate frame, never inlined: what the child does to its stack must not be the parent's. */
static __attribute__((noinline)) pid_t launch(struct cs_agent *a, struct launch *l, int cgroup)
{
	struct cs_clone how = { .flags = CLONE_VM | CLONE_VFORK | CS_CLONE_INTO_CGROUP,
				.exit_signal = SIGCHLD,
				.cgroup = (uint64_t)cgroup };
	long pid = -ENOSYS;

	/* Born there: to move it costs much more, the kernel then waits for all CPUs. */
	if (cgroup >= 0 && !a->freezer.no_clone) {
		pid = vfork_as(&how, sizeof(how));
		if (pid == 0)
			child(l);
		a->freezer.no_clone = pid == -ENOSYS || pid == -EINVAL || pid == -E2BIG;
	}
	if (pid < 0 && pid != -EAGAIN && pid != -ENOMEM) {
		l->cgroup = cgroup;
		pid = vfork();
		if (pid == 0)
			child(l);
		pid = pid < 0 ? -errno : pid;
	}
	return (pid_t)pid;
}

pid_t cs_spawn_run(struct cs_agent *a, struct cs_spawn *s)
{
	struct launch l = { .spawn = s, .argv = s->argv, .files = a->child_files, .cgroup = -1 };
	char text[5][272];
	size_t n = 0, given = 0;
	const char *path;
	char **env;
	pid_t pid;

	/* Born frozen, it would never execute, and we wait for that. */
	if (a->freezer.state != CS_FREEZER_OFF && !s->hook) {
		s->error = EAGAIN;
		snprintf(s->words, sizeof(s->words), "the guest is being saved");
		return -EAGAIN;
	}
	cs_identity_settle(a);
	while (s->env && s->env[given])
		given++;
	env = calloc(given + 6, sizeof(*env));
	if (!env) {
		s->error = ENOMEM;
		snprintf(s->words, sizeof(s->words), "the guest has no memory left");
		return -ENOMEM;
	}

	n = env_defaults(a, s, env, text);
	if (given)
		memcpy(env + n, s->env, given * sizeof(*env));
	path = env_find(env, "PATH");
	l.search = path ? path : PATH_DEFAULT;
	l.env = env;
	l.change_user = s->user.uid || s->user.gid || s->user.n_groups;
	l.adjust_oom = a->role == CS_ROLE_UNDER_INIT;

	pid = launch(a, &l, s->hook ? a->freezer.hooks : a->freezer.guest);
	if (pid < 0)
		l.error = -pid;
	free(env);
	if (l.astray && !s->hook)
		cs_freezer_leak(a);
	if (!l.error)
		return pid;

	/* A child that did not get as far is reaped with all others. */
	explain(s, &l);
	return -l.error;
}
