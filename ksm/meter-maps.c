/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of a monitor's memory is its own, mapping by mapping. */
#include "ksm/meter.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define FILE_BYTES_MAX (4 * CS_MIB)

struct mapping {
	uint64_t pss_bytes, anon_bytes;
	bool begun, pss, anon;
};

/* "  123 kB" */
static bool parse_kib(char *words, uint64_t *ret_bytes)
{
	char *rest = NULL, *digits = strtok_r(words, " \t", &rest);
	uint64_t kib;

	if (!digits || cs_parse_u64(digits, UINT64_MAX / CS_KIB / 1024, &kib) < 0 ||
	    strcmp(rest + strspn(rest, " \t"), "kB") != 0)
		return false;
	*ret_bytes = kib * CS_KIB;
	return true;
}

/* " rd wr mr mw me ac nh " */
static bool has_flag(const char *flags, const char *flag)
{
	const char *at = strstr(flags, flag);

	return at && at > flags && at[-1] == ' ' && (at[2] == ' ' || !at[2]);
}

/* A line of smaps, without its end: a head, or "Key: words"; VmFlags is the last of a mapping. */
static int take_line(char *line, struct mapping *m, uint64_t *sum)
{
	char *words = strchr(line, ':');

	if (!words || words[1] != ' ') {
		if (!strchr(line, '-')) /* "55d0-55e0 r-xp 00000000 08:01 42  /a/file: odd" */
			return -EBADMSG;
		*m = (struct mapping){ .begun = true };
		return 0;
	}
	*words++ = '\0';
	if (strcmp(line, "Pss") == 0)
		m->pss = parse_kib(words, &m->pss_bytes);
	else if (strcmp(line, "Anonymous") == 0)
		m->anon = parse_kib(words, &m->anon_bytes);
	if (strcmp(line, "VmFlags") != 0)
		return 0;
	if (!m->begun || !m->pss || !m->anon)
		return -EBADMSG;
	/* What monitors of one spawn have in common since they were forked is divided among them
	 * (Pss), and so is what of the mapping is a file's, which is not asked for here. */
	if (!has_flag(words, "nh"))
		*sum += m->pss_bytes < m->anon_bytes ? m->pss_bytes : m->anon_bytes;
	*m = (struct mapping){ .begun = false };
	return 0;
}

int cs_meter_monitor(const char *proc, pid_t pid, uint64_t *ret_bytes)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	struct mapping mapping = { .begun = false };
	char path[512], *rest = NULL;
	uint64_t sum = 0;
	int r;

	if (pid <= 0)
		return -ESRCH;
	if ((size_t)snprintf(path, sizeof(path), "%s/%d/smaps", proc, (int)pid) >= sizeof(path))
		return -ENAMETOOLONG;
	r = cs_read_file_at(AT_FDCWD, path, FILE_BYTES_MAX, &text, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r == -EFBIG || r == -E2BIG ? -EBADMSG : r;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		r = take_line(line, &mapping, &sum);
		if (r < 0)
			return r;
	}
	/* A process that ends has no mappings; one in the middle was cut off. */
	if (mapping.begun)
		return -EBADMSG;
	*ret_bytes = sum;
	return 0;
}
