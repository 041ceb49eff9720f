/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define STAT_BYTES_MAX 4096
#define FIELD_STATE    3
#define FIELD_USER     14
#define FIELD_SYSTEM   15
#define FIELD_START    22

static int parse_stat(char *text, struct cs_proc_stat *ret)
{
	struct cs_proc_stat stat = { .state = 0 };
	/* Field 2 is the name in parentheses, and may hold blanks, parentheses and newlines; behind
	 * its last ')' there are only numbers and the state. */
	char *field = strrchr(text, ')'), *rest = NULL;
	int r;

	field = field ? strtok_r(field + 1, " \n", &rest) : NULL;
	for (int i = FIELD_STATE; field && i <= FIELD_START; i++) {
		r = 0;
		if (i == FIELD_STATE) {
			stat.state = field[0];
			r = field[1] ? -EINVAL : 0;
		} else if (i == FIELD_USER) {
			r = cs_parse_u64(field, INT64_MAX, &stat.user_ticks);
		} else if (i == FIELD_SYSTEM) {
			r = cs_parse_u64(field, INT64_MAX, &stat.system_ticks);
		} else if (i == FIELD_START) {
			r = cs_parse_u64(field, INT64_MAX, &stat.start_ticks);
			if (r == 0) {
				*ret = stat;
				return 0;
			}
		}
		if (r < 0)
			break;
		field = strtok_r(NULL, " \n", &rest);
	}
	return -EBADMSG;
}

int cs_proc_stat(const char *proc, pid_t pid, struct cs_proc_stat *ret)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char path[PATH_MAX];
	int r;

	if (pid <= 0)
		return -ESRCH;
	r = snprintf(path, sizeof(path), "%s/%d/stat", proc, (int)pid);
	if (r < 0 || (size_t)r >= sizeof(path))
		return -ENAMETOOLONG;
	r = cs_read_file_at(AT_FDCWD, path, STAT_BYTES_MAX, &text, NULL);
	if (r == -ENOENT)
		return -ESRCH;
	if (r < 0)
		return r;
	return parse_stat(text, ret);
}
