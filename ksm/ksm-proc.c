/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of /proc decides whether merging pays: free memory, pressure, and what ksmd costs. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "ksm/ksm-private.h"
#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/proc.h"

#define FILE_BYTES_MAX (64 * CS_KIB)
#define KTHREADD       "\nPPid:\t2\n" /* every kernel thread's parent */

/* The digits behind the first (before) of a line that begins with (line); not known otherwise. */
static int64_t number_after(const char *text, const char *line, const char *before)
{
	const size_t length = strlen(line);
	char digits[24];
	int64_t value;
	size_t n;

	while (strncmp(text, line, length) != 0) {
		text = strchr(text, '\n');
		if (!text)
			return CS_KSM_UNKNOWN;
		text++;
	}
	text += length;
	n = strcspn(text, "\n");
	if (before) {
		const char *found = strstr(text, before);

		if (!found || found >= text + n)
			return CS_KSM_UNKNOWN;
		text = found + strlen(before);
	}
	text += strspn(text, " \t");
	n = strspn(text, "0123456789");
	/* A figure at the very end was cut off: all of these files end with a newline. */
	if (!n || n >= sizeof(digits) || !text[n] || !strchr(" \n", text[n]))
		return CS_KSM_UNKNOWN;
	memcpy(digits, text, n);
	digits[n] = '\0';
	return cs_ksm_parse(digits, false, &value) == 0 ? value : CS_KSM_UNKNOWN;
}

static int64_t times(int64_t value, int64_t factor)
{
	int64_t product;

	if (value == CS_KSM_UNKNOWN || __builtin_mul_overflow(value, factor, &product))
		return CS_KSM_UNKNOWN;
	return product;
}

static char *read_text(const struct cs_ksm_proc *proc, const char *name)
{
	char *text = NULL;

	return cs_read_file_at(proc->fd, name, FILE_BYTES_MAX, &text, NULL) < 0 ? NULL : text;
}

static void sample_memory(const struct cs_ksm_proc *proc, struct cs_ksm_sample *sample)
{
	cs_auto(cs_mem_freep) char *text = read_text(proc, "meminfo");

	if (!text)
		return;
	sample->total_bytes = times(number_after(text, "MemTotal:", NULL), 1024);
	sample->available_bytes = times(number_after(text, "MemAvailable:", NULL), 1024);
	sample->anon_bytes = times(number_after(text, "AnonPages:", NULL), 1024);
}

static void sample_pressure(const struct cs_ksm_proc *proc, struct cs_ksm_sample *sample)
{
	cs_auto(cs_mem_freep) char *text = read_text(proc, "pressure/memory");

	if (!text)
		return;
	sample->some_us = number_after(text, "some ", "total=");
	sample->full_us = number_after(text, "full ", "total=");
}

/* To the nanosecond where the scheduler keeps it (CONFIG_SCHED_INFO), else to the clock tick. */
static void sample_ksmd(const struct cs_ksm_proc *proc, struct cs_ksm_sample *sample)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char name[40];
	int64_t ns;
	size_t n;

	if (!proc->ksmd)
		return;
	snprintf(name, sizeof(name), "%d/schedstat", (int)proc->ksmd);
	text = read_text(proc, name);
	n = text ? strspn(text, "0123456789") : 0;
	if (n && text[n] == ' ') {
		text[n] = '\0';
		if (cs_ksm_parse(text, false, &ns) == 0) {
			sample->ksmd_us = ns / 1000;
			return;
		}
	}

	struct cs_proc_stat stat;
	const long hz = sysconf(_SC_CLK_TCK);
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", proc->fd);
	if (hz > 0 && cs_proc_stat(path, proc->ksmd, &stat) == 0 &&
	    stat.user_ticks <= INT64_MAX / 2000000 && stat.system_ticks <= INT64_MAX / 2000000)
		sample->ksmd_us = (int64_t)(stat.user_ticks + stat.system_ticks) * 1000000 / hz;
}

void cs_ksm_proc_sample(const struct cs_ksm_proc *proc, struct cs_ksm_sample *sample)
{
	cs_auto(cs_mem_freep) char *text = read_text(proc, "vmstat");

	if (text)
		sample->cow_ksm = number_after(text, "cow_ksm ", NULL);
	sample_memory(proc, sample);
	sample_pressure(proc, sample);
	sample_ksmd(proc, sample);
}

/* Anybody may call a process ksmd; a kernel thread's parent is kthreadd. */
static bool is_ksmd(const struct cs_ksm_proc *proc, const char *pid)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char name[NAME_MAX + 16];

	snprintf(name, sizeof(name), "%s/comm", pid);
	text = read_text(proc, name);
	if (!text || strcmp(text, "ksmd\n") != 0)
		return false;
	free(cs_steal(text));
	snprintf(name, sizeof(name), "%s/status", pid);
	text = read_text(proc, name);
	return text && strstr(text, KTHREADD);
}

int cs_ksm_proc_open(const char *path, struct cs_ksm_proc *ret)
{
	struct cs_ksm_proc proc = { .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	const struct dirent *entry;
	uint64_t pid;

	if (proc.fd < 0)
		return -errno;
	dir = opendir(path);
	while (dir && !proc.ksmd && (entry = readdir(dir)) != NULL) {
		if (cs_parse_u64(entry->d_name, INT32_MAX, &pid) == 0 &&
		    is_ksmd(&proc, entry->d_name))
			proc.ksmd = (pid_t)pid;
	}
	*ret = proc;
	return 0;
}
