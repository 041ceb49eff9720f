/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/meter.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/proc.h"

#define FILE_BYTES_MAX (64 * CS_KIB)

/* A line "KEY:   123 kB" of a file, and where its figure goes. */
struct figure {
	const char *key;
	size_t offset;   /* of the uint64_t in the result */
	bool optional;   /* older kernels have it not */
	uint64_t absent; /* what it is then */
};

/* The text behind "KEY:" at the beginning of a line; NULL: no such line. */
static const char *find_line(const char *text, const char *key)
{
	size_t length = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, length) == 0 && line[length] == ':')
			return line + length + 1;
		if (!*line)
			return NULL;
	}
	return NULL;
}

/* "   123 kB" up to the end of the line; a line that was cut off has no end. */
static int parse_figure(const char *text, uint64_t *ret_bytes)
{
	char digits[24];
	uint64_t kib;
	size_t n;
	int r;

	text += strspn(text, " \t");
	n = strspn(text, "0123456789");
	if (n >= sizeof(digits) || strncmp(text + n, " kB\n", 4) != 0)
		return -EBADMSG;
	memcpy(digits, text, n);
	digits[n] = '\0';
	r = cs_parse_u64(digits, UINT64_MAX / CS_KIB, &kib);
	if (r < 0)
		return -EBADMSG;
	*ret_bytes = kib * CS_KIB;
	return 0;
}

struct source {
	const char *name; /* for words */
	const struct figure *figures;
	size_t n;
};

static int parse_file(const struct source *source, const char *text, void *ret, struct cs_err *err)
{
	const char *line;
	uint64_t bytes;

	for (size_t i = 0; i < source->n; i++) {
		const struct figure *figure = &source->figures[i];

		line = find_line(text, figure->key);
		if (!line && figure->optional) {
			bytes = figure->absent;
		} else if (!line || parse_figure(line, &bytes) < 0) {
			return cs_fail(err, EBADMSG, "%s: '%s' is missing or no number of kB",
				       source->name, figure->key);
		}
		memcpy((char *)ret + figure->offset, &bytes, sizeof(bytes));
	}
	return 0;
}

static int read_figures(int dirfd, const struct source *source, void *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = cs_read_file_at(dirfd, source->name, FILE_BYTES_MAX, &text, NULL);
	if (r == -ENOENT)
		r = -ESRCH;
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot read '%s'", source->name);
	return parse_file(source, text, ret, err);
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PROCESS(key, field)                                                                        \
	{                                                                                          \
		key, offsetof(struct cs_meter_process, field), false                               \
	}
#define HOST(key, field, optional)                                                                 \
	{                                                                                          \
		key, offsetof(struct cs_meter_host, field), optional                               \
	}

static int read_process(int dirfd, struct cs_meter_process *ret, struct cs_err *err)
{
	static const struct figure rollup[] = {
		PROCESS("Rss", rss_bytes),
		PROCESS("Pss", pss_bytes),
		PROCESS("Pss_Anon", pss_anon_bytes),
		PROCESS("Anonymous", anon_bytes),
		{ "KSM", offsetof(struct cs_meter_process, ksm_bytes), true, CS_METER_UNKNOWN },
		PROCESS("Private_Dirty", private_dirty_bytes),
	};
	static const struct figure status[] = { PROCESS("VmPTE", page_table_bytes) };
	const struct source sources[] = {
		{ "smaps_rollup", rollup, COUNT(rollup) },
		{ "status", status, COUNT(status) },
	};
	int r;

	r = read_figures(dirfd, &sources[0], ret, err);
	return r < 0 ? r : read_figures(dirfd, &sources[1], ret, err);
}

static int read_cpu(const char *proc, pid_t pid, uint64_t *ret_ms)
{
	long hz = sysconf(_SC_CLK_TCK);
	struct cs_proc_stat stat;
	uint64_t ticks;
	int r;

	r = cs_proc_stat(proc, pid, &stat);
	if (r < 0)
		return r;
	if (hz <= 0 || !cs_add_u64(stat.user_ticks, stat.system_ticks, &ticks) ||
	    !cs_mul_u64(ticks, 1000, &ticks))
		return -EBADMSG;
	*ret_ms = ticks / (uint64_t)hz;
	return 0;
}

int cs_meter_process(const char *proc, pid_t pid, struct cs_meter_process *ret, struct cs_err *err)
{
	struct cs_meter_process found = { .rss_bytes = 0 };
	cs_auto(cs_fd_closep) int dirfd = -1;
	char path[PATH_MAX];
	int r;

	r = snprintf(path, sizeof(path), "%s/%d", proc, (int)pid);
	if (r < 0 || (size_t)r >= sizeof(path))
		return cs_fail_errno(err, ENAMETOOLONG, "process %d", (int)pid);
	dirfd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pid <= 0 || (dirfd < 0 && errno == ENOENT))
		return cs_fail(err, ESRCH, "process %d: there is none", (int)pid);
	if (dirfd < 0)
		return cs_fail_errno(err, errno, "process %d", (int)pid);
	r = read_process(dirfd, &found, err);
	if (r < 0)
		return cs_fail_in(err, r, "process %d", (int)pid);
	r = read_cpu(proc, pid, &found.cpu_ms);
	if (r < 0)
		return cs_fail_errno(err, -r, "process %d: cannot read 'stat'", (int)pid);
	*ret = found;
	return 0;
}

int cs_meter_host(const char *proc, struct cs_meter_host *ret, struct cs_err *err)
{
	static const struct figure meminfo[] = {
		HOST("MemTotal", total_bytes, false),
		HOST("MemAvailable", available_bytes, false),
		HOST("AnonPages", anon_bytes, false),
		HOST("Cached", cached_bytes, false),
		HOST("Buffers", buffer_bytes, true),
		HOST("Slab", slab_bytes, false),
		HOST("KernelStack", kernel_stack_bytes, false),
		HOST("PageTables", page_table_bytes, false),
		HOST("SecPageTables", sec_page_table_bytes, true),
		HOST("Percpu", percpu_bytes, false),
		HOST("MemFree", free_bytes, false),
		HOST("Active(file)", active_file_bytes, false),
		HOST("Inactive(file)", inactive_file_bytes, false),
		HOST("Shmem", shmem_bytes, false),
		HOST("KReclaimable", reclaimable_bytes, true),
		HOST("SUnreclaim", unreclaimable_bytes, false),
		HOST("VmallocUsed", vmalloc_bytes, true),
	};
	const struct source source = { "meminfo", meminfo, COUNT(meminfo) };
	struct cs_meter_host found = { .total_bytes = 0 };
	cs_auto(cs_fd_closep) int dirfd = -1;
	int r;

	dirfd = openat(AT_FDCWD, proc, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return cs_fail_errno(err, errno, "cannot open '%s'", proc);
	r = read_figures(dirfd, &source, &found, err);
	if (r < 0)
		return cs_fail_in(err, r, "host memory");
	*ret = found;
	return 0;
}
