/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/cmd-running.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "cow/life.h"
#include "store/base/num.h"
#include "store/base/own.h"

/* "PID-OWNER-NAME" (cow/life.h) */
static bool parse_mark(const char *mark, pid_t *ret_pid, const char **ret_name)
{
	const char *dash = strchr(mark, '-'), *name = dash ? strchr(dash + 1, '-') : NULL;
	char digits[16];
	uint64_t pid;

	if (!name || (size_t)(dash - mark) >= sizeof(digits))
		return false;
	memcpy(digits, mark, (size_t)(dash - mark));
	digits[dash - mark] = '\0';
	if (cs_parse_u64(digits, INT32_MAX, &pid) < 0 || !pid)
		return false;
	*ret_pid = (pid_t)pid;
	*ret_name = name + 1;
	return true;
}

int cs_running_each(struct cs_store *store, cs_running_fn fn, void *arg, struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	const struct dirent *entry;
	int fd, r;

	r = cs_marks_open(store, &fd, err);
	if (r < 0)
		return r;
	dir = fdopendir(fd);
	if (!dir) {
		r = cs_fail_errno(err, errno, "cannot see which guests run");
		cs_fd_closep(&fd);
		return r;
	}
	while ((entry = readdir(dir)) != NULL) {
		const char *name;
		pid_t pid;

		if (!parse_mark(entry->d_name, &pid, &name))
			continue;
		r = fn(arg, pid, name);
		if (r < 0)
			return cs_fail_errno(err, -r, "guest '%s'", name);
		if (r > 0)
			return r;
	}
	return 0;
}
