/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the root wants done at wake-up, before its own processes run on: the executable files of
 * /etc/clearstore/wake.d, one after the other. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/guest/agent/agent.h"
#include "vmm/guest/agent/spawn.h"

#define HOOKS      "/etc/clearstore/wake.d"
#define HOOKS_MAX  64
#define TIMEOUT_MS 30000

/* ---- before ---- */

/* Not what editors and package managers leave behind. */
static bool is_hook(int folder, const char *name)
{
	size_t n = strlen(name);
	struct stat st;

	return *name != '.' && name[n - 1] != '~' && !strstr(name, ".dpkg-") &&
	       !fstatat(folder, name, &st, 0) && S_ISREG(st.st_mode) && (st.st_mode & 0111);
}

static int compare(const void *x, const void *y)
{
	return strcmp(*(char *const *)x, *(char *const *)y);
}

void cs_hooks_prepare(struct cs_agent *a)
{
	DIR *folder = opendir(HOOKS);
	char **hooks = folder ? calloc(HOOKS_MAX + 1, sizeof(*hooks)) : NULL;
	struct dirent *entry;
	size_t n = 0;

	while (hooks && n < HOOKS_MAX && (entry = readdir(folder))) {
		if (is_hook(dirfd(folder), entry->d_name) &&
		    asprintf(&hooks[n], HOOKS "/%s", entry->d_name) > 0)
			n++;
	}
	if (folder)
		closedir(folder);
	if (n) {
		qsort(hooks, n, sizeof(*hooks), compare);
	} else {
		free(hooks);
		hooks = NULL;
	}
	a->wake.hooks = hooks;
}

/* ---- then ---- */

/* The wait status of (pid); -1: it did not end in time. SIGCHLD is blocked, and whoever else ends
 * meanwhile is looked for later. */
static int wait_for(pid_t pid)
{
	const uint64_t end = cs_agent_now() + TIMEOUT_MS;
	sigset_t child;
	int status;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		uint64_t now = cs_agent_now(), left = end - now;
		const struct timespec patience = { .tv_sec = (time_t)(left / 1000),
						   .tv_nsec = (long)(left % 1000) * 1000000 };

		if (now >= end)
			return -1;
		sigtimedwait(&child, NULL, &patience);
	}
	return status;
}

static void run(struct cs_agent *a, char *path, char *const *env)
{
	char *const argv[] = { path, NULL };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct cs_spawn s = { .argv = argv,
			      .env = env,
			      .folder = "/",
			      .hook = true,
			      .fd = { null >= 0 ? null : STDIN_FILENO, STDERR_FILENO,
				      STDERR_FILENO } };
	pid_t pid = cs_spawn_run(a, &s);
	int status = 0;

	if (pid < 0) {
		cs_agent_trouble(a, "%s", s.words);
	} else {
		status = wait_for(pid);
		if (status == -1) {
			kill(-pid, SIGKILL);
			cs_freezer_adopt(a, true);
			waitpid(pid, NULL, 0);
			cs_agent_trouble(a, "%s: not done within %u s, ended", path,
					 TIMEOUT_MS / 1000u);
		} else if (WIFSIGNALED(status)) {
			cs_agent_trouble(a, "%s: ended by signal %d", path, WTERMSIG(status));
		} else if (WEXITSTATUS(status)) {
			cs_agent_trouble(a, "%s: ended with status %d", path, WEXITSTATUS(status));
		}
	}
	if (null >= 0)
		close(null);
}

void cs_hooks_run(struct cs_agent *a)
{
	char name[32 + sizeof(a->config.hostname)], woken[] = "CLEARSTORE_WOKEN=1";
	size_t n = 0;
	char **env;

	/* Who was only asleep has nothing to make anew. */
	if (!a->wake.hooks || a->config.flags & CS_WIRE_CONFIG_SAME)
		return;

	/* The environment of CONFIG too: it is the only way to tell something to who already runs.
	 */
	while (a->config.env && a->config.env[n])
		n++;
	env = calloc(n + 3, sizeof(*env));
	if (!env) {
		cs_agent_trouble(a, HOOKS ": not run, the guest has no memory left");
		return;
	}
	snprintf(name, sizeof(name), "CLEARSTORE_HOSTNAME=%s", a->config.hostname);
	env[0] = woken;
	env[1] = name;
	if (n)
		memcpy(env + 2, a->config.env, n * sizeof(*env));
	cs_identity_settle(a);
	for (char **hook = a->wake.hooks; *hook; hook++)
		run(a, *hook, env);
	free(env);

	cs_freezer_adopt(a, false);
	a->freezer.ended = true;
}
