/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What can be asked of a process often, since the kernel need not walk its memory for it. */
#include "ksm/meter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "ksm/ksm.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define FILE_BYTES_MAX 4096

static int read_of(const char *proc, pid_t pid, const char *name, char **ret)
{
	char path[512];
	int r;

	if (pid <= 0)
		return -ESRCH;
	if ((size_t)snprintf(path, sizeof(path), "%s/%d/%s", proc, (int)pid, name) >= sizeof(path))
		return -ENAMETOOLONG;
	r = cs_read_file_at(AT_FDCWD, path, FILE_BYTES_MAX, ret, NULL);
	return r == -ENOENT ? -ESRCH : r;
}

static bool exists(const char *proc, pid_t pid)
{
	char path[512];

	return pid > 0 &&
	       (size_t)snprintf(path, sizeof(path), "%s/%d", proc, (int)pid) < sizeof(path) &&
	       faccessat(AT_FDCWD, path, F_OK, 0) == 0;
}

/* "1234 567 ...": resident pages, and those of them that are of files. */
int cs_meter_private(const char *proc, pid_t pid, uint64_t *ret_bytes)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char *rest = NULL, *resident, *file;
	uint64_t pages, of_files;
	int r;

	r = read_of(proc, pid, "statm", &text);
	if (r < 0)
		return r;
	strtok_r(text, " \n", &rest);
	resident = strtok_r(NULL, " \n", &rest);
	file = strtok_r(NULL, " \n", &rest);
	if (!file || cs_parse_u64(resident, INT64_MAX / 4096, &pages) < 0 ||
	    cs_parse_u64(file, INT64_MAX / 4096, &of_files) < 0 || !strtok_r(NULL, " \n", &rest))
		return -EBADMSG;
	/* They are counted one after the other while the process runs. */
	*ret_bytes = pages > of_files ? (pages - of_files) * 4096 : 0;
	return 0;
}

/* Lines "key value", or "key: value" (Linux 6.15); what stands there is a number, or a word. */
int cs_meter_merging(const char *proc, pid_t pid, struct cs_meter_merging *ret)
{
	struct cs_meter_merging found = { CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, CS_KSM_UNKNOWN,
					  CS_KSM_UNKNOWN };
	const struct {
		const char *key;
		int64_t *to;
	} keys[] = {
		{ "ksm_rmap_items", &found.tracked_pages },
		{ "ksm_merging_pages", &found.merged_pages },
		{ "ksm_zero_pages", &found.zero_pages },
		{ "ksm_process_profit", &found.profit_bytes },
	};
	cs_auto(cs_mem_freep) char *text = NULL;
	char *line, *rest = NULL;
	int r;

	r = read_of(proc, pid, "ksm_stat", &text);
	if (r == -ESRCH && exists(proc, pid))
		r = -EOPNOTSUPP;
	if (r < 0)
		return r;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *value = strpbrk(line, ": ");

		if (!value)
			return -EBADMSG;
		*value++ = '\0';
		value += strspn(value, " ");
		for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
			if (strcmp(keys[i].key, line) == 0 &&
			    cs_ksm_parse(value, keys[i].to == &found.profit_bytes, keys[i].to) < 0)
				return -EBADMSG;
		}
	}
	*ret = found;
	return 0;
}
