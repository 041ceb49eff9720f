/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* By vfork: on a slow guest kernel a fork's copied page tables and broken pages cost more than the
 * rest of an exec. The child borrows our memory until it executes, so it makes only raw system
 * calls, and its failure is simply written into the shared struct: when vfork returns here, the
 * program has been executed or (error) says why not. */
#include "vmm/guest/agent/spawn.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/guest/agent/file.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum step { STEP_SETUP, STEP_USER, STEP_FOLDER, STEP_EXECUTE };

/* What the child works with, and tells back. */
struct launch {
	const struct cs_spawn *spawn;
	char *const *argv, *const *env;
	const char *search; /* a PATH */
	const uint64_t *files;
	bool change_user, adjust_oom;
	volatile int error;
	volatile enum step step;
	const char *volatile tried; /* what it last asked the kernel to execute */
	volatile bool exists;       /* ... and that file is there */
	char path[1024];
};

/* ---- in the child: no libc but wrappers of one system call ---- */

static void child_user(struct launch *l)
{
	const struct cs_user *u = &l->spawn->user;

	/* Not musl's setuid() and the like: they would reach out to all threads of "this process".
	 */
	if (syscall(SYS_setgroups, u->n_groups, u->groups) < 0 ||
	    syscall(SYS_setresgid, u->gid, u->gid, u->gid) < 0 ||
	    syscall(SYS_setresuid, u->uid, u->uid, u->uid) < 0)
		l->error = errno;
}

static void child_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	/* If it fails the process is as hard to kill as we are: no reason not to run it. */
	if (fd >= 0) {
		cs_file_write_all(fd, "0", 1);
		close(fd);
	}
}

/* Join a folder of the PATH and the name. false: too long. */
static bool join(char *into, size_t room, const char *folder, size_t n, const char *name)
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
static int child_try(struct launch *l, const char *path)
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
static void child_execute(struct launch *l)
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

static __attribute__((noreturn)) void child(struct launch *l)
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
	if (l->adjust_oom)
		child_oom();

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

/* A separate frame, never inlined: what the child does to its stack must not be the parent's. */
static __attribute__((noinline)) pid_t launch(struct launch *l)
{
	pid_t pid = vfork();

	if (pid == 0)
		child(l);
	return pid;
}

pid_t cs_spawn_run(struct cs_agent *a, struct cs_spawn *s)
{
	struct launch l = { .spawn = s, .argv = s->argv, .files = a->child_files };
	char text[5][272];
	size_t n = 0, given = 0;
	const char *path;
	char **env;
	pid_t pid;

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

	pid = launch(&l);
	if (pid < 0)
		l.error = errno;
	free(env);
	if (!l.error)
		return pid;

	/* A child that did not get as far is reaped with all others. */
	explain(s, &l);
	return -l.error;
}
