/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest really costs: read from /proc, nothing derived. All figures are bytes unless named
 * otherwise. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

/* Of one process (Documentation/filesystems/proc.rst). */
struct cs_meter_process {
	uint64_t rss_bytes;           /* smaps_rollup: Rss */
	uint64_t pss_bytes;           /* Pss: shared pages divided among those who map them */
	uint64_t pss_anon_bytes;      /* Pss_Anon: of that, no page cache */
	uint64_t private_dirty_bytes; /* Private_Dirty: what would come back if it died */
	uint64_t page_table_bytes;    /* status: VmPTE; the host's, not KVM's */
	uint64_t cpu_ms;              /* stat: user and system time of all threads */
};

/* (proc): "/proc", or a folder like it. Read it as root, or of one's own processes (-EACCES).
 * -ESRCH: no such process, or dead; -EBADMSG: a figure is missing or is none. Costs a walk over the
 * process's page tables: some 10 us a resident MiB. */
int cs_meter_process(const char *proc, pid_t pid, struct cs_meter_process *ret, struct cs_err *err);

/* Private memory of a process, by its counters (statm): cheap, so for looking often. What the
 * kernel merges is counted in full, zero pages that it merged are not. -ESRCH, -EBADMSG. */
int cs_meter_private(const char *proc, pid_t pid, uint64_t *ret_bytes);

/* What merging does for a process, from ksm_stat (Linux 6.1; to be read as root). What the kernel
 * does not tell is CS_KSM_UNKNOWN (ksm/ksm.h). */
struct cs_meter_merging {
	int64_t tracked_pages; /* KSM keeps 64 bytes for each */
	int64_t merged_pages;  /* those that others have, too; the one that is kept is counted also
				*/
	int64_t zero_pages;
	int64_t profit_bytes; /* may be negative */
};

/* -EOPNOTSUPP: the kernel has no such file; -ESRCH, -EACCES, -EBADMSG. Cheap. */
int cs_meter_merging(const char *proc, pid_t pid, struct cs_meter_merging *ret);

/* Of the host, from meminfo. */
struct cs_meter_host {
	uint64_t total_bytes;          /* MemTotal */
	uint64_t available_bytes;      /* MemAvailable */
	uint64_t anon_bytes;           /* AnonPages */
	uint64_t cached_bytes;         /* Cached */
	uint64_t slab_bytes;           /* Slab */
	uint64_t kernel_stack_bytes;   /* KernelStack */
	uint64_t page_table_bytes;     /* PageTables */
	uint64_t sec_page_table_bytes; /* SecPageTables: KVM's; 0 before Linux 6.1 */
	uint64_t percpu_bytes;         /* Percpu */
};

int cs_meter_host(const char *proc, struct cs_meter_host *ret, struct cs_err *err);
